import csv
import json
import math

import pytest

from tests.card.judged_by_hand import image, row
from utils.card import card_verdicts
from utils.card.card_record import Alignment, Share
from utils.card.card_verdicts import CopyRule, judged, rule_of, share_of, worst_prompts


def test_the_rule_is_the_calibrated_threshold_else_the_fixed_one():
    settings = {"copy_threshold": 0.95, "pt_style": "pixel", "threshold_of": "aligned"}
    assert rule_of({"threshold": 0.8, "settings": settings}) == CopyRule(0.8, "aligned")
    assert rule_of({"settings": settings}) == CopyRule(0.95, "pixel")


def test_the_best_aligned_picture_decides_if_the_rule_is_about_aligned_scores():
    rows = [
        row("1.png", "near.png", 0.9, aligned=0.3),
        row("1.png", "copied.png", 0.4, rank=2, aligned=0.8),
        row("2.png", "near.png", 0.99, aligned=0.7),
        row("3.png", "flat.png", 0.99, aligned=""),
    ]
    first, second, flat = judged(rows, CopyRule(0.7, "aligned"))
    assert (first.picture, first.score, first.copy) == ("copied.png", 0.8, True)
    assert (second.picture, second.copy) == ("near.png", False)  # equal is not above
    assert flat.picture is None
    assert math.isnan(flat.score)
    assert not flat.copy


def test_the_descriptors_score_decides_without_alignment():
    rows = [row("1.png", "a.png", 0.96), row("1.png", "b.png", 0.5, rank=2), row("2.png", "a", 0.9)]
    first, second = judged(rows, CopyRule(0.95, "pixel"))
    assert (first.picture, first.copy, second.copy) == ("a.png", True, False)
    assert [each.copy for each in judged(rows, CopyRule(None, "dino"))] == [False, False]


def test_a_row_of_an_aligned_candidate_without_a_rank_counts():
    rows = [row("1.png", "a.png", 0.5, aligned=0.1), row("1.png", "b", 0.2, rank="", aligned=0.9)]
    assert judged(rows, CopyRule(0.7, "aligned"))[0].picture == "b"


def test_what_was_done_to_the_picture_and_what_detectors_saw_are_read():
    box = "0.000 0.000;1.000 0.000;1.000 0.500;0.000 0.500"
    facts = {"transformation": "mirrored", "box_query": box, "box_match": box}
    (each,) = judged(
        [row("1", "a", 0.9, aligned=0.9, detect_magnitude="1.5", **facts)], CopyRule(0.5, "aligned")
    )
    corners = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))
    assert each.alignment == Alignment("mirrored", corners, corners, None)
    assert each.detections == {"magnitude": 1.5}


def test_the_share_resamples_prompts():
    images = [image(str(i), f"prompt {i // 2}", copy=i < 2) for i in range(8)]
    share = share_of(images, seed=0)
    assert (share.value, share.n) == (0.25, 8)
    assert share.lo == 0.0  # the one prompt of copies is not always drawn
    assert 0.5 <= share.hi <= 0.75
    assert share_of([], seed=0) is None
    # where none is a copy: Clopper and Pearson's for 4 prompts
    none = share_of([image(str(i), f"prompt {i // 2}", copy=False) for i in range(8)], seed=0)
    assert none.hi == pytest.approx(1 - 0.025**0.25)


def test_a_share_that_was_measured_is_read_with_its_interval():
    metrics = {"part": 0.1, "part_lo": 0.0, "part_hi": 0.2, "part_n": 10, "sim_mean": 0.5}
    assert card_verdicts.share_in(metrics, "part") == Share(0.1, 0.0, 0.2, 10)
    assert card_verdicts.share_in(metrics, "sim_mean") is None


def test_the_worst_prompts_have_most_copies_then_the_highest_scores():
    images = [
        image("1", "none", copy=False, score=0.99),
        image("2", "one", score=0.8),
        image("3", "two", score=0.7),
        image("4", "two", score=0.7),
        image("5", "one, higher", score=0.9),
        image("6", None),
    ]
    assert worst_prompts(images, 9) == [("two", None), ("one, higher", None), ("one", None)]
    assert worst_prompts(images, 1) == [("two", None)]


def test_a_caption_of_several_pictures_is_several_prompts():
    images = [image("1", "An image", source="a"), image("2", "An image", source="b", score=0.5)]
    assert worst_prompts(images, 9) == [("An image", "a"), ("An image", "b")]
    # one prompt cannot be resampled: then each image counts for itself
    share = share_of([*images, image("3", "An image", copy=False)], seed=0)
    assert share.lo < share.value < share.hi


def test_both_kinds_of_table_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row("1.png", "a.png", 0.5)]
    (tmp_path / "csv").mkdir()
    with open(tmp_path / "csv" / "matches.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert card_verdicts.read_rows(tmp_path / "csv") == rows
    (tmp_path / "parquet").mkdir()
    table = pa.Table.from_pylist([rows[0] | {"score": 0.5, "source_image": None}])
    pq.write_table(table, tmp_path / "parquet" / "matches.parquet")
    (read,) = card_verdicts.read_rows(tmp_path / "parquet")
    assert read["source_image"] == ""
    assert judged([read], CopyRule(0.4, "pixel"))[0].copy


def test_only_an_evaluation_is_read(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"kind": "run", "version": 1}))
    with pytest.raises(Exception, match="a manifest of kind 'evaluation' is needed"):
        card_verdicts.read_metrics(tmp_path)
