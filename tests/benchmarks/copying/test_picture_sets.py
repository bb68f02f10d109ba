"""The real pictures of the benchmark: which there are, and that no part shares with another what it
must not share."""

import itertools

import numpy as np
import pytest
from PIL import Image

from benchmarks.copying import picture_sets
from benchmarks.copying.picture_sets import Picture, Sizes, divide
from tests.benchmarks.copying import emoji_package

pytest.importorskip("skimage")


def test_tiles_of_a_photograph_share_no_pixel_and_flat_ones_are_left_out(tmp_path):
    """Every pixel of this photograph has a value of its own, except for a flat tile."""
    pixels = np.zeros((70, 104, 3), np.uint8)
    rows, columns = np.mgrid[:70, :104]
    pixels[..., 0], pixels[..., 1] = rows, columns * 2
    pixels[3:35, 4:36] = 7  # the first tile: the grid of 2 x 3 tiles of 32 lies in the middle
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tiles = picture_sets.tiles_of(tmp_path / "a.png", 32, with_plain=True)
    assert [tile.name for tile in tiles] == ["a-0-1", "a-0-2", "a-1-0", "a-1-1", "a-1-2"]
    seen = [{tuple(v) for v in np.asarray(t.image).reshape(-1, 3)} for t in tiles]
    assert all(len(values) == 32 * 32 for values in seen)
    assert not any(a & b for a, b in itertools.combinations(seen, 2))


def test_the_photographs_are_carried_by_installed_packages():
    names = [path.name for path in picture_sets.photograph_files()]
    assert len(names) == len(set(names)) == len(picture_sets.PHOTOGRAPHS) + 1
    with_plain = picture_sets.photographs(96, with_plain=True)
    assert 250 < len(picture_sets.photographs(96)) < len(with_plain) < 450


def test_a_tile_is_plain_when_more_than_two_thirds_of_its_cells_are():
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for rows_of_noise, plain in ((0, True), (2, True), (3, False), (8, False)):
        pixels = np.full((96, 96, 3), 90, np.uint8)
        pixels[: 12 * rows_of_noise] = noise[: 12 * rows_of_noise]
        assert picture_sets.is_plain(Image.fromarray(pixels)) is plain


def test_identical_emoji_are_merged_and_skin_tones_and_lookalikes_are_one_family(tmp_path):
    rng = np.random.default_rng(1)
    hand, clock, car = (emoji_package.picture(rng) for _ in range(3))
    other_clock = clock.copy()
    other_clock.putpixel((32, 32), (0, 0, 0, 255))
    package = emoji_package.write(
        tmp_path / "package",
        {
            "HAND": {"1-hand": hand, "2-hand-dark": emoji_package.picture(rng)},
            "CLOCK ONE": {"3-clock": clock},
            "CLOCK TWO": {"4-clock": other_clock},
            "CAR": {"5-car": car},
            "AUTOMOBILE": {"6-car": car},
        },
    )
    families = {p.name: p.family for p in picture_sets.emoji(package)}
    assert list(families) == ["1-hand", "2-hand-dark", "3-clock", "4-clock", "5-car"]
    assert families["1-hand"] == families["2-hand-dark"]
    assert families["3-clock"] == families["4-clock"]
    assert len(set(families.values())) == 3


def some(families):
    """A picture for each name of a family."""
    return [
        Picture(f"{i}", Image.new("RGB", (4, 4), (i, 0, 0)), family)
        for i, family in enumerate(families)
    ]


def parts_of(pictures):
    """The numbers of the pictures of each part."""
    return [
        {image.getpixel((0, 0))[0] for image in part}
        for part in (pictures.training, pictures.innocents, pictures.check)
    ]


@pytest.mark.parametrize("apart", [True, False])
def test_parts_are_disjoint_and_follow_from_the_seed(apart):
    pictures = some("aabbccddeeffgghhiijj")
    parts = parts_of(divide("x", pictures, Sizes(4, 3, 2), seed=0, apart=apart))
    assert [len(part) for part in parts] == [4, 3, 2]
    assert len(set.union(*parts)) == 9
    assert parts == parts_of(divide("x", pictures, Sizes(4, 3, 2), seed=0, apart=apart))
    assert parts != parts_of(divide("x", pictures, Sizes(4, 3, 2), seed=1, apart=apart))


def test_with_families_enough_each_gives_one_picture():
    families = "aabbccddeeffgghhiijj"
    parts = parts_of(divide("x", some(families), Sizes(4, 3, 2), seed=0, apart=True))
    assert len({families[i] for i in set.union(*parts)}) == 9


def test_with_few_families_whole_ones_lie_in_one_part():
    families = "aaaaaaaabbbbbbccccddeef"
    parts = parts_of(divide("x", some(families), Sizes(8, 8, 6), seed=0, apart=True))
    owners = [{families[i] for i in part} for part in parts]
    assert not any(a & b for a, b in itertools.combinations(owners, 2))
    assert all(len(part) >= 5 for part in parts)


def test_too_few_pictures_shrink_every_part_evenly():
    assert Sizes(300, 200, 100).at_most(60) == Sizes(30, 20, 10)
    assert Sizes(3, 2, 1).at_most(60) == Sizes(3, 2, 1)
