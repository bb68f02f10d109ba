import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.retrieval.evaluations_by_hand import evaluation, read
from utils.retrieval import compare_files
from utils.runtime.errors import UsageError


@pytest.fixture
def pair(tmp_path):
    return [
        evaluation(tmp_path / "runs" / name / "evaluations" / "pixel-1")
        for name in ("none", "noise")
    ]


@pytest.mark.usefixtures("drawn_plots")
def test_what_is_written(tmp_path, monkeypatch):
    one = evaluation(tmp_path / "e" / "one|$x_1$", settings={"copy_threshold": 0.5})
    two = evaluation(tmp_path / "e" / "two", scores=(0.1, 0.2, 0.3, 0.4), metrics={"fid": 9.0})
    found = read([one, two], force=True)
    out = tmp_path / "out" / "comparison"
    seen = {}
    drawn = compare_files.plots.comparison

    def draw(path, named, panels, **others):
        seen.update(named=named, panels=dict(panels), **others)
        drawn(path, named, panels, **others)

    monkeypatch.setattr(compare_files.plots, "comparison", draw)
    assert compare_files.write(found, out) == out
    assert sorted(p.name for p in out.iterdir()) == sorted(compare_files.FILES)
    assert [p.name for p in out.parent.iterdir()] == ["comparison"]
    with open(out / "comparison.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [r["run"] for r in rows] == ["one|$x_1$", "two"]
    assert (out / rows[0]["folder"]).resolve() == one
    assert [
        float(rows[1][k]) for k in ("images", "copy_share_lo", "sim_mean", "fid", "sim_std")
    ] == [4, 0.1, 0.25, 9, 0.1]
    # both draws are of the first prompt
    assert float(rows[1]["sim_mean_lo"]) == pytest.approx(0.15)
    assert rows[0]["fid"] == ""
    record = json.loads((out / "comparison.json").read_text())
    assert (record["kind"], record["version"], record["seed"]) == ("comparison", 1, 0)
    assert record["not_measured_alike"] == ["copy_share"]
    assert record["notes"] == found.notes
    assert record["runs"][1]["metrics"]["fid"] == 9
    text = (out / "comparison.md").read_text()
    assert text.startswith(found.table())
    assert "one\\|$x_1$" in text
    assert all(note in text for note in found.notes)
    assert seen["named"]["two"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert (seen["threshold"], seen["descriptor"]) == (None, "pixel")
    assert seen["panels"]["copy_share*, %"] == [("one|$x_1$", 25, 10, 40), ("two", 25, 10, 40)]
    assert seen["panels"]["fid"] == [("one|$x_1$", None, None, None), ("two", 9, None, None)]
    with Image.open(out / "comparison.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in ((0, 114, 178), (230, 159, 0)):
        assert (np.abs(pixels - colour).sum(2) < 12).sum() > 500


def test_a_comparison_replaces_its_own_kind_only(pair, tmp_path):
    found, out = read(pair), tmp_path / "out"
    compare_files.write(found, out)
    (out / "comparison.md").write_text("old")
    compare_files.write(found, out)
    assert (out / "comparison.md").read_text() != "old"
    (out / "notes").mkdir()
    with pytest.raises(UsageError) as error:
        compare_files.write(found, out)
    assert (
        str(error.value)
        == f"--output_dir='{out}' holds 'notes', which no comparison wrote; use a new folder"
    )
    with pytest.raises(UsageError, match="holds 'matches.csv', which no comparison wrote"):
        compare_files.write(found, pair[0])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "comparison.csv").write_text("of somebody else")
    with pytest.raises(UsageError, match="holds 'comparison.csv', which no comparison wrote"):
        compare_files.write(found, mine)
    with pytest.raises(UsageError, match="comparison.csv' is a file; use a new folder"):
        compare_files.write(found, mine / "comparison.csv")
    assert (mine / "comparison.csv").read_text() == "of somebody else"


def test_a_failure_keeps_what_was_there(pair, tmp_path, monkeypatch):
    found, out = read(pair), tmp_path / "out"
    compare_files.write(found, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def fail(*_arguments, **_others):
        raise OSError("disk full")

    monkeypatch.setattr(compare_files.plots, "comparison", fail)
    with pytest.raises(OSError, match="disk full"):
        compare_files.write(found, out)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]
