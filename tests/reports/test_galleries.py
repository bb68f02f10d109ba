import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.reports import galleries


def test_a_contact_sheet_holds_every_image_in_its_place():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    sheet = galleries.contact_sheet([Image.new("RGB", (10, 10), c) for c in colours], columns=2)
    g = galleries.GAP
    assert sheet.size == (2 * (10 + g) + g, 2 * (10 + g) + g)
    assert [sheet.getpixel(p) for p in ((g + 5, g + 5), (2 * g + 15, g + 5), (g + 5, 2 * g + 15))] == colours
    assert sheet.getpixel((2 * g + 15, 2 * g + 15)) == galleries.PAPER


def test_small_images_grow_by_whole_pixels_and_keep_their_shape():
    image = Image.fromarray(np.array([[[0, 0, 0], [200, 0, 0]]], np.uint8))
    square = np.asarray(galleries.fitted(image, 8))
    assert square.shape == (8, 8, 3)
    assert {tuple(p) for p in square[2:6].reshape(-1, 3)} == {(0, 0, 0), (200, 0, 0)}
    assert (square[0] == 255).all()


def test_only_matches_over_the_threshold_are_framed():
    def frames(score, threshold=0.9):
        image = Image.new("RGB", (16, 16), (0, 0, 80))
        page = galleries.match_page([(image, "0.png", [(image, score, "train/x.png")])], threshold=threshold)
        return (np.asarray(page) == galleries.FRAME).all(2).sum()

    assert frames(0.95) > 100
    assert frames(0.9) == frames(0.5) == 0
    assert frames(0.95, threshold=None) == 0


def test_a_group_is_a_row_that_says_how_many_images_it_has():
    red, blue = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 8), (0, 0, 200))
    some = [(red, 1.0, "a"), (blue, 0.97, "folder/\n<b>é.png")]
    page = galleries.group_page([(some, 2), (some * 2, 1234)], side=64, columns=4)
    cell, gap = 64 + 2 * galleries.GAP, galleries.GAP
    assert page.size == (4 * cell + 3 * gap + 90, 24 + 2 * (cell + 18))
    for row, pictures in ((0, 2), (1, 4)):
        top = 24 + row * (cell + 18) + gap
        shown = [page.getpixel(((c * cell + (3 * gap if c else gap)) + 32, top + 32)) for c in range(pictures)]
        assert shown == [(200, 0, 0), (0, 0, 200)] * (pictures // 2)
    assert page.getpixel((cell + 3 * gap + 32, 24 + gap + 4)) == galleries.PAPER  # above the wide picture

    def words(size):
        """Dark pixels right of the last picture."""
        beside = galleries.group_page([(some, size)], side=64, columns=4).crop(
            (2 * cell + 3 * gap, 24, page.width, 24 + cell)
        )
        return int((np.asarray(beside.convert("L")) < 120).sum())

    assert 0 < words(2) < words(1234)


def test_pairs_stand_side_by_side_with_their_lines_below():
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    page = galleries.pair_grid([((red, blue), "a prompt", "")] * 4, titles=("without", "with"), side=64, columns=3)
    assert page.size == (3 * (2 * 64 + 18) + 4 * 6, 24 + 2 * (64 + 44))
    for left, top in ((12, 24), (12 + 152, 24), (12, 24 + 108)):
        assert page.getpixel((left + 32, top + 32)) == (255, 0, 0)
        assert page.getpixel((left + 70 + 32, top + 32)) == (0, 0, 255)
    assert min(page.crop((12, 24 + 66, 140, 24 + 84)).convert("L").getdata()) < 128  # the prompt's letters
    assert galleries.pair_grid([((red, blue), "", "")], titles=("a", "b")).width < 300


def test_text_that_is_too_wide_is_cut_with_an_ellipsis():
    pen, font = ImageDraw.Draw(Image.new("RGB", (9, 9))), ImageFont.load_default(12)
    assert galleries.shortened("short", pen, font, 200) == "short"
    cut = galleries.shortened("a long line " * 20, pen, font, 200)
    assert cut.endswith("…")
    assert 150 < pen.textlength(cut, font) <= 210
