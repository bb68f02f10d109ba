"""Which images count as copies in a check, on smooth noise: training pictures, pictures held out, and
changed training pictures that stand for generated images."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from utils.data import image_sets
from utils.retrieval.descriptors.extractors import build_pixel
from utils.retrieval.descriptors.network import Wanted
from utils.runtime import parallel
from utils.watch import reference
from utils.watch.reference import Reference

CPU = torch.device("cpu")
TRAINING, HELD_OUT = 6, 20


def smooth(seed, side=32):
    rng = np.random.default_rng(seed)
    cells = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return cells.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """{"train", "held"}: sets of images of 32 px; no test writes here."""
    root, found = tmp_path_factory.mktemp("pictures"), {}
    for name, first, count in (("train", 0, TRAINING), ("held", 100, HELD_OUT)):
        (root / name).mkdir()
        for n in range(count):
            smooth(first + n).save(root / name / f"{n}.png")
        found[name] = image_sets.list_images("--d", root / name)
    return found


def read(pictures, held_out, said, innocent_dir=None):
    return Reference(
        pictures["train"],
        pictures["held"].take(range(held_out)),
        descriptor=build_pixel(Wanted(device=CPU, dtype=torch.float32)),
        name="pixel",
        innocent_dir=innocent_dir,
        seed=0,
        processes=parallel.Processes(parallel.Alone(CPU)),
        say=said.append,
    )


@pytest.fixture(scope="module")
def calibrated(pictures):
    """(Reference with enough pictures held out, lines that it said)."""
    said = []
    return read(pictures, HELD_OUT, said), said


def test_mirrored_copies_count_by_the_threshold_of_pictures_held_out(calibrated):
    made, said = calibrated
    assert said == [
        "innocents: 20 pictures that training held out",
        "20 innocent pictures can vouch for a rate of 15 %, not of 1 % (rule of three): give more"
        " with --innocent_dir, or hold more out.",
    ]
    images = [smooth(2), ImageOps.mirror(smooth(4)), smooth(500), smooth(501)]
    judged = made.judge(images, ["a", "b", "c", "d"])
    assert judged.copies.tolist() == [True, True, False, False]
    assert [made.training.keys[m] for m in judged.matches[:2]] == ["2.png", "4.png"]
    row = judged.numbers
    assert row["copy_share"] == 0.5
    assert 0 <= row["copy_share_lo"] < 0.5 < row["copy_share_hi"] <= 1
    assert row["copy_share_n"] == 4
    assert row["threshold_of"] == "aligned"
    assert row["threshold"] == made.verdict.threshold
    # of the plain picture, as in an evaluation: the mirrored one is no near match
    best = [1.0, *(float(made.judge([i], ["p"]).numbers["sim_95pc"]) for i in images[1:])]
    assert row["sim_95pc"] == pytest.approx(np.percentile(best, 95), abs=1e-6)


def test_pictures_of_a_folder_set_the_threshold_when_too_few_are_held_out(pictures):
    made = read(pictures, 2, said := [], innocent_dir=str(pictures["held"].root))
    assert said[0] == "innocents: 20 pictures of --innocent_dir"
    judged = made.judge([ImageOps.mirror(smooth(4)), smooth(500)], ["a", "b"])
    assert judged.copies.tolist() == [True, False]
    assert judged.numbers["threshold_of"] == "aligned"


def test_images_of_one_prompt_are_each_a_cluster(calibrated):
    made, _ = calibrated
    images = [smooth(0), smooth(1), smooth(600), smooth(601)]
    one, each = (made.judge(images, prompts).numbers for prompts in (["p"] * 4, list("abcd")))
    assert one == each


def test_without_enough_pictures_held_out_the_fixed_threshold_decides_and_is_said(pictures):
    said = []
    made = read(pictures, 19, said)
    assert said[0].startswith("19 innocents are too few to set a threshold")
    assert said[1] == (
        "copies are counted by the descriptor's fixed threshold 0.95, which mirrored or cropped"
        " copies fall below; a --holdout of at least 20 pictures, or --innocent_dir with as many"
        " that are like these and not trained on, sets one that fits"
    )
    judged = made.judge([smooth(3), ImageOps.mirror(smooth(4)), smooth(500)], list("abc"))
    assert judged.copies.tolist() == [True, False, False]
    assert judged.matches[0] == 3
    assert judged.numbers["threshold"] == 0.95
    assert judged.numbers["threshold_of"] == "descriptor"
    assert judged.numbers["copy_share"] == pytest.approx(1 / 3)
    assert len(read(pictures, 0, said := []).training) == TRAINING
    assert len(said) == 1


def test_a_picture_held_out_that_training_has_too_is_no_innocent(pictures, monkeypatch):
    said = []
    twice = pictures["train"].take([0])
    found = reference.innocents.enough_innocents(
        twice, pictures["train"], "holdout", seed=0, say=said.append
    )
    assert found is None
    assert said[0] == "1 of 1 innocents are training images; they are left out"
