"""--dedup on an index: planted groups are found, training uses the weights, files are whole, and a
gallery shows the groups."""

import itertools
import json
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFilter

from tests.index.test_near_duplicates import Searcher
from tests.indices import image_index, index_of, printing_to
from utils.cli.retrieval_options import RetrievalOptions
from utils.data import duplication, scenes
from utils.data.image_sets import list_images
from utils.data.tar_shards import list_shards
from utils.index import (
    deduplication,
    deduplication_files,
    near_duplicates,
    search,
    vector_index,
)
from utils.reports import galleries
from utils.runtime import parallel
from utils.runtime.errors import UsageError

ALONE = parallel.Processes(parallel.Alone(torch.device("cpu")))


def noisy(image):
    pixels = np.asarray(image, float) + np.random.default_rng(0).normal(
        0, 10, (image.height, image.width, 3)
    )
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def enlarged(image):
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)


def blurred(image):
    return image.filter(ImageFilter.GaussianBlur(1))


def cropped(image):
    """Without a tenth of the side at each edge."""
    edge = image.width // 10
    return image.crop((edge, edge, image.width - edge, image.height - edge))


def mirrored(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# what is planted: suffix of the name -> (how the scene is changed, options of saving). Similarities
# of `pixel` to the scene, of 60 scenes of 64 px: noise 0.998, JPEG 0.986, enlarged 0.9999, blurred
# 0.994 at least; another scene 0.835 at most
FOUND = {
    "copy.png": (lambda image: image, {}),
    "noise.png": (noisy, {}),
    "30.jpg": (lambda image: image, {"quality": 30}),
    "large.png": (enlarged, {}),
    "blur.png": (blurred, {}),
}
# variants that `pixel` does not find for most scenes: cropped 0.65 to 0.97, mirrored up to 0.91
NOT_FOUND = {"crop.png": (cropped, {}), "mirror.png": (mirrored, {})}
COUNT = 24


def plant(folder, chosen, variants):
    """Scenes 0 to COUNT - 1 below `folder`; of scene i those variants that chosen(i) names, in
    another folder.

    Returns: {group: keys of its images}, scenes without variants among them."""
    groups = {}
    for i in range(COUNT):
        image, keys = scenes.scene_at(i, seed=3).image, [f"a/{i:03d}.png"]
        (folder / "a").mkdir(parents=True, exist_ok=True)
        image.save(folder / keys[0])
        for name in chosen(i):
            change, options = variants[name]
            keys.append(f"b/{i}/{name}")
            (folder / keys[-1]).parent.mkdir(parents=True, exist_ok=True)
            change(image).save(folder / keys[-1], **options)
        groups[i] = keys
    return groups


def some(i):
    """Of scene 0 all variants, of others 3, 2, 1 or none."""
    return list(FOUND) if i == 0 else list(itertools.islice(itertools.cycle(FOUND), i, i + i % 4))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of scenes and their variants. Returns: (folder, {scene: keys})."""
    folder = tmp_path_factory.mktemp("planted") / "images"
    return folder, plant(folder, some, FOUND)


@pytest.fixture(scope="module")
def kept_index(planted, tmp_path_factory):
    """The folder of an index of the planted images; no test writes here."""
    images = list_images("--val_dir", planted[0])
    root = tmp_path_factory.mktemp("index") / "index"
    image_index(root, images, {k: [f"a caption of <{k}>"] for k in images.keys})
    return root


@pytest.fixture
def index(kept_index, tmp_path):
    shutil.copytree(kept_index, tmp_path / "index")
    return vector_index.open_index("--val_dir", tmp_path / "index")


def options(**more):
    return RetrievalOptions(
        **{"val_dir": "DIR", "dedup": True, "pt_style": "pixel", "num_workers": 1} | more
    )


def deduplicated(index, *, folder=None, processes=ALONE, searcher=None, **more):
    """Run --dedup. Returns: (rows of groups.parquet, weights or None, summary, lines)."""
    lines = []
    deduplication.deduplicate(
        options(**more), index, printing_to(processes, lines.append), searcher=searcher
    )
    folder = folder or index.root / f"dedup-{more.get('copy_threshold') or 0.95:g}"
    weights = folder / "weights.json"
    return (
        pq.read_table(folder / "groups.parquet").to_pylist(),
        json.loads(weights.read_text()) if weights.exists() else None,
        json.loads((folder / "summary.json").read_text()),
        lines,
    )


def pairs_of(groups):
    return {pair for keys in groups for pair in itertools.combinations(sorted(keys), 2)}


def found_groups(rows):
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["key"])
    return list(groups.values())


# What is found ------------------------------------------------------------------------------------


def test_planted_groups_are_found_with_precision_and_recall_1(index, planted):
    rows, _weights, summary, lines = deduplicated(index)
    expected = [keys for keys in planted[1].values() if len(keys) > 1]
    assert len(expected) == 19
    assert pairs_of(found_groups(rows)) == pairs_of(expected)
    assert [row["group"] for row in rows] == sorted(row["group"] for row in rows)
    sizes = [len(keys) for keys in found_groups(rows)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 6
    for row in rows:
        assert row["size"] == sizes[row["group"]]
        assert row["caption"] == f"a caption of <{row['key']}>"
        assert row["url"] is None
        with Image.open(planted[0] / row["key"]) as image:
            assert (row["width"], row["height"]) == image.size
        assert row["bytes"] == (planted[0] / row["key"]).stat().st_size
        assert row["similarity"] == 1 if row["rank"] == 0 else 0.95 <= row["similarity"] <= 1
    kept = {row["group"]: row for row in rows if row["rank"] == 0}
    assert sum(row["key"].endswith("large.png") for row in rows) == sum(
        k["key"].endswith("large.png") for k in kept.values()
    )
    for row in rows:
        best = kept[row["group"]]
        assert (best["width"], best["bytes"]) >= (row["width"], row["bytes"])
    counts = summary["counts"]
    assert (counts["images"], counts["groups"], counts["largest_group"]) == (len(index), 19, 6)
    assert counts["images_in_groups"] == len(rows)
    assert counts["images_that_could_go"] == len(rows) - 19
    assert (summary["kind"], summary["threshold"], summary["method"]) == ("dedup", 0.95, "exact")
    assert summary["index"]["fingerprint"] == index.fingerprint
    assert summary["descriptor"]["pt_style"] == "pixel"
    assert (
        f"19 groups of near-duplicates hold {len(rows)} images, {len(rows) - 19} could be removed"
        in lines[0]
    )
    assert "the largest group has 6" in lines[0]
    assert str(index.root / "dedup-0.95") in lines[1]


def test_pixel_finds_neither_mirrored_nor_cropped_scenes(tmp_path):
    groups = plant(tmp_path / "images", lambda i: list(NOT_FOUND), NOT_FOUND)
    rows, weights, *_ = deduplicated(
        image_index(tmp_path / "index", list_images("--val_dir", tmp_path / "images"))
    )
    pairs, expected = pairs_of(found_groups(rows)), pairs_of(groups.values())
    assert pairs < expected
    assert len(pairs) < 0.1 * len(expected)
    assert not [pair for pair in pairs if pair[1].endswith("mirror.png")]
    assert len(weights) == 3 * COUNT


def test_the_highest_threshold_finds_all_copies_and_fewer_variants(index, planted):
    """The highest there is: stored in half precision, a vector's product with itself is not 1."""
    rows, _, summary, _ = deduplicated(index, copy_threshold=deduplication.HIGHEST)
    assert summary["threshold"] == deduplication.HIGHEST
    together = pairs_of(found_groups(rows))
    copies = {(keys[0], k) for keys in planted[1].values() for k in keys if k.endswith("copy.png")}
    assert len(copies) > 5
    assert copies < together < pairs_of(planted[1].values())


def test_approximate_groups_are_the_exact_ones_with_an_exact_searcher(index):
    searcher = Searcher(index.take(np.arange(len(index))))
    rows, weights, summary, lines = deduplicated(index, ann=True, searcher=searcher)
    assert summary["method"] == "approximate"
    assert "approximate" in lines[0]
    assert {k for _, k in searcher.asked} == {33}
    assert (rows, weights) == deduplicated(index)[:2]


def test_beyond_a_million_images_the_search_is_approximate(index, monkeypatch):
    monkeypatch.setattr(near_duplicates, "EXACT_ROWS", len(index) - 1)
    searcher = Searcher(index.take(np.arange(len(index))))
    assert deduplicated(index, searcher=searcher)[2]["method"] == "approximate"
    monkeypatch.setattr(near_duplicates, "EXACT_ROWS", len(index))
    assert deduplicated(index)[2]["method"] == "exact"


def test_several_processes_share_the_pairs_of_blocks(index, monkeypatch):
    monkeypatch.setattr(vector_index, "BLOCK_BYTES", 4 * index.dimensions * 9)  # blocks of 9 rows

    class OneOf(parallel.Processes):
        """Process `index` of two, whose other share is made when its labels are asked for."""

        def __init__(self, number):
            super().__init__(parallel.Alone(torch.device("cpu")))
            self.index, self.count, self.main = number, 2, number == 0

        def gather(self, value):
            if not isinstance(value, np.ndarray):
                return [value]
            shares.append(value)
            other = near_duplicates.exact_groups(
                index, threshold=0.95, part=1 - self.index, parts=2
            )
            return [value, other]

    shares = []
    expected = deduplicated(index)[:2]
    assert deduplicated(index, processes=OneOf(0))[:2] == expected
    shutil.rmtree(index.root / "dedup-0.95")
    deduplication.deduplicate(options(), index, printing_to(OneOf(1), pytest.fail))
    assert not (index.root / "dedup-0.95").exists()  # the main process writes
    assert len(shares) == 2
    whole = near_duplicates.exact_groups(index, threshold=0.95)
    assert not any(np.array_equal(share, whole) for share in shares)


def test_a_shard_is_read_once_however_many_rows_are_written_at_once(tars, tmp_path, monkeypatch):
    images, _ = list_shards("--val_dir", tars[0])
    index = image_index(
        tmp_path / "index", images, {k: [f"of {k}"] for k in images.keys}, names=("0", "1")
    )
    expected, *_ = deduplicated(index)
    # a group lies in several shards
    assert len({row["key"].partition("/")[0] for row in expected[:6]}) == 2
    asked, whole = [], vector_index.VectorIndex.arrow

    def arrow(index, rows, columns):
        asked.append((len(rows), columns, (np.diff(rows) > 0).all()))
        return whole(index, rows, columns)

    groups = near_duplicates.groups_of(index, near_duplicates.exact_groups(index, threshold=0.95))
    monkeypatch.setattr(vector_index.VectorIndex, "arrow", arrow)
    monkeypatch.setattr(deduplication_files, "ROWS_AT_ONCE", 7)
    keys = deduplication_files.write_groups(tmp_path / "groups.parquet", index, groups)
    assert asked == [(len(expected), deduplication_files.KNOWN, True)]
    written = pq.read_table(tmp_path / "groups.parquet")
    assert written.to_pylist() == expected
    assert keys == [row["key"] for row in expected]
    assert {row["caption"] for row in expected} == {f"of {k}" for k in keys}
    assert written.schema.equals(deduplication_files.schema())


# Weights ------------------------------------------------------------------------------------------


def shares_of(groups, keys, weights):
    """Share of the draws of every group, against that of one image alone. groups: lists of keys."""
    probabilities = duplication.DrawOrder(len(keys), weights=weights, seed=0).probabilities
    share = dict(zip(keys, probabilities, strict=True))
    return np.array([sum(share[k] for k in group) for group in groups]) * len(groups)


def test_training_on_the_folder_draws_a_group_as_often_as_one_image(index, planted):
    deduplicated(index)
    images = list_images("--instance_data_dir", planted[0])
    weights, unnamed = duplication.read_weights(
        "--weights_file", index.root / "dedup-0.95" / "weights.json", images
    )
    assert unnamed == 0
    assert weights.sum() == pytest.approx(COUNT)
    np.testing.assert_allclose(shares_of(planted[1].values(), images.keys, weights), 1)
    uniform = shares_of(planted[1].values(), images.keys, np.ones(len(images)))
    assert uniform.max() > 2


@pytest.fixture
def tars(planted, tmp_path):
    """The planted images in two tar files, in turn. Returns: (folder, {scene: keys})."""
    folder = tmp_path / "shards"
    folder.mkdir()
    moved = {}
    with tarfile.open(folder / "0.tar", "w") as even, tarfile.open(folder / "1.tar", "w") as odd:
        for i, key in enumerate(k for keys in planted[1].values() for k in keys):
            (odd if i % 2 else even).add(planted[0] / key, arcname=key)
            moved[key] = f"{i % 2}.tar/{key}"
    return folder, {scene: [moved[k] for k in keys] for scene, keys in planted[1].items()}


def test_training_on_shards_draws_a_group_as_often_as_one_image(tars, tmp_path):
    folder, groups = tars
    images, _ = list_shards("--val_dir", folder)
    rows, *_ = deduplicated(image_index(tmp_path / "index", images, names=("0", "1")))
    assert pairs_of(found_groups(rows)) == pairs_of(groups.values())
    path = tmp_path / "index" / "dedup-0.95" / "weights.json"
    weights, unnamed = duplication.read_weights(
        "--weights_file", path, list_shards("--instance_data_dir", folder)[0]
    )
    assert unnamed == 0
    np.testing.assert_allclose(shares_of(groups.values(), images.keys, weights), 1)


def test_weights_of_a_large_set_list_only_members_of_groups(index, planted, monkeypatch):
    monkeypatch.setattr(deduplication_files, "NAME_ALL", len(index) - 1)
    rows, weights, *_ = deduplicated(index)
    assert set(weights) == {row["key"] for row in rows}
    assert len(weights) < len(index)
    images = list_images("--instance_data_dir", planted[0])
    read, unnamed = duplication.read_weights(
        "--weights_file", index.root / "dedup-0.95" / "weights.json", images
    )
    assert unnamed == len(index) - len(weights)
    np.testing.assert_allclose(shares_of(planted[1].values(), images.keys, read), 1)


def test_without_groups_all_weights_are_1_or_there_is_no_weights_file(tmp_path, monkeypatch):
    index = index_of(tmp_path / "index", np.eye(5, dtype=np.float32))
    rows, weights, summary, lines = deduplicated(index)
    assert (rows, weights) == ([], dict.fromkeys([f"{i:05d}.png" for i in range(5)], 1.0))
    assert summary["counts"]["largest_group"] == 0
    assert "no near-duplicates" in lines[0]
    assert lines[1:] == [f"written to {index.root / 'dedup-0.95'}"]  # weights of 1 change nothing
    assert not list((index.root / "dedup-0.95" / "gallery").iterdir())
    monkeypatch.setattr(deduplication_files, "NAME_ALL", 4)
    _, weights, _, lines = deduplicated(index)
    assert weights is None  # the one before is gone too
    assert (
        "no weights.json was written: there are no groups, and more than 4 images to list"
        in lines[-1]
    )


# The folder ---------------------------------------------------------------------------------------


def test_an_earlier_deduplication_is_replaced_as_a_whole(index, monkeypatch):
    deduplicated(index)
    folder = index.root / "dedup-0.95"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p.name for p in before} >= {
        "groups.parquet",
        "weights.json",
        "summary.json",
        "page_01.png",
    }

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(deduplication_files, "write_gallery", full)
        with pytest.raises(OSError, match="No space"):
            deduplicated(index)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in index.root.iterdir()) == ["dedup-0.95", "index.json", "shards"]
    (folder / "gallery" / "page_07.png").write_bytes(b"old")
    deduplicated(index)
    assert not (folder / "gallery" / "page_07.png").exists()


@pytest.mark.parametrize("name", ["notes.txt", "gallery/mine.png", "weights.json"])
def test_a_folder_with_anything_else_in_it_is_left_alone(index, tmp_path, name):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("{}")
    with pytest.raises(
        UsageError, match=rf"--output_dir='{folder}' holds '{name}', which no --dedup wrote"
    ):
        deduplicated(index, output_dir=str(folder))
    assert (folder / name).read_text() == "{}"


def test_output_dir_is_used(index, tmp_path):
    rows, *_ = deduplicated(index, folder=tmp_path / "out", output_dir=str(tmp_path / "out"))
    assert rows
    assert not (index.root / "dedup-0.95").exists()


def test_a_dry_run_says_what_would_be_written(index):
    lines = []
    deduplication.deduplicate(options(dry_run=True), index, printing_to(ALONE, lines.append))
    writes = json.loads(lines[0])["writes"]
    folder = index.root / "dedup-0.95"
    assert not folder.exists()
    deduplicated(index)
    assert sorted(writes) == sorted(map(str, folder.iterdir()))
    assert writes == deduplication.planned(None, str(index.root), 0.95)
    assert deduplication.planned("o", "absent", 0.95)[0] == "o/groups.parquet"


def test_a_dry_run_names_the_lists_of_an_approximate_search(index, monkeypatch):
    monkeypatch.setattr(search, "LEAST_ANN", 10)
    lines = []
    deduplication.deduplicate(
        options(dry_run=True, ann=True), index, printing_to(ALONE, lines.append)
    )
    assert json.loads(lines[0])["writes"][:2] == [
        str(index.root / name) for name in ("ann.faiss", "ann.json")
    ]


def test_flags_of_another_descriptor_are_refused(index):
    for more, message in (
        ({"pt_style": "clip"}, "--pt_style='clip'"),
        ({"pt_style": "sscd", "preset": "sscd"}, "--pt_style='sscd'"),
        ({"pt_style": "sscd", "multiscale": True}, "--pt_style='sscd'"),
    ):
        with pytest.raises(
            UsageError, match=f"^{message}: the index .* was made with pt_style 'pixel'"
        ):
            deduplication.deduplicate(options(**more), index, printing_to(ALONE, pytest.fail))


def test_the_searcher_of_ann_is_built_once(script, index, monkeypatch):
    made, real = [], search.approximate
    monkeypatch.setattr(search, "approximate", lambda *a, **k: made.append(1) or real(*a, **k))
    script(
        "diff_retrieval",
        "--val_dir",
        index.root,
        "--dedup",
        "--ann",
        "--pt_style",
        "pixel",
        "--report_to",
        "none",
    )
    assert made == [1]


def test_bad_thresholds_and_folders_are_refused_before_the_index_is_built(
    refused, planted, tmp_path
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    asked = [
        "--build_index",
        tmp_path / "i",
        "--val_dir",
        planted[0],
        "--dedup",
        "--report_to",
        "none",
    ]
    for more, message in (
        (
            ("--pt_style", "pixel", "--copy_threshold", "-0.5"),
            "--copy_threshold=-0.5 does not go with --dedup",
        ),
        (
            ("--pt_style", "pixel", "--output_dir", tmp_path / "mine"),
            "holds 'notes.txt', which no --dedup wrote",
        ),
        (
            ("--pt_style", "timm", "--arch", "tf_efficientnet_lite0"),
            "--dedup needs --copy_threshold",
        ),
    ):
        assert message in refused("diff_retrieval", *asked, *more)
        assert not (tmp_path / "i").exists()


def test_the_printed_command_quotes_the_folder_for_a_shell(index, tmp_path):
    folder = tmp_path / "it's; $(mine)"
    *_, lines = deduplicated(index, folder=folder, output_dir=str(folder))
    command = lines[-1].partition(": ")[2]
    assert shlex.split(command) == ["diff_train.py", "--weights_file", str(folder / "weights.json")]


# Thresholds and warnings --------------------------------------------------------------------------


def test_thresholds():
    def threshold(style, given=None):
        return deduplication.threshold_of(given, {"pt_style": style})

    assert (threshold("pixel"), threshold("sscd"), threshold("timm", 0.6)) == (0.95, 0.75, 0.6)
    with pytest.raises(
        UsageError, match=r"--dedup needs --copy_threshold for --pt_style clip.*pixel, sscd"
    ):
        threshold("clip")
    for wrong in (0.0, -0.5, 1.0):
        with pytest.raises(
            UsageError,
            match=rf"--copy_threshold={wrong:g} does not go with --dedup; use a number above 0",
        ):
            threshold("sscd", wrong)


def chained(root, length, others, **more):
    """An index of a chain of `length` pictures and of others that are like nothing."""
    angles = np.arange(length) * 0.02
    vectors = np.zeros((length + others, 2 + others), np.float32)
    vectors[:length, 0], vectors[:length, 1] = np.cos(angles), np.sin(angles)
    vectors[length + np.arange(others), 2 + np.arange(others)] = 1
    return index_of(root, vectors, **more)


def test_a_group_with_a_large_share_of_the_images_gives_a_warning(tmp_path):
    def warnings(length, others):
        *_, lines = deduplicated(chained(tmp_path / f"{length}", length, others))
        return [line for line in lines if "chains" in line]

    assert len(warnings(150, 50)) == 1
    assert "75.0% of all images" in warnings(150, 50)[0]
    assert not warnings(90, 10)


def test_an_incomplete_index_is_reported(tmp_path):
    index = chained(tmp_path / "index", 3, 3, planned=["00000", "00001", "00002"])
    *_, summary, lines = deduplicated(index)
    assert lines[0] == "the index is still being built: 1 of 3 shards were searched"
    assert summary["counts"]["shards_planned"] == 3


# The gallery --------------------------------------------------------------------------------------

RED, GREEN, GREY = (200, 0, 0), (0, 160, 0), (200, 200, 200)


def coloured(tmp_path, reds, greens, gone=()):
    """An index of pictures of one colour, red ones in one group, green ones in another; the first
    is the largest."""
    folder, rows, vectors = tmp_path / "images", [], []
    folder.mkdir()
    for i, colour in enumerate([RED] * reds + [GREEN] * greens):
        side = 400 if i in (0, reds) else 200
        key = f"{'red' if colour == RED else 'green'}_{i}.png"
        Image.new("RGB", (side, side), colour).save(folder / key)
        rows.append(
            {"key": key, "bytes": (folder / key).stat().st_size, "width": side, "height": side}
        )
        vectors.append([1, 0] if colour == RED else [0, 1])
    index = index_of(tmp_path / "index", np.array(vectors, np.float32), rows, folder=folder)
    for i in gone:
        (folder / rows[i]["key"]).unlink()
    return index


def page_of(index, number=1):
    with Image.open(index.root / "dedup-0.95" / "gallery" / f"page_{number:02d}.png") as page:
        return page.convert("RGB")


def middle(row, column):
    """Middle of a picture of a page."""
    cell, gap = galleries.SIDE + 2 * galleries.GAP, galleries.GAP
    return (
        column * cell + (3 * gap if column else gap) + 64,
        24 + row * (cell + galleries.BELOW) + gap + 64,
    )


def ink(page, row, column):
    """Dark pixels in the place of a picture, where words stand beside the last one."""
    x, y = middle(row, column)
    part = np.asarray(page.crop((x - 64, y - 50, x + 20, y + 50)).convert("L"))
    return int((part < 120).sum())


def test_the_gallery_shows_the_largest_groups_and_how_many_more_there_are(tmp_path):
    index = coloured(tmp_path, 10, 3, gone=[11])
    deduplicated(index)
    page = page_of(index)
    assert [page.getpixel(middle(0, c)) for c in range(7)] == [RED] * 7
    assert [page.getpixel(middle(1, c)) for c in range(4)] == [GREEN, GREY, GREEN, galleries.PAPER]
    for row, after in ((0, 7), (1, 3)):
        assert ink(page, row, after) > 50
    assert ink(page, 0, 7) > 1.3 * ink(page, 1, 3)  # "+ 3 more" below the number of images
    assert not (index.root / "dedup-0.95" / "gallery" / "page_02.png").exists()


def test_the_gallery_has_a_page_per_group_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(deduplication_files, "GALLERY_PAGES", 2)
    monkeypatch.setattr(deduplication_files, "GALLERY_ROWS", 1)
    index = coloured(tmp_path, 4, 3)
    deduplicated(index)
    assert [page_of(index, n).getpixel(middle(0, 0)) for n in (1, 2)] == [RED, GREEN]
    monkeypatch.setattr(deduplication_files, "GALLERY_PAGES", 1)
    deduplicated(index)
    assert [p.name for p in (index.root / "dedup-0.95" / "gallery").iterdir()] == ["page_01.png"]


def test_pictures_of_shards_are_read_in_place_and_grey_when_the_shard_is_gone(tars, tmp_path):
    folder, groups = tars
    images, _ = list_shards("--val_dir", folder)
    index = image_index(tmp_path / "index", images, names=("0", "1"))
    rows, *_ = deduplicated(index)
    page = page_of(index)
    key = rows[0]["key"]
    assert key in groups[0]
    shown = np.asarray(galleries.fitted(images.open(images.keys.index(key)), galleries.SIDE))
    x, y = middle(0, 0)
    assert np.array_equal(np.asarray(page.crop((x - 64, y - 64, x + 64, y + 64))), shown)
    (folder / "0.tar").unlink()
    (folder / "1.tar").write_bytes(b"\0" * 100)
    lines = deduplicated(index)[-1]
    assert [page_of(index).getpixel(middle(0, c)) for c in range(6)] == [GREY] * 6
    assert lines[-1].startswith("pictures that cannot be read now are grey: 60, first '")


def test_uniformly_grey_images_are_counted_and_in_no_group(tmp_path):
    """Under `pixel` their vector is 0, which has a cosine of 0 with all."""
    for i, colour in enumerate(
        ((0, 0, 0), (0, 0, 0), (255, 255, 255), (90, 90, 90), (9, 80, 9), (9, 80, 9))
    ):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{i}.png")
    index = image_index(tmp_path / "index", list_images("--d", tmp_path))
    rows, _, summary, lines = deduplicated(index)
    assert [r["key"] for r in rows] == ["4.png", "5.png"]
    assert summary["counts"]["flat"] == 4
    assert lines[0].startswith(
        "4 uniformly grey images have a zero descriptor and are in no group, even if they are equal"
    )


def test_damaged_tar_files_are_reported():
    counts = dict.fromkeys(("images", "groups", "largest_group", "shards", "shards_planned"), 5) | {
        "images_in_groups": 10,
        "images_that_could_go": 5,
        "damaged_shards": 2,
        "flat": 0,
    }
    groups = near_duplicates.Groups(np.arange(2), np.array([0, 2]), np.ones(2, np.float32))
    result = deduplication_files.Deduplication(groups, threshold=0.9, method="exact", seconds=1.0)

    def lines(**other):
        written = deduplication_files.WrittenGroups(counts | other, has_weights=True, unreadable={})
        return list(deduplication.summary_lines(result, written, Path("/x")))

    report = lines()
    assert (
        report[0]
        == "2 tar files could not be read to the end when the index was built: see index.json"
    )
    assert len(lines(damaged_shards=0)) == len(report) - 1
