import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from utils.reports import galleries


def test_a_contact_sheet_holds_every_image_in_its_place():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    sheet = galleries.contact_sheet([Image.new("RGB", (10, 10), c) for c in colours], columns=2)
    g = galleries.GAP
    assert sheet.size == (2 * (10 + g) + g, 2 * (10 + g) + g)
    assert [
        sheet.getpixel(p) for p in ((g + 5, g + 5), (2 * g + 15, g + 5), (g + 5, 2 * g + 15))
    ] == colours
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
        page = galleries.match_page(
            [(image, "0.png", [(image, score, "train/x.png")])], threshold=threshold
        )
        return (np.asarray(page) == galleries.FRAME).all(2).sum()

    assert frames(0.95) > 100
    assert frames(0.9) == frames(0.5) == 0
    assert frames(0.95, threshold=None) == 0


def test_a_group_is_a_row_that_says_how_many_images_it_has():
    red, blue = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 8), (0, 0, 200))
    some = [(red, 1.0, "a"), (blue, 0.97, "folder/\n<b>é.png")]
    page = galleries.group_page([(some, 2), (some * 2, 1234)], side=64, columns=4)
    cell, gap = 64 + 2 * galleries.GAP, galleries.GAP
    assert page.size == (4 * cell + 3 * gap + 90, 24 + 2 * (cell + galleries.BELOW))
    for row, pictures in ((0, 2), (1, 4)):
        top = 24 + row * (cell + galleries.BELOW) + gap
        shown = [
            page.getpixel(((c * cell + (3 * gap if c else gap)) + 32, top + 32))
            for c in range(pictures)
        ]
        assert shown == [(200, 0, 0), (0, 0, 200)] * (pictures // 2)
    # above the wide picture
    assert page.getpixel((cell + 3 * gap + 32, 24 + gap + 4)) == galleries.PAPER

    def words(size):
        """Dark pixels right of the last picture."""
        beside = galleries.group_page([(some, size)], side=64, columns=4).crop(
            (2 * cell + 3 * gap, 24, page.width, 24 + cell)
        )
        return int((np.asarray(beside.convert("L")) < 120).sum())

    assert 0 < words(2) < words(1234)


def test_pairs_stand_side_by_side_with_their_lines_below():
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    page = galleries.pair_grid(
        [((red, blue), "a prompt", "")] * 4, titles=("without", "with"), side=64, columns=3
    )
    assert page.size == (3 * (2 * 64 + 18) + 4 * 6, 24 + 2 * (64 + 44))
    for left, top in ((12, 24), (12 + 152, 24), (12, 24 + 108)):
        assert page.getpixel((left + 32, top + 32)) == (255, 0, 0)
        assert page.getpixel((left + 70 + 32, top + 32)) == (0, 0, 255)
    # the prompt's letters
    assert min(page.crop((12, 24 + 66, 140, 24 + 84)).convert("L").getdata()) < 128
    assert galleries.pair_grid([((red, blue), "", "")], titles=("a", "b")).width < 300


@pytest.fixture
def drawn(monkeypatch):
    """Words of a page, as they are drawn."""
    words, real = [], ImageDraw.ImageDraw.text

    def text(pen, place, line, *rest):
        words.append((line, pen.textlength(line, rest[1])))
        return real(pen, place, line, *rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return words


LONG = "x" * 1_000_000 + "1/2" + "y" * 1_000_000 + "3"


def test_below_a_picture_stand_its_shard_and_its_name(drawn):
    image = Image.new("RGB", (16, 16))
    names = ["00002.tar/000020032.png", "a.png", LONG]
    galleries.group_page([([(image, 0.9, name) for name in names], 3)], columns=3)
    lines = [line for line, _ in drawn]
    assert lines[2:6] == ["00002.tar", "000020032.png", "0.900", "a.png"]
    assert [(line[:7], line[-2:]) for line in lines[6:8]] == [("0.900 x", "x1"), ("2yyyyyy", "y3")]
    del drawn[:]
    galleries.match_page(
        [(image, "query.png", [(image, 0.75, name) for name in names])], threshold=None
    )
    lines = [line for line, _ in drawn]
    assert lines[2:7] == ["query.png", "0.750 00002.tar", "000020032.png", "0.750", "a.png"]
    assert [(line[:7], line[-2:]) for line in lines[7:]] == [("0.750 x", "x1"), ("2yyyyyy", "y3")]
    assert max(width for _, width in drawn[2:]) <= galleries.SIDE
    assert all("…" in line for line in lines[7:])


def test_letters_that_the_font_lacks_are_question_marks(drawn):
    assert galleries.drawable("é ñ ß\n\tŁódź Ωμ Привет “a”…") == "é ñ ß Łódź Ωμ Привет “a”…"
    assert galleries.drawable("漢字 a\x07\udcff") == "?? a??"
    image, font = Image.new("RGB", (16, 16)), galleries.font_of(11)

    def shape(text):
        return bytes(font.getmask(text))

    box = shape("\uffff")
    for letter in galleries.drawable("éñßŁΩμП"):
        assert shape(letter) not in (box, shape("?"))
    galleries.match_page([(image, "漢.png", [(image, 0.5, "字/漢.png")])], threshold=None)
    galleries.group_page([([(image, 1.0, "字/漢.png")], 2)])
    galleries.pair_grid([((image, image), "漢 a", "")], titles=("a", "b"))
    text = "".join(line for line, _ in drawn)
    assert text.count("?") == 6
    assert not set("漢字") & set(text)


def test_pages_are_numbered_files_and_of_the_first_ones_something_is_kept(tmp_path):
    pages = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    kept = galleries.write_pages(
        tmp_path / "g",
        pages,
        lambda c: Image.new("RGB", (4, 4), c),
        workers=2,
        keep=lambda p: p.getpixel((0, 0)),
        first=2,
    )
    assert kept == pages[:2]
    files = sorted((tmp_path / "g").iterdir())
    assert [p.name for p in files] == ["page_01.png", "page_02.png", "page_03.png"]
    assert [Image.open(p).getpixel((1, 1)) for p in files] == pages
    assert galleries.write_pages(tmp_path / "none", [], None, workers=0) == []
    assert not list((tmp_path / "none").iterdir())


def test_text_that_is_too_wide_is_cut_with_an_ellipsis():
    pen, font = ImageDraw.Draw(Image.new("RGB", (9, 9))), ImageFont.load_default(12)
    assert galleries.shortened("short", pen, font, 200) == "short"
    cut = galleries.shortened("a long line " * 20, pen, font, 200)
    assert cut.endswith("…")
    assert 150 < pen.textlength(cut, font) <= 210
    started = time.process_time()
    assert (
        galleries.shortened("a b " * 300_000, pen, font, 200)[:20]
        == galleries.shortened("a b " * 90, pen, font, 200)[:20]
    )
    assert time.process_time() - started < 1  # a stranger's caption may be a megabyte
