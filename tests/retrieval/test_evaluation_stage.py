"""A metric with a network of its own, registered by one entry of METRICS: everything else about it
follows from that entry."""

import csv
import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.indices import image_index
from utils.data import image_sets, transforms
from utils.files import whole_files
from utils.retrieval import evaluation_networks, metrics
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.retrieval.evaluation_networks import MetricNetwork
from utils.retrieval.metric_record import Metric

# one candidate: aligning ten takes most of the time of such a test, and other tests are about it
ONE = ("--pt_style", "pixel", "--num_candidates", 1)
FLAGS = (*ONE, "--report_to", "none", "--num_workers", 0, "--cache_dir", "none")
SHA = "ab" * 32


def mean_level(pixels):
    """uint8 [B, H, W, 3] -> [B, 1], in [0, 255]."""
    return pixels.float().mean((1, 2, 3))[:, None]


def build_levels(request):
    return {"levels": Extractor(transforms.to_bytes, mean_level, {"weights_sha256": SHA})}


def levels(measured):
    generated, training = measured.pair("levels", "levels")
    return {"levels_gap": float(generated.mean() - training.mean())}


def register(monkeypatch, *, build=build_levels, **changes):
    """One entry, and nothing else."""
    entry = Metric(
        levels,
        words={"levels_gap": "how much brighter generations are"},
        networks=(MetricNetwork("levels", build),),
        shown=("levels_gap",),
        **changes,
    )
    monkeypatch.setitem(metrics.METRICS, "levels", entry)


@pytest.fixture
def folders(tmp_path):
    """Three generations of level 50, four training images of level 20."""
    for name, count, level in (("g", 3, 50), ("x", 4, 20)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.full((16, 16, 3), level, np.uint8)
            pixels[i, 0] += 2  # no two are equal, and none is of one colour
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path / "g", tmp_path / "x"


@pytest.fixture
def measure(script, tmp_path, folders):
    """measure(name, *flags) -> (the evaluation's folder, its metrics.json, what was printed)."""

    def run(name, *flags, val_dir=folders[1]):
        folder = tmp_path / name
        given = ("--query_dir", folders[0], "--val_dir", val_dir, "--output_dir", folder)
        printed = script("diff_retrieval", *given, *FLAGS, *flags)
        return folder, json.loads((folder / "metrics.json").read_text()), printed

    return run


def test_a_new_metric_is_computed_recorded_explained_and_compared(
    measure, script, tmp_path, monkeypatch
):
    register(monkeypatch)
    one, data, _ = measure("one", "--metrics", "similarity,levels")
    assert data["levels_gap"] == pytest.approx(30, abs=0.1)
    assert data["settings"]["levels"] == {"weights_sha256": SHA}
    assert "how much brighter generations are" in (one / "report.html").read_text()

    def of_other_weights(request):
        return {"levels": Extractor(transforms.to_bytes, mean_level, {"weights_sha256": "f" * 64})}

    register(monkeypatch, build=of_other_weights)
    two, _, _ = measure("two", "--metrics", "similarity,levels")
    compared = ("--compare_runs", one, two, "--output_dir", tmp_path / "compared", "--force")
    printed = script("diff_retrieval", *compared)
    assert "levels.weights_sha256: abababababab (one), ffffffffffff (two)" in printed
    with open(tmp_path / "compared" / "comparison.csv", newline="") as handle:
        assert [float(row["levels_gap"]) for row in csv.DictReader(handle)] == pytest.approx(
            [data["levels_gap"]] * 2
        )
    assert "levels_gap*" in printed.split("\n", 1)[1]


@pytest.mark.parametrize("needs_images", [True, False])
def test_an_index_skips_a_metric_that_reads_training_images_with_a_line(
    measure, refused, folders, tmp_path, monkeypatch, needs_images
):
    """Also where its entry does not say that it needs them."""
    built = []

    def build(request):
        built.append("levels")
        return build_levels(request)

    register(monkeypatch, build=build, needs_images=needs_images)
    index = image_index(tmp_path / "index", image_sets.list_images("--val_dir", folders[1]))
    _, data, printed = measure("of-index", val_dir=index.root)
    assert "levels_gap" not in data
    assert data["left_out"]["levels"].startswith("an index holds one descriptor an image")
    assert re.search(r"^skipped: .*levels.*: an index holds one descriptor", printed, re.MULTILINE)
    assert built == ([] if needs_images else ["levels"])
    line = refused(
        "diff_retrieval",
        *("--query_dir", folders[0], "--val_dir", index.root, "--metrics", "levels"),
        *FLAGS,
    )
    assert "--metrics='levels' cannot be computed: an index holds one descriptor" in line


def test_a_metric_whose_weights_are_missing_is_skipped_or_refused_by_name(
    measure, refused, folders, monkeypatch
):
    def absent(request):
        raise WeightsMissingError("no weights of levels")

    register(monkeypatch, build=absent)
    _, data, printed = measure("one")
    assert data["left_out"]["levels"] == "no weights of levels"
    assert data["settings"]["levels"] is None
    assert "skipped: levels: no weights of levels" in printed
    given = ("--query_dir", folders[0], "--val_dir", folders[1], "--metrics", "levels")
    line = refused("diff_retrieval", *given, *FLAGS)
    assert "--metrics='levels' cannot be computed: no weights of levels" in line


def test_too_few_images_are_refused_before_one_is_read(refused, folders, monkeypatch):
    register(monkeypatch, least=(1, 5))
    given = ("--query_dir", folders[0], "--val_dir", folders[1], "--metrics", "levels")
    line = refused("diff_retrieval", *given, *FLAGS)
    assert "needs 1 generated and 5 training images; there are 3 and 4" in line


def test_matches_repeat_the_scores_of_detectors_that_the_manifest_holds(measure, folders):
    rows = [
        {
            **{"file": f"{i}.png", "index": i, "seed": i, "prompt": "p", "source_prompt": "p"},
            **{"source_image": None, "detections": {"magnitude": i + 0.5}},
        }
        for i in range(3)
    ]
    whole_files.write_manifest(folders[0] / "manifest.json", "generation", images=rows)
    folder, _, _ = measure("one", "--metrics", "similarity", "--num_matches", 2)
    with open(folder / "matches.csv", newline="") as handle:
        scores = [(row["query"], row["detect_magnitude"]) for row in csv.DictReader(handle)]
    assert scores == [(f"{i}.png", f"{i}.5") for i in (0, 0, 1, 1, 2, 2)]


def test_every_network_stores_its_record_in_the_settings(measure):
    """Those that were not built as None, so that a comparison sees it."""
    _, data, _ = measure("one", "--metrics", "similarity")
    names = [name for network in metrics.all_networks() for name in network.names]
    assert sorted(names) == ["clip", "clip_dcr", "fd", "fid", "fid_dcr", "mq"]
    assert {data["settings"][name] for name in names} == {None}


def test_the_examples_of_the_documentation_run(measure, monkeypatch):
    """Both metrics that docs/metrics.md adds, from the command line to metrics.json."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    section = page[page.index("## A new metric") :]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    module = types.ModuleType("example")
    vars(module).update(vars(evaluation_networks) | vars(metrics) | {"transforms": transforms})
    for code in blocks:
        if not code.startswith("def test_"):
            exec(code.replace("    ...\n", ""), vars(module))
            for name, entry in module.METRICS.items():
                monkeypatch.setitem(metrics.METRICS, name, entry)
    _, data, _ = measure("one", "--metrics", "margin,brightness")
    assert data["margin_mean"] >= 0
    assert data["brightness_gap"] == pytest.approx(30, abs=0.1)
    assert data["settings"]["brightness"] == {"network": "mean level"}
