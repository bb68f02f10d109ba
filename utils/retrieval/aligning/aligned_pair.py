"""What alignment finds of a generated image and a training image: a transformation, the part that
both share, and how well they agree there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# corners of a quadrilateral: (x, y) in shares of the width and the height of a picture, from its
# top left corner; clockwise from the corner that is the training picture's top left
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]

SHIFT_SHOWN = 0.02  # of the side; a smaller shift is not worth a word
ROTATION_SHOWN = 1.0  # degrees
SCALE_SHOWN = 0.03  # relative


@dataclass(frozen=True)
class Transformation:
    """What turns a training picture into the generated image. Both are thought of as fitted into a
    square of side 1."""

    mirrored: bool = False  # first of all, left and right exchanged
    # size of the training picture's content in the generated image, of both sides the mean
    scale: float = 1.0
    rotation: float = 0.0  # degrees, counter-clockwise
    shift: tuple[float, float] = (0.0, 0.0)  # of the centre, to the right and down, in sides
    # width over height in the generated image, of what is a square in the training picture
    stretch: float = 1.0

    def in_words(self) -> str:
        """A phrase for a reader: "mirrored, 82 % crop, shifted 9 %"; "as it is" without any
        change. A crop shows that share of the training picture's side; a smaller copy is "at 60 %
        of its size"."""
        words = ["mirrored"] if self.mirrored else []
        if self.scale > 1 + SCALE_SHOWN:
            words.append(f"{100 / self.scale:.0f} % crop")
        if self.scale < 1 - SCALE_SHOWN:
            words.append(f"at {100 * self.scale:.0f} % of its size")
        if abs(self.rotation) >= ROTATION_SHOWN:
            words.append(f"rotated by {self.rotation:.0f}°")
        narrow = min(self.stretch, 1 / self.stretch)
        if narrow < 1 - SCALE_SHOWN:
            side = "width" if self.stretch < 1 else "height"
            words.append(f"squeezed to {100 * narrow:.0f} % of its {side}")
        distance = float(np.hypot(*self.shift))
        if distance >= SHIFT_SHOWN:
            words.append(f"shifted {100 * distance:.0f} %")
        return ", ".join(words) or "as it is"


@dataclass(frozen=True)
class AlignedPair:
    """A generated image beside the training image that it agrees with best."""

    match: int  # index of the training image
    aligned: float  # agreement, -1 to 1
    transformation: Transformation
    box_query: Box  # what both share, in the generated image
    box_match: Box  # the same in the training image
    copied_area: float  # share of the training picture's detailed area that is found again, 0 to 1
    # [S, S] uint8 over the training picture, fitted into a square: 0 where it is not found in the
    # generated image, 255 where both agree fully
    agreement: np.ndarray

    def of(self, rows: np.ndarray) -> AlignedPair:
        """The pair where `match` is a place in `rows`, with the training image that is there."""
        return replace(self, match=int(rows[self.match]))
