import numpy as np
import pytest
from PIL import Image, ImageDraw

from utils.reports import aligned_pictures as shown
from utils.reports import galleries

BOX = ((0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0))
YELLOW, RED, BLUE = shown.YELLOW, (200, 0, 0), (0, 0, 200)


def colours(image):
    return {tuple(p) for p in np.asarray(image).reshape(-1, 3)}


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        # a square of 100 fills the square of 200: every share doubles twice
        ((100, 100), [(50, 100), (150, 100), (150, 200), (50, 200)]),
        # 100 wide and 50 high: 200 by 100, from 50 down to 150
        ((100, 50), [(50, 100), (150, 100), (150, 150), (50, 150)]),
        # 50 wide and 100 high: 100 by 200, from 50 to 150 on the right
        ((50, 100), [(75, 100), (125, 100), (125, 200), (75, 200)]),
    ],
)
def test_corners_of_a_box_on_a_fitted_picture_by_hand(size, corners):
    assert shown.in_square(BOX, size, 200) == corners


@pytest.mark.parametrize("size", [(40, 40), (60, 30), (30, 61), (300, 200)])
def test_the_whole_picture_is_what_the_gallery_fits_into_its_square(size):
    fitted = np.asarray(galleries.fitted(Image.new("RGB", size, RED), 128))
    rows, columns = np.nonzero((fitted == RED).all(2))
    (left, top), _, (right, bottom), _ = shown.in_square(shown.WHOLE, size, 128)
    assert (left, top, right, bottom) == (
        columns.min(),
        rows.min(),
        columns.max() + 1,
        rows.max() + 1,
    )


def test_the_outline_goes_through_the_corners_and_its_dot_is_on_the_first():
    picture = Image.new("RGB", (100, 100), BLUE)
    corners = [(70, 20), (30, 20), (30, 80), (70, 80)]  # mirrored: the first one is on the right
    drawn = shown.outlined(picture, corners)
    for middle in ((50, 20), (30, 50), (50, 80), (70, 50)):
        assert drawn.getpixel(middle) == YELLOW
    assert drawn.getpixel((50, 50)) == drawn.getpixel((10, 10)) == BLUE

    def dot(x, y):
        """Yellow pixels around a corner."""
        around = np.asarray(drawn.crop((x - 6, y - 6, x + 7, y + 7)))
        return int((around == YELLOW).all(2).sum())

    assert dot(*corners[0]) > 1.3 * max(dot(*corner) for corner in corners[1:])
    assert colours(picture) == {BLUE}  # the given picture stays


def test_an_outline_on_the_edge_is_seen_whole():
    drawn = shown.outlined(
        Image.new("RGB", (60, 60), BLUE), shown.in_square(shown.WHOLE, (60, 60), 60)
    )
    pixels = np.asarray(drawn)[..., 0] > 128  # yellow, or more than half of it
    inner = slice(20, 50)  # away from the dot
    for side in (pixels[inner, :4], pixels[inner, -4:]):
        assert (side.sum(1) == shown.LINE_WIDTH).all()
    for side in (pixels[:4, inner], pixels[-4:, inner]):
        assert (side.sum(0) == shown.LINE_WIDTH).all()


def test_what_agrees_keeps_its_colour_and_the_rest_is_fog():
    agreement = np.zeros((64, 64), np.uint8)
    agreement[:, :32] = 255
    drawn = shown.agreement_over(Image.new("RGB", (64, 64), RED), agreement)
    assert drawn.getpixel((10, 30)) == RED
    red, green, blue = drawn.getpixel((60, 30))
    assert red == green == blue
    assert abs(red - 128) < 20


def test_the_map_lies_over_the_picture_without_the_rims_of_its_square():
    agreement = np.zeros((64, 64), np.uint8)
    agreement[16:48, 32:] = 255  # the right half of a picture twice as wide as high
    drawn = shown.agreement_over(Image.new("RGB", (100, 50), RED), agreement)
    assert drawn.size == (100, 50)
    for y in (2, 25, 47):
        assert drawn.getpixel((75, y)) == RED
        assert drawn.getpixel((25, y)) != RED


def test_the_map_in_the_generated_image_by_hand():
    """The training picture's left half, mirrored, is the generated image's right half."""
    agreement = np.zeros((64, 64), np.uint8)
    agreement[:32, :32] = 255  # of it, the upper quarter agrees
    in_match = ((0, 0), (0.5, 0), (0.5, 1), (0, 1))
    in_query = ((1, 0), (0.5, 0), (0.5, 1), (1, 1))
    square = (100, 100)
    moved = shown.agreement_in_query(agreement, (in_query, square), (in_match, square))
    wanted = np.zeros((64, 64), np.uint8)
    wanted[:32, 32:] = 255
    assert np.abs(moved.astype(int) - wanted)[:, np.r_[:31, 33:64]][np.r_[:31, 33:64]].max() == 0


def test_the_map_in_a_generated_image_of_another_shape_by_hand():
    """A training picture twice as wide as high, whole within a square image, at half its size in
    the middle."""
    agreement = np.zeros((64, 64), np.uint8)
    agreement[16:48, :] = 255
    in_query = ((0.25, 0.375), (0.75, 0.375), (0.75, 0.625), (0.25, 0.625))
    moved = shown.agreement_in_query(agreement, (in_query, (80, 80)), (shown.WHOLE, (100, 50)))
    rows, columns = np.nonzero(moved > 127)
    assert (rows.min(), rows.max() + 1) == (24, 40)
    assert (columns.min(), columns.max() + 1) == (16, 48)


def test_a_part_without_area_has_no_map():
    agreement = np.full((8, 8), 255, np.uint8)
    flat = ((0.5, 0.5),) * 4
    moved = shown.agreement_in_query(agreement, (flat, (9, 9)), (shown.WHOLE, (9, 9)))
    assert not moved.any()


# A page of a gallery ------------------------------------------------------------------------------

SIDE = 64
CELL = SIDE + 2 * galleries.GAP
MATCHES = 3 * CELL + shown.BESIDE  # left end of the descriptor's matches


def row(*, framed=False, words=("as it is",), pair=True, box=BOX):
    """A row of a red generated image and a blue training image of the same square shape."""
    aligned = shown.AlignedPictures(
        match=Image.new("RGB", (SIDE, SIDE), BLUE),
        size=(10, 10),
        name="train/b.png",
        aligned=0.875,
        box_query=box,
        box_match=shown.WHOLE,
        agreement=np.full((16, 16), 255, np.uint8),
        framed=framed,
    )
    return shown.AlignedRow(
        query=Image.new("RGB", (SIDE, SIDE), RED),
        size=(10, 10),
        name="q.png",
        pair=aligned if pair else None,
        words=words,
        matches=[(Image.new("RGB", (9, 9), (0, 90, 0)), 0.9, "c.png")],
    )


def test_a_row_shows_the_pair_with_its_boxes_the_map_and_the_matches():
    page = shown.aligned_page([row(), row()], threshold=None, side=SIDE, columns=2)
    assert page.width == MATCHES + 2 * CELL
    height = (page.height - galleries.HEAD) // 2
    for top in (galleries.HEAD, galleries.HEAD + height):
        middles = [
            page.getpixel((left + CELL // 2, top + 20))
            for left in (0, CELL, 2 * CELL, MATCHES, MATCHES + CELL)
        ]
        assert middles == [RED, BLUE, BLUE, (0, 90, 0), galleries.PAPER]
        # the box of the generated image: from a quarter to three, in the lower half
        left, upper = galleries.GAP - 1, top + galleries.GAP
        for point in ((32, 32), (16, 48), (48, 48)):
            assert page.getpixel((left + point[0], upper + point[1])) == YELLOW
        # the training picture is whole: the box is its edge
        assert page.getpixel((CELL + galleries.GAP - 1 + 32, upper + 1))[0] > 128


def test_the_frame_is_around_what_decides():
    def frames(threshold, *, framed):
        page = shown.aligned_page([row(framed=framed)], threshold=threshold, side=SIDE)
        columns = np.nonzero((np.asarray(page) == galleries.FRAME).all(2))[1]
        return {"pair" if x < MATCHES else "match" for x in columns.tolist()}

    assert frames(None, framed=False) == set()
    assert frames(None, framed=True) == {"pair"}
    assert frames(0.8, framed=False) == {"match"}
    assert frames(0.95, framed=False) == set()


def test_words_stand_below_the_pair_and_no_wider_than_it(monkeypatch):
    words, real = [], ImageDraw.ImageDraw.text

    def text(pen, place, line, *rest):
        words.append((line, place, pen.textlength(line, rest[1])))
        return real(pen, place, line, *rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    lines = ("mirrored, 82 % crop, shifted 9 %", "x <b> " * 100, "a third one is not drawn")
    shown.aligned_page([row(words=lines)], threshold=None, side=SIDE)
    drawn = [line for line, *_ in words]
    assert lines[0] in drawn
    assert lines[2] not in drawn
    assert {"0.875 train", "b.png", "q.png", "0.900", "c.png"} <= set(drawn)
    long = next(w for w in words if w[0].startswith("x <b>"))
    assert long[1][0] + long[2] <= 3 * CELL


def test_a_row_without_a_pair_leaves_its_place_empty():
    page = shown.aligned_page([row(pair=False)], threshold=None, side=SIDE)
    assert YELLOW not in colours(page)
    between = page.crop((CELL, galleries.HEAD, 3 * CELL, galleries.HEAD + CELL))
    assert colours(between) == {galleries.PAPER}


def test_the_rims_of_a_wide_picture_stay_white_in_the_map():
    wide = shown.AlignedPictures(
        match=galleries.fitted(Image.new("RGB", (40, 20), BLUE), SIDE),
        size=(40, 20),
        name="b.png",
        aligned=0.1,
        box_query=shown.WHOLE,
        box_match=shown.WHOLE,
        agreement=np.zeros((16, 16), np.uint8),
        framed=False,
    )
    drawn = np.asarray(shown._found_again(wide))
    assert (drawn[:16] == 255).all()
    assert (drawn[48:] == 255).all()
    assert not (drawn[16:48] == 255).all(2).any()
