"""The benchmark of copies at a small size, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import copies
from benchmarks.copying.searching import SecondLook
from tests.benchmarks.copying import emoji_package
from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.aligned_pair import AlignedPair, Transformation

pytest.importorskip("skimage")
SMALL = "--queries 4 --training 12 --innocents 20 --check 8"
CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))


class MirrorAligner:
    """An aligner that knows mirroring alone: the correlation of thumbnails."""

    def __init__(self, training):
        self.training = [geometry.fitted(geometry.thumbnail(p)).colours[0] for p in training]

    def align(self, picture, candidates):
        seen = geometry.fitted(picture).colours[0]
        return [
            AlignedPair(
                match=i,
                aligned=max(alike(seen, self.training[i]), alike(seen.flip(2), self.training[i])),
                transformation=Transformation(),
                box_query=CORNERS,
                box_match=CORNERS,
                copied_area=0.0,
                agreement=np.zeros((4, 4), np.uint8),
            )
            for i in candidates
        ]


def alike(a, b):
    return float(np.corrcoef(a.flatten(), b.flatten())[0, 1])


def mirror_look(training, args):
    """A second look without windows: no training picture is nearer than another."""
    return SecondLook(MirrorAligner(training), lambda picture: torch.zeros(len(training)))


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run the benchmark; return what it printed and the JSON file."""
    monkeypatch.setattr(copies, "build_second_look", mirror_look)

    def run(flags):
        copies.main([*flags.split(), "--out", str(tmp_path / "out")])
        return capsys.readouterr().out, json.loads((tmp_path / "out" / "copies.json").read_text())

    return run


@pytest.mark.usefixtures("drawn_plots")
def test_both_sides_are_measured_on_photographs_and_emoji(run, tmp_path):
    package = emoji_package.write_many(tmp_path / "package", 60)
    flags = "--sets photographs,emoji --changes exact,mirrored,ground --methods pixel,phash"
    printed, record = run(f"{flags} --emoji {package} {SMALL}")
    for name, changes in (("photographs", 2), ("emoji", 3)):
        sides = record[name]["sides"]
        assert {"pixel", "pixel, aligned"} <= set(sides)
        assert len({case[0] for case in record[name]["cases"]}) == changes
        at_first = {side: sides[side]["shares"]["0.05"]["each"] for side in sides}
        exact, mirrored = record[name]["cases"].index(["exact", 1.0]), ["mirrored", 1.0]
        assert at_first["pixel"][exact] == at_first["pixel, aligned"][exact] == 1
        assert at_first["pixel, aligned"][record[name]["cases"].index(mirrored)] == 1
        assert f"## {name}" in printed
        assert "12 training pictures, of which 4 are changed" in printed
    with Image.open(tmp_path / "out" / "copies.png") as figure:
        assert figure.width > 500
    written = (tmp_path / "out" / "copies.md").read_text()
    assert all(line in printed for line in written.splitlines())


def test_another_choice_of_changes_gives_the_same_pictures():
    pictures = copies.load_set(
        "photographs", copies.parse_flags(["--training", "8", "--innocents", "8", "--check", "4"])
    )
    one, again = (copies.changed(pictures, ("noise", 0.12), queries=n, seed=0) for n in (3, 5))
    assert [i.tobytes() for i in one] == [i.tobytes() for i in again[:3]]
    other = copies.changed(pictures, ("noise", 0.12), queries=3, seed=1)
    assert other[0].tobytes() != one[0].tobytes()


def test_alignment_can_be_left_out(tmp_path, capsys):
    flags = f"--sets photographs --changes exact --methods pixel --no_align {SMALL}"
    copies.main([*flags.split(), "--out", str(tmp_path)])
    assert list(json.loads((tmp_path / "copies.json").read_text())["photographs"]["sides"]) == [
        "pixel"
    ]
    assert not (tmp_path / "copies.png").exists()


def test_a_method_that_cannot_run_is_named(tmp_path, capsys):
    flags = f"--sets photographs --changes exact --methods pixel,sscd --no_align {SMALL}"
    copies.main([*flags.split(), "--out", str(tmp_path)])
    assert "sscd is left out: --sscd_weights names no file" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        copies.main(["--methods", "sscd", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--methods=sscd: none of them can run here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--sets scenes", "'scenes' is none of: photographs"), ("--changes tint", "'tint' is none")],
)
def test_unknown_names_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        copies.main(flags.split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
