import numpy as np
from PIL import Image

from utils.reports import copies_sheet
from utils.reports.copies_sheet import LINE, SIDE, Shown, corner_of
from utils.reports.galleries import FRAME, GAP, PAPER

BLUE, GREEN = (0, 0, 200), (0, 200, 0)


def plain(colour):
    return Image.new("RGB", (SIDE, SIDE), colour)


def test_a_copy_has_a_frame_and_its_training_picture_beside_it():
    shown = [Shown(plain(BLUE), None)] * 4 + [Shown(plain(BLUE), plain(GREEN))]
    sheet = np.asarray(copies_sheet.copies_sheet(shown))
    assert sheet.shape == (2 * (SIDE + GAP) + GAP, 8 * (SIDE + GAP) + GAP, 3)
    for number, copy in ((0, False), (3, False), (4, True)):
        left, top = corner_of(number)
        middle = top + SIDE // 2
        assert tuple(sheet[middle, left + 5]) == BLUE
        assert tuple(sheet[middle, left - LINE]) == (FRAME if copy else PAPER)
        assert tuple(sheet[middle, left + SIDE + LINE - 1]) == (FRAME if copy else PAPER)
        assert tuple(sheet[middle, left + SIDE + GAP + 5]) == (GREEN if copy else PAPER)
    assert corner_of(4)[0] == corner_of(0)[0]  # a new row
