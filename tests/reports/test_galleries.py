import numpy as np
from PIL import Image

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
