"""Candidates by their parts: windows of a generated image are compared with windows of training
pictures, so that a picture is found of which a part was copied, or that is a part of an image.

A descriptor of whole pictures ranks a crop, a picture beside another or a smaller copy on a ground
anywhere. Windows are 12 x 12 averages, compared by their zero-normalised cross-correlation; the
generated image is also mirrored."""

from __future__ import annotations

import torch
from torch.nn.functional import adaptive_avg_pool2d

from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.geometry import SIDE

CELLS = 12  # averages along each side of a window
FLAT = 0.02  # standard deviation of a channel, of the range, below which a window matches nothing
# a larger set is not searched by windows: each picture has 80 KB of them
MOST_PICTURES = 5000

Window = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the picture


def _spread(side: float, steps: int) -> list[Window]:
    """Square windows with sides of that share, at `steps` x `steps` places."""
    starts = [i * (1 - side) / (steps - 1) for i in range(steps)]
    return [(x, y, x + side, y + side) for x in starts for y in starts]


WHOLE: Window = (0, 0, 1, 1)
HALVES: list[Window] = [(0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)]
# smaller copies within a generated image; `benchmarks/copies.py` chose the steps
QUERY_WINDOWS = [
    WHOLE,
    *_spread(0.84, 3),
    *_spread(0.7, 3),
    *_spread(0.57, 4),
    *_spread(0.5, 5),
    *HALVES,
]
# crops of a training picture
MATCH_WINDOWS = [WHOLE, *_spread(0.87, 3), *_spread(0.75, 3), *_spread(0.62, 4), *HALVES]


def _content(picture: torch.Tensor) -> torch.Tensor:
    """The picture alone. picture: [LENGTH] uint8. [3, height, width], 0 to 1."""
    width, height = geometry.sides_of(picture)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    pixels = picture[: SIDE * SIDE * 3].view(SIDE, SIDE, 3)
    inside = pixels[top : top + height, left : left + width]
    return inside.permute(2, 0, 1).float() / 255


def _described(content: torch.Tensor, windows: list[Window]) -> torch.Tensor:
    """Windows as vectors of length 1, whose products are correlations; a flat window becomes 0.
    content: [3, height, width]. [len(windows), 3 * CELLS * CELLS]."""
    height, width = content.shape[1:]
    parts = []
    for left, top, right, bottom in windows:
        rows = slice(round(top * height), max(round(bottom * height), round(top * height) + 1))
        columns = slice(round(left * width), max(round(right * width), round(left * width) + 1))
        parts.append(adaptive_avg_pool2d(content[:, rows, columns], CELLS).flatten())
    values = torch.stack(parts)
    flat = values.view(len(values), 3, -1).var(2, correction=0).mean(1) < FLAT**2
    values = values - values.mean(1, keepdim=True)
    length = values.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return torch.where(flat[:, None], 0.0, values / length)


class WindowSearch:
    """Searches training pictures by windows.

    training: [M, LENGTH] uint8, as geometry.thumbnail gives them; at most MOST_PICTURES"""

    def __init__(self, training: torch.Tensor, device: torch.device) -> None:
        described = [_described(_content(p), MATCH_WINDOWS).half() for p in training]
        self.vectors = torch.stack(described).to(device)  # [M, windows, D]
        self.device = device

    @torch.no_grad()
    def scores(self, picture: torch.Tensor) -> torch.Tensor:
        """The largest correlation of any window of a generated image with any window of each
        training picture. picture: [LENGTH] uint8. [M]."""
        content = _content(picture)
        turned = torch.cat([_described(c, QUERY_WINDOWS) for c in (content, content.flip(2))]).to(
            self.device
        )
        rows = [(part.float() @ turned.T).amax((1, 2)) for part in self.vectors.split(256)]
        return torch.cat(rows)
