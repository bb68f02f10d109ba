import contextlib

import numpy as np
import pytest

from utils.index import index_counts, shard_files
from utils.runtime.errors import UsageError

SIZES = [(30, 20), (10, 90), (64, 64), (500, 15), (40, 41), (7, 8)]


def write(root, name, sizes, *, bad=(), captions=True, damage=None, faults=()):
    rows = [
        {
            "key": f"{name}.tar/{i}.png",
            "bytes": 10 * w,
            "width": w,
            "height": h,
            "url": "u" if i else None,
            "caption": "" if captions and i == 0 else "a" if captions else None,
        }
        for i, (w, h) in enumerate(sizes)
    ]
    vectors = np.ones((len(rows), 4 if rows else 0))
    vectors[3:4] = 0  # as of one grey
    shard_files.write_shard(
        root,
        name,
        vectors,
        rows,
        descriptor={},
        change_stamp={},
        bad=bad,
        damage=damage,
        caption_faults=faults,
    )


@pytest.mark.parametrize("count", range(7))
def test_counts_over_shards_are_those_of_all_images_together(tmp_path, count):
    sizes = SIZES[:count]
    write(tmp_path, "0", sizes[:2], bad=[("x", "broken"), ("y", "broken")])
    write(tmp_path, "1", [], bad=[("z", "broken")])
    write(tmp_path, "2", sizes[2:], captions=False, damage="cut")
    short = sorted(min(size) for size in sizes)
    assert index_counts.count(tmp_path, ["0", "1", "2"]) == {
        "images": count,
        "unreadable": 3,
        "with_caption": min(count, 2),
        "with_url": max(0, min(count, 2) - 1) + max(0, count - 3),
        "bytes": sum(10 * w for w, _ in sizes),
        "shards": 3,
        "damaged_shards": ["2"],
        "flat": int(count > 5),
        "short_side": [short[0], short[(count - 1) // 2], short[-1]] if sizes else None,
    }


def test_the_counts_in_words(tmp_path):
    write(tmp_path, "0", SIZES, bad=[("x", "broken")])
    assert (
        index_counts.in_words(index_counts.count(tmp_path, ["0"]))
        == "1 shards: 6 images, 1 of 7 unreadable, 6 with a caption, 5 with a URL, 0.000 GB, short"
        " side 7 to 64 px, median 15, 1 uniformly grey, whose descriptor is zero and matches nothing"
    )


def test_texts_that_cannot_be_used_are_counted_over_shards_and_the_first_is_named(tmp_path):
    write(tmp_path, "0", SIZES)
    write(tmp_path, "1", SIZES, faults=[("1.tar/a.png", "a.txt: is not UTF-8"), ("b", "no")])
    write(tmp_path, "2", SIZES, faults=[("c", "no")])
    counts = index_counts.count(tmp_path, ["0", "1", "2"])
    assert counts["caption_faults"]["images"] == 3
    assert index_counts.in_words(counts).endswith(
        ", 3 whose text cannot be used, first '1.tar/a.png' (a.txt: is not UTF-8)"
    )


def test_the_words_omit_sizes_when_there_are_no_images(tmp_path):
    write(tmp_path, "0", [], bad=[("x", "broken")])
    line = index_counts.in_words(index_counts.count(tmp_path, ["0"]))
    assert line == "1 shards: 0 images, 1 of 1 unreadable, 0 with a caption, 0 with a URL, 0.000 GB"


@pytest.mark.parametrize(
    ("damaged", "share", "message"),
    [
        (0, 0.0, None),
        (
            1,
            0.19,
            r"--v: 1 of 5 tar files are damaged: '0.tar' \(cut at 0\); the images before the damage"
            r" are kept, "
            "--max_bad_images=0.19 accepts 0",
        ),
        (1, 0.2, None),
        (
            5,
            0.8,
            (
                r"5 of 5 .*: '0.tar' \(cut at 0\), '1.tar' \(cut at 1\), '2.tar' \(cut at 2\), 2"
                r" more; .* accepts 4"
            ),
        ),
        (5, 1.0, None),
    ],
)
def test_damaged_tar_files_have_no_minimum_allowance(tmp_path, damaged, share, message):
    names = [str(i) for i in range(5)]
    for i, name in enumerate(names):
        write(tmp_path, name, SIZES, damage=f"cut at {i}" if i < damaged else None)
    counts = index_counts.count(tmp_path, names)
    with pytest.raises(UsageError, match=message) if message else contextlib.nullcontext():
        index_counts.require_whole("--v", tmp_path, counts, max_bad=share)


@pytest.mark.parametrize(
    ("images", "bad", "share", "message"),
    [
        (6, 1, 0.0, None),  # one always may
        (6, 2, 0.25, None),
        (
            6,
            2,
            0.24,
            (
                r"--v has 2 of 8 images that cannot be read, first 'x0' \(broken\);"
                r" --max_bad_images=0.24 accepts 1"
            ),
        ),
        (0, 1, 1.0, "has 1 of 1 images that cannot be read"),
        (0, 0, 1.0, "--v holds no images"),
    ],
)
def test_too_many_unreadable_images_are_an_error(tmp_path, images, bad, share, message):
    write(tmp_path, "0", SIZES[:images])
    write(tmp_path, "1", [], bad=[(f"x{i}", "broken") for i in range(bad)])
    counts = index_counts.count(tmp_path, ["0", "1"])

    def require():
        index_counts.require_readable("--v", tmp_path, ["0", "1"], counts, max_bad=share)

    if message is None:
        require()
        return
    with pytest.raises(UsageError, match=message) as error:
        require()
    assert bad == 0 or str(error.value).endswith(
        f"The index in {str(tmp_path)!r} is complete without them"
    )
