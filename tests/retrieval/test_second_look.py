"""An evaluation that looks twice: copies that were mirrored, cropped and recoloured are found, with
what was done to them, and the threshold follows from pictures that nobody copied."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from tests.indices import image_index
from utils.data.image_sets import list_images
from utils.retrieval import verdict_measurement
from utils.retrieval.aligning import align
from utils.retrieval.second_look import SecondLook
from utils.retrieval.verdict_measurement import Scored

FLAGS = ("--pt_style", "pixel", "--metrics", "similarity", "--report_to", "none")
SIDE = 96


def tiles(name, count):
    """Different pictures: tiles of a photograph."""
    photograph = Image.fromarray(getattr(data, name)()).convert("RGB")
    places = [
        (x, y)
        for y in range(0, photograph.height - SIDE + 1, SIDE)
        for x in range(0, photograph.width - SIDE + 1, SIDE)
    ]
    return [photograph.crop((x, y, x + SIDE, y + SIDE)) for x, y in places[:count]]


def cropped(picture, share):
    """The middle of a picture, at its size."""
    edge = (1 - share) / 2 * SIDE
    return picture.resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC, (edge, edge, SIDE - edge, SIDE - edge)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """22 training pictures; generations: four of them changed, and two that nobody copied."""
    folder = tmp_path_factory.mktemp("looks")
    training = tiles("astronaut", 22)
    made = {
        "exact": training[12],
        "mirrored": ImageOps.mirror(training[13]),
        "cropped": cropped(training[17], 0.8),
        "recoloured": Image.merge("RGB", training[18].split()[::-1]),
        "other-1": tiles("coffee", 12)[7],
        "other-2": tiles("chelsea", 12)[5],
    }
    for name, pictures in (
        ("training", {f"{i:02}": p for i, p in enumerate(training)}),
        ("made", made),
    ):
        (folder / name).mkdir()
        for key, picture in pictures.items():
            picture.save(folder / name / f"{key}.png")
    return folder


@pytest.fixture
def measure(script, folders, tmp_path):
    """measure(*flags, made=, training=) -> metrics.json, rows of matches.csv, what was printed."""

    def run(*flags, made="made", training=None):
        out = tmp_path / f"e{len(list(tmp_path.glob('e*')))}"
        inputs = ("--query_dir", folders / made, "--val_dir", training or folders / "training")
        more = ("--num_workers", 0, "--output_dir", out)
        printed = script("diff_retrieval", *inputs, *FLAGS, *more, *flags)
        rows = list(csv.DictReader((out / "matches.csv").open()))
        return json.loads((out / "metrics.json").read_text()), rows, printed

    return run


def best(rows):
    """{generated image: its row of the training image that it agrees with best}."""
    return {r["query"].removesuffix(".png"): r for r in rows if r["best_aligned"] == "1"}


@pytest.fixture(scope="module")
def numbers_without(folders, tmp_path_factory):
    """metrics.json and matches.csv without the second look."""
    import diff_retrieval

    out = tmp_path_factory.mktemp("plain") / "e"
    inputs = ("--query_dir", folders / "made", "--val_dir", folders / "training")
    more = ("--num_workers", 0, "--output_dir", out, "--cache_dir", "none", "--no_align")
    diff_retrieval.main([str(a) for a in (*inputs, *FLAGS, *more)])
    return json.loads((out / "metrics.json").read_text()), list(
        csv.DictReader((out / "matches.csv").open())
    )


def test_changed_copies_are_found_with_what_was_done_to_them(measure, numbers_without):
    numbers, rows, printed = measure()
    found = best(rows)
    expected = {"exact": "12", "mirrored": "13", "cropped": "17", "recoloured": "18"}
    for name, match in expected.items():
        assert found[name]["match"] == f"{match}.png", name
        assert float(found[name]["aligned"]) > numbers["threshold"], name
    for name in ("other-1", "other-2"):
        assert float(found[name]["aligned"]) < numbers["threshold"], name
    assert found["exact"]["transformation"] == "as it is"
    assert found["mirrored"]["transformation"] == "mirrored"
    assert found["recoloured"]["transformation"] == "as it is"
    words = found["cropped"]["transformation"]
    assert 78 <= float(words.removesuffix(" % crop")) <= 82, words
    corners = [[float(v) for v in c.split()] for c in found["cropped"]["box_match"].split(";")]
    assert np.allclose(corners, [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]], atol=0.02)
    assert numbers["copy_share_calibrated"] == pytest.approx(4 / 6)
    assert numbers["settings"]["threshold_of"] == "aligned"
    assert numbers["settings"]["innocents_from"] == "training"
    assert numbers["innocents_n"] == 22
    assert "22 innocent pictures can vouch for a rate of 14 %, not of 1 %" in printed
    assert "66.7 % of 6 images count as copies" in printed
    # what was published stays as it is
    plain, plain_rows = numbers_without
    assert {k: numbers[k] for k in plain if k.startswith(("sim_", "copy_share_n", "source"))} == {
        k: v for k, v in plain.items() if k.startswith(("sim_", "copy_share_n", "source"))
    }
    assert numbers["copy_share"] == plain["copy_share"]
    columns = ("query", "rank", "match", "score")
    ranked = [tuple(r[c] for c in columns) for r in rows if r["rank"]]
    assert ranked == [tuple(r[c] for c in columns) for r in plain_rows]


def test_without_alignment_the_descriptors_score_decides(numbers_without):
    numbers, rows = numbers_without
    assert numbers["settings"]["align"] is False
    assert numbers["settings"]["threshold_of"] == "pixel"
    assert "aligned" not in rows[0]
    assert "part_copied_share" not in numbers
    scores = {r["query"]: float(r["score"]) for r in rows if r["rank"] == "1"}
    copies = [score > numbers["threshold"] for score in scores.values()]
    assert numbers["copy_share_calibrated"] == np.mean(copies)


def test_innocents_of_a_folder_come_first_and_their_scores_are_kept(
    measure, folders, tmp_path, monkeypatch
):
    (tmp_path / "innocents").mkdir()
    for i, picture in enumerate([*tiles("coffee", 12), *tiles("chelsea", 12)]):
        picture.save(tmp_path / "innocents" / f"{i}.png")
    numbers, _, printed = measure("--innocent_dir", tmp_path / "innocents")
    assert "innocents: 24 pictures of --innocent_dir" in printed
    assert numbers["settings"]["innocents_from"] == "innocent_dir"
    aligned, real = [], align.Aligner.align
    monkeypatch.setattr(align.Aligner, "align", lambda *a: aligned.append(1) or real(*a))
    again, _, _ = measure("--innocent_dir", tmp_path / "innocents")
    assert len(aligned) == 6  # the generations alone
    assert again["threshold"] == numbers["threshold"]
    (tmp_path / "innocents" / "0.png").unlink()
    fewer, _, _ = measure("--innocent_dir", tmp_path / "innocents")
    assert fewer["innocents_n"] == 23


@pytest.mark.parametrize("flags", [("--no_align",), ()])
def test_innocents_of_one_colour_are_left_out_with_and_without_alignment(measure, tmp_path, flags):
    folder = tmp_path / "innocents"
    folder.mkdir()
    for i, picture in enumerate([*tiles("coffee", 12), *tiles("chelsea", 12)]):
        picture.save(folder / f"{i}.png")
    plain, _, printed = measure("--innocent_dir", folder, *flags)
    assert "innocents of one colour" not in printed
    for i in range(8):
        Image.new("RGB", (SIDE, SIDE), (30 * i, 0, 0)).save(folder / f"flat-{i}.png")
    for _ in range(2):  # the second time from the cache
        numbers, _, printed = measure("--innocent_dir", folder, *flags)
        assert "innocents of one colour, which are left out: 8 ('flat-0.png', " in printed
        for key in ("threshold", "threshold_lo", "innocents_n", "false_positive_rate"):
            assert numbers.get(key) == plain.get(key), key


def test_a_long_second_look_says_how_many_images_it_aligns(measure, monkeypatch):
    from utils.reports import progress

    monkeypatch.setattr(progress, "TELLING", 0)
    monkeypatch.setattr(progress, "LONG", 0)
    _, _, printed = measure("--num_candidates", 3)
    assert "aligning 6 images, each with 3 candidates: about " in printed
    assert "reading 22 images of " in printed


def test_too_few_innocents_leave_the_fixed_threshold(measure, folders, tmp_path):
    (tmp_path / "innocents").mkdir()
    for i, picture in enumerate(tiles("coffee", 5)):
        picture.save(tmp_path / "innocents" / f"{i}.png")
    numbers, rows, printed = measure("--innocent_dir", tmp_path / "innocents")
    assert "5 innocent pictures are too few to set a threshold (20 are needed)" in printed
    assert "copy_share_calibrated" not in numbers
    assert numbers["copy_share"] == pytest.approx(1 / 6)  # the mirrored copy is missed
    assert best(rows)["mirrored"]["transformation"] == "mirrored"


def test_a_fixed_threshold_that_innocents_exceed_is_void(measure, folders, tmp_path):
    numbers, _, printed = measure("--copy_threshold", "0.05")
    assert numbers["settings"]["fixed_threshold_void"] is True
    assert numbers["false_positive_rate"] > 0.05
    sentence = printed.split("is void here")[0].splitlines()[-1]
    assert sentence.startswith("The fixed threshold, pixel similarity above 0.05")


def test_an_index_finds_what_its_folder_does(measure, folders, tmp_path):
    index = image_index(tmp_path / "index", list_images("--val_dir", folders / "training"))
    numbers, rows, _ = measure(training=index.root)
    found = best(rows)
    assert found["mirrored"]["match"] == "13.png"
    assert found["mirrored"]["transformation"] == "mirrored"
    assert found["cropped"]["match"] == "17.png"
    assert numbers["innocents_n"] == 22
    assert numbers["copy_share_calibrated"] == pytest.approx(4 / 6)


def test_flat_pictures_are_counted_and_named(measure, folders):
    (folders / "flat").mkdir()
    for name in ("grey", "white"):
        flat = Image.new("RGB", (SIDE, SIDE), name)
        flat.putpixel((0, 0), (120, 125, 125))  # one of one colour is left out
        flat.save(folders / "flat" / f"{name}.png")
    numbers, rows, printed = measure(made="flat")
    assert (
        "they share only flat areas with their candidates: 2 ('grey.png', 'white.png')" in printed
    )
    assert numbers["copy_share_calibrated"] == 0
    assert numbers["counts"]["with_only_flat_overlap"] == 2
    assert not best(rows)


def test_a_picture_twice_in_training_is_no_innocent():
    """By hand: candidate 3 of the picture agrees above 0.95, so its score of 0.9 does not count."""
    look = SecondLook([None], np.array([[0.97, 0.4]]), np.array([[3, 5]]))
    scored = Scored(np.array([[0.9, 0.7, 0.2]]), np.array([[3, 8, 5]]), look)
    assert scored.descriptor.tolist() == [0.7]
    assert Scored(scored.scores, scored.matches, None).descriptor.tolist() == [0.9]


def test_a_part_is_no_copy_and_needs_more_than_innocents_hold(monkeypatch):
    """By hand: innocents hold up to 0.5 of a training picture, a part has to hold more."""
    from tests.retrieval.second_look_by_hand import pair
    from utils.retrieval.evaluation_request import VerdictSettings
    from utils.retrieval.verdict import Innocents

    areas = ((0.9, 0.9), (0.3, 0.6), (0.3, 0.4))
    pairs = [pair(0, aligned, copied_area=area) for aligned, area in areas]
    look = SecondLook(pairs, np.array([[0.9], [0.3], [0.3]]), np.zeros((3, 1), int))
    scored = Scored(np.zeros((3, 1)), np.zeros((3, 1), int), look)
    how = VerdictSettings(True, ("plain",), 10, None, None, 0.0)
    request = type("Request", (), {})()
    request.verdict, request.descriptor = how, type("D", (), {"pt_style": "pixel"})()
    request.flags = type("F", (), {"seed": 0})()
    innocents = Innocents(np.full(30, 0.8), np.zeros(30), "innocent_dir")
    decided = verdict_measurement.decide(
        request, scored, innocents, np.full(30, 0.5), fixed=None, groups=None
    )
    assert decided.part_copied.tolist() == [False, True, False]
