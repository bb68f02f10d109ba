"""The nearest training images of each generated one, by their pixels: exact, in bounded memory.

All distances are computed in float32, as one product of matrices a block. The best CANDIDATES of
each image are then computed again in float64, and a bound on the error of float32 proves that no
other can be among the nearest; an image for which it does not is compared in float64 with all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CANDIDATES = 64  # at least: of each image, computed in float64
BLOCK_ROWS = 2048  # generated images at once, and half as many training images as are at once
EXACT_VALUES = 1_000_000  # float64 values that are held at once: 8 MB an array


def mirrored(rows: torch.Tensor) -> torch.Tensor:
    """[N, 3 size size] of images -> the same of their mirror images."""
    side = round((rows.shape[1] / 3) ** 0.5)
    return rows.unflatten(1, (3, side, side)).flip(3).flatten(1)


def nearest(
    generated: torch.Tensor,
    training: torch.Tensor,
    count: int,
    *,
    flip: bool = False,
    block_rows: int = BLOCK_ROWS,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Squared distances to the `count` nearest training images, ascending.

    generated: [N, D]; training: [M, D], M >= count; D = 3 size size with `flip`
    flip: a distance is the smaller of those to a training image and to its mirror image
    block_rows: 3 block_rows^2 distances are held at once
    device: that computes in float32; any that is not CUDA, which all have float64, is the CPU

    Returns: [N, count] float64, on the CPU."""
    import torch

    device = device if torch.device(device).type == "cuda" else "cpu"
    centre = _mean(training)
    found = torch.empty(len(generated), count, dtype=torch.float64)
    for first in range(0, len(generated), block_rows):
        query = generated[first : first + block_rows]
        approximate, indices, doubt = _candidates(
            query, training, max(count, CANDIDATES), centre, flip, block_rows, device
        )
        exact = _exact(query, training, indices, flip=flip).sort(1).values[:, :count]
        rest = approximate[:, -1] - doubt  # no image that is not a candidate is nearer
        if indices.shape[1] < len(training):
            for row in (rest < exact[:, -1]).nonzero().flatten().tolist():
                exact[row] = _of_all(query[row], training, count, flip=flip)
        found[first : first + block_rows] = exact
    return found


def _mean(rows: torch.Tensor, at_once: int = 4096) -> torch.Tensor:
    """Mean of [M, D] in float64, without a float64 copy of all."""
    import torch

    return torch.stack([part.double().sum(0) for part in rows.split(at_once)]).sum(0) / len(rows)


def _candidates(
    query: torch.Tensor,
    training: torch.Tensor,
    keep: int,
    centre: torch.Tensor,
    flip: bool,
    block_rows: int,
    device: torch.device | str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `keep` nearest by float32, on the CPU: distances [Q, keep] float64, ascending; indices
    [Q, keep]; and a bound [Q] on the error of each of all distances."""
    import torch

    sides = [_centred(each, centre, device) for each in _seen(query, flip)]
    lengths = [_squared_lengths(each) for each in sides]
    best = torch.empty(len(query), 0, device=device)
    which = torch.empty(len(query), 0, dtype=torch.int64, device=device)
    longest = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(training), 2 * block_rows):
        chunk = _centred(training[start : start + 2 * block_rows], centre, device)
        squares = _squared_lengths(chunk)
        longest = torch.maximum(longest, squares.max().cpu())
        block = _float_distances(sides[0], lengths[0], chunk, squares)
        for side, length in zip(sides[1:], lengths[1:], strict=True):
            block = torch.minimum(block, _float_distances(side, length, chunk, squares))
        few = min(keep, block.shape[1])
        values, at = block.topk(few, dim=1, largest=False)
        best, which = torch.cat([best, values], 1), torch.cat([which, at + start], 1)
        best, order = best.topk(min(keep, best.shape[1]), dim=1, largest=False, sorted=True)
        which = which.gather(1, order)
    length = torch.stack(lengths).amax(0).cpu()
    return best.cpu().double(), which.cpu(), _error(length, longest, query.shape[1])


def _squared_lengths(rows: torch.Tensor, at_once: int = 256) -> torch.Tensor:
    """[N, D] -> [N] float64, without a float64 copy of all."""
    import torch

    found = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for first in range(0, len(rows), at_once):
        found[first : first + at_once] = rows[first : first + at_once].double().square().sum(1)
    return found


def _seen(query: torch.Tensor, flip: bool) -> Iterator[torch.Tensor]:
    yield query
    if flip:  # the distance of x to the mirror image of t is that of the mirror image of x to t
        yield mirrored(query)


def _centred(rows: torch.Tensor, centre: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    # shorter vectors have smaller errors
    return (rows.to(device).float() - centre.to(device).float()).contiguous()


def _float_distances(
    query: torch.Tensor, lengths: torch.Tensor, chunk: torch.Tensor, squares: torch.Tensor
) -> torch.Tensor:
    import torch

    block = torch.addmm(squares.float()[None], query, chunk.T, alpha=-2)
    return block.add_(lengths.float()[:, None]).clamp_min_(0)


def _error(length: torch.Tensor, longest: torch.Tensor, size: int) -> torch.Tensor:
    """A bound on the error of the float32 distances between vectors of squared lengths [Q] and up
    to `longest`, with `size` components: that of a sum of products (Higham, Accuracy and
    Stability of Numerical Algorithms, 2002, section 3.1), of the inputs, and of the last sums."""
    unit = 2.0**-24
    products = 2 * (size + 8) * unit / (1 - size * unit)
    return products * (length * longest).sqrt() + 8 * unit * (length + longest)


def _exact(
    query: torch.Tensor, training: torch.Tensor, indices: torch.Tensor, *, flip: bool
) -> torch.Tensor:
    """Squared distances of [Q, D] to training images [Q, k], in float64. Returns: [Q, k]."""
    import torch

    rows = max(1, EXACT_VALUES // (indices.shape[1] * query.shape[1]))
    # written in place: small results between large arrays would leave memory in pieces
    found = torch.full(indices.shape, torch.inf, dtype=torch.float64)
    others = torch.empty(rows, indices.shape[1], query.shape[1], dtype=training.dtype)
    for first in range(0, len(query), rows):
        own = query[first : first + rows]
        at, few = indices[first : first + rows].flatten(), others[: len(own)]
        torch.index_select(training, 0, at, out=few.flatten(0, 1))
        for each in _seen(own, flip):
            distances = (few.double() - each.double()[:, None]).square_().sum(2)
            found[first : first + rows] = found[first : first + rows].minimum(distances)
    return found


def _of_all(query: torch.Tensor, training: torch.Tensor, count: int, *, flip: bool) -> torch.Tensor:
    """The `count` smallest squared distances of one image [D] to all, in float64, ascending."""
    import torch

    rows = max(count, EXACT_VALUES // query.shape[0])
    best = torch.empty(0, dtype=torch.float64)
    for chunk in training.split(rows):
        others = chunk.double()
        own = (each.double() for each in _seen(query[None], flip))
        distances = torch.stack([(others - each).square_().sum(1) for each in own]).amin(0)
        best = torch.cat([best, distances])
        best = best.topk(min(count, len(best)), largest=False, sorted=True).values
    return best
