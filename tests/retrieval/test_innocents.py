import json

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data import image_sets
from utils.retrieval import innocents
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.formulas import groups as grouping
from utils.retrieval.formulas import similarity as sim
from utils.runtime.errors import UsageError


def pictures(folder, count, *, first=0):
    """`count` pictures that differ from one another, and from those with other numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.new("RGB", (4, 4), (i % 256, i // 256, 7)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def listed(tmp_path):
    """listed(held_out=, innocent_dir=, base_dir=, seed=) -> (InnocentSet or None, lines)."""
    training = image_sets.list_images("--val_dir", pictures(tmp_path / "train", 12))

    def made(*, held_out=None, training=training, **given):
        lines = []
        sets = Sets(None, [], training, held_out=held_out)
        flags = {"innocent_dir": None, "base_dir": None, "seed": 0} | given
        return innocents.listed_innocents(sets, **flags, say=lines.append), lines

    made.training = training
    return made


def test_the_order_of_sources(listed, tmp_path):
    own = pictures(tmp_path / "own", 3, first=100)
    base = pictures(tmp_path / "base", 25, first=200)
    held = image_sets.list_images("--h", pictures(tmp_path / "held", 20, first=300))
    found, lines = listed(held_out=held, innocent_dir=str(own), base_dir=str(base))
    assert (found.source, len(found.images), lines) == (
        "innocent_dir",  # whatever it holds
        3,
        ["innocents: 3 pictures of --innocent_dir"],
    )
    found, lines = listed(held_out=held, base_dir=str(base))
    assert (found.source, found.images) == ("holdout", held)
    assert lines == ["innocents: 20 pictures that training held out"]
    found, lines = listed(held_out=held.take(range(19)), base_dir=str(base))
    assert (found.source, len(found.images)) == ("base_dir", 25)
    assert lines == [
        "19 innocents are too few to set a threshold (pictures that training held out); at least"
        " 20 are needed",
        "innocents: 25 images of the base model",
    ]
    assert found.rows is found.own_group is None
    found, lines = listed(held_out=held.take(range(19)))
    assert (found, len(lines)) == (None, 1)
    assert listed() == (None, [])


def test_copies_of_training_images_are_no_innocents(listed, tmp_path):
    own = pictures(tmp_path / "own", 30, first=8)  # 8 to 11 are training images too
    found, lines = listed(innocent_dir=str(own))
    assert found.images.keys == tuple(f"{i}.png" for i in range(12, 38))
    assert lines == [
        "4 of 30 innocents are training images; they are left out",
        "innocents: 26 pictures of --innocent_dir",
    ]


def test_an_empty_folder_and_images_of_a_run_are_refused(listed, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="--innocent_dir=.*holds no images"):
        listed(innocent_dir=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="--base_dir=.*holds no images"):
        listed(base_dir=str(tmp_path / "none"))
    folder = tmp_path / "made"
    pictures(folder / "generations", 25, first=500)
    rows = [
        {"file": f"generations/{i}.png", "prompt": "p", "source_prompt": "p"}
        for i in range(500, 524)
    ]
    manifest = {"kind": "generation", "version": 1, "images": rows, "settings": {}, "run": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found, _ = listed(base_dir=str(folder))
    assert len(found.images) == 24  # one is in the folder and not in the manifest
    (folder / "manifest.json").write_text(json.dumps(manifest | {"run": "../run"}))
    with pytest.raises(UsageError, match="images of the fine-tuned run ../run; give images that"):
        listed(base_dir=str(folder))


def test_the_images_folder_of_a_run_s_generation_is_no_base_model(listed, tmp_path):
    made = pictures(tmp_path / "made" / "generations", 25, first=500)
    manifest = {"kind": "generation", "version": 1, "images": [], "settings": {}, "run": "../run"}
    (made.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="images of the fine-tuned run ../run; give images that"):
        listed(base_dir=str(made))


def test_the_base_folder_is_checked_where_it_is_not_needed(listed, tmp_path):
    held = image_sets.list_images("--h", pictures(tmp_path / "held", 20, first=300))
    with pytest.raises(UsageError, match="--base_dir='/no/such' does not exist"):
        listed(held_out=held, base_dir="/no/such")


def test_at_most_500_are_taken_evenly_and_as_the_seed_says(listed, tmp_path):
    own = tmp_path / "own"
    for folder, count in (("a", 600), ("b", 300)):
        pictures(own / folder, count, first=1000)
    found, lines = listed(innocent_dir=str(own))
    assert len(found.images) == 500
    assert lines == ["innocents: 500 of 900 pictures of --innocent_dir"]
    assert abs(sum(k.startswith("a/") for k in found.images.keys) - 333) <= 1
    assert listed(innocent_dir=str(own))[0] == found
    other, _ = listed(innocent_dir=str(own), seed=1)
    assert other.images != found.images


def test_evenly_spaced_places():
    assert innocents.evenly(3, 5, 0).tolist() == [0, 1, 2]
    assert innocents.evenly(5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    for count in (501, 999, 12_345):
        for seed in range(20):
            places = innocents.evenly(count, 500, seed)
            assert len(set(places.tolist())) == 500
            assert places[0] >= 0
            assert places[-1] < count
            assert set(np.diff(places)) <= {count // 500, count // 500 + 1}


def unit(angles):
    angles = np.radians(angles)
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))


def test_training_images_are_compared_with_those_of_other_groups(listed):
    # by hand: 0 and 5 degrees are near-duplicates, so are 45 and 50; 91 is alone
    train = unit([0, 45, 5, 91, 50])
    labels = grouping.group_labels(train, 0.99)
    assert labels.tolist() == [0, 1, 0, 3, 1]
    best, found = innocents.matches_of_others(train, train, own_group=labels, groups=labels, k=2)
    assert found.tolist() == [[1, 4], [2, 0], [1, 4], [4, 1], [3, 2]]
    cosine = np.cos(np.radians([[45, 50], [40, 45], [40, 45], [41, 46], [41, 45]]))
    np.testing.assert_allclose(best, cosine, atol=1e-6)
    chosen = innocents.training_innocents(listed.training, np.arange(12), seed=0, say=print)
    assert (chosen.source, chosen.rows.tolist()) == ("training", list(range(12)))
    assert chosen.own_group.tolist() == list(range(12))
    assert chosen.images == listed.training


def test_matches_of_others_agree_with_a_naive_search():
    rng = np.random.default_rng(0)
    for _ in range(20):
        train = sim.normalised(torch.from_numpy(rng.standard_normal((30, 3))))
        labels = rng.integers(0, rng.integers(1, 6), 30)
        rows = rng.choice(30, 9, replace=False)
        best, found = innocents.matches_of_others(
            train[rows], train, own_group=labels[rows], groups=labels, k=4, block_rows=7
        )
        scores = (train[rows] @ train.T).numpy()
        for i, row in enumerate(rows):
            others = [j for j in range(30) if labels[j] != labels[row]]
            expected = sorted(others, key=lambda j: (-scores[i, j], j))[:4]
            expected += [-1] * (4 - len(expected))
            assert found[i].tolist() == expected
            assert np.isneginf(best[i][found[i] < 0]).all()


def test_a_set_that_is_one_group_has_no_matches():
    train = unit([0, 1, 2])
    best, found = innocents.matches_of_others(
        train, train, own_group=np.zeros(3), groups=np.zeros(3), k=2
    )
    assert found.tolist() == [[-1, -1]] * 3
    assert np.isneginf(best).all()


def test_training_images_in_tar_files_are_not_looked_into(listed, tmp_path):
    own = pictures(tmp_path / "own", 25)  # 0 to 11 are training images too
    inside = image_sets.ImageSet(
        tmp_path, listed.training.keys, listed.training.sizes, places=(("0.tar", 0),) * 12
    )
    found, _ = listed(innocent_dir=str(own), training=inside)
    assert len(found.images) == 25
