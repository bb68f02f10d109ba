"""What a reader of the numbers is told, each line when it applies and not otherwise."""

import types

import numpy as np

from utils.cli.retrieval_options import RetrievalOptions
from utils.data.image_sets import ImageSet
from utils.retrieval import evaluation_record, evaluation_stage
from utils.retrieval.evaluation_sets import IndexFacts, Sets
from utils.retrieval.measured import Matches


def lines(
    tmp_path,
    *,
    bad=(),
    left_out=None,
    index=None,
    threshold=0.5,
    scores=((0.9, 0.8),),
    chunks=1,
    **flags,
):
    images = ImageSet(tmp_path, ("a.png",), (1,), bad=tuple(bad))
    indexed = None if index is None else IndexFacts(index)
    sets = Sets(images, [], ImageSet(tmp_path, ("b.png",), (1,)), indexed=indexed)
    request = evaluation_stage.request_of(RetrievalOptions(query_dir="q", val_dir="v", **flags))
    matches = Matches(np.zeros(np.shape(scores), int), np.array(scores), threshold, chunks)
    measured = types.SimpleNamespace(matches=matches)
    folder = tmp_path / "evaluation"
    replaces = folder if folder.exists() else None
    return list(
        evaluation_record.notes_of(request, sets, measured, left_out or {}, replaces=replaces)
    )


def test_nothing_is_said_of_an_ordinary_evaluation(tmp_path):
    assert lines(tmp_path) == []


def test_each_line_has_its_reason(tmp_path):
    damaged = types.SimpleNamespace(
        bad=[], damaged=[("00001.tar", "cut"), ("00007.tar", "cut")], root="/i"
    )
    index = types.SimpleNamespace(
        damaged=[], bad=[("0.tar/x\n", "is truncated"), ("y", "broken")], root="/i"
    )
    one = types.SimpleNamespace(damaged=[], bad=[("y", "broken")], root="/i")
    told = {
        "bad": (lines(tmp_path, bad=[("x.png", "is truncated")]), "skipped: x.png: is truncated"),
        "metric": (lines(tmp_path, left_out={"fid": "no weights"}), "skipped: fid: no weights"),
        "metrics": (
            lines(tmp_path, left_out={"fid": "an index", "mq": "an index"}),
            "skipped: fid, mq: an index",
        ),
        "index": (
            lines(tmp_path, index=index),
            (
                "2 images could not be read when the index was built, first '0.tar/x\\n' "
                "(is truncated); the metadata of /i/shards/*.parquet list all"
            ),
        ),
        "one of the index": (
            lines(tmp_path, index=one),
            (
                "1 image could not be read when the index was built, first 'y' "
                "(broken); the metadata of /i/shards/*.parquet list all"
            ),
        ),
        "damaged": (
            lines(tmp_path, index=damaged),
            (
                "2 tar files could not be read to the end when the index was built, first "
                "'00001.tar'; the images after that point are not measured"
            ),
        ),
        "chunks": (
            lines(tmp_path, similarity_metric="splitloss"),
            "splitloss with 1 chunk equals dotproduct; --num_loss_chunks sets the number of chunks",
        ),
        "threshold": (
            lines(tmp_path, threshold=None, pt_style="dino"),
            (
                "skipped: copy_share: the literature has no threshold for dino; give one with"
                " --copy_threshold"
            ),
        ),
        "equal": (
            lines(tmp_path, scores=[(0.9, 0.9), (0.8, 0.1)]),
            "1 generation has best matches of equal score; the first in order is named",
        ),
        "two equal": (
            lines(tmp_path, scores=[(0.9, 0.9), (0.8, 0.8)]),
            "2 generations have best matches of equal score; the first in order is named",
        ),
    }
    for name, (found, expected) in told.items():
        assert found == [expected], name
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text("{}")
    assert [line.partition(" in ")[0] for line in lines(tmp_path)] == ["the evaluation"]
    assert lines(tmp_path, similarity_metric="splitloss", chunks=2) == lines(tmp_path)
