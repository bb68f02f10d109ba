"""Near-duplicates in an index: groups of images whose descriptors are close, found exactly or from
nearest neighbours.

Two images are a pair when the dot product of their stored vectors, as float32, is at least the
threshold; a group is a connected component of the graph of pairs (single linkage). So groups are
chains: a and b are a pair, b and c are a pair, and a and c may look unlike. A threshold that is too
low joins a whole set into one chain. The zero vector of a uniformly grey image under `pixel` has
cosine 0 with everything: two equal grey images are not a pair.

Exact groups hold two blocks of vectors, their matrix of scores and, where rows are near, as much
again, and some arrays of 8 bytes per row of the index; never N x N and never a list of pairs.
20,480 rows of 512 dimensions take 2.2 s on one core; by the square a million take 87 minutes, ten
million 6 days."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from utils.retrieval.formulas.groups import Components, block_pairs, merge_pairs, products

if TYPE_CHECKING:
    import torch

    from utils.index.search import Searcher, Wrap
    from utils.index.vector_index import VectorIndex

# torch and scipy are imported where they are used: options may read the constants of this module,
# and --help must answer at once
EXACT_ROWS = 1_000_000  # up to here all pairs are compared: 5e11 products; above, neighbours
NEIGHBOURS = 32  # of each row, for groups of a larger index
BLOCK_ROWS = {"cpu": 4096, "cuda": 16384}  # the scores of two blocks take 64 MB or 1 GB

# of some rows: (rows [n], scores [n, k], matches [n, k], -1 for an empty place)
Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]


# Finding ------------------------------------------------------------------------------------------


def exact_groups(
    index: VectorIndex,
    *,
    threshold: float,
    device: torch.device | None = None,
    block_rows: int | None = None,
    wrap: Callable[[list], Iterable] = iter,
    part: int = 0,
    parts: int = 1,
) -> np.ndarray:
    """Groups of an index from all its pairs of rows, block by block, at a cost that grows with the
    square of the rows.

    threshold: the score of a pair, above 0.
    device: where scores are computed; None for the CPU.
    block_rows: rows of a block, else BLOCK_ROWS.
    wrap: wraps the list of pairs of blocks, for a progress bar.
    part, parts: compute the part-th of `parts` shares of the pairs of blocks only. The labels of
        all parts, joined by `joined`, are those of the whole.

    Returns: [N] int64, the lowest row of the group of every row."""
    import torch

    device = torch.device(device or "cpu")
    step = min(
        block_rows or BLOCK_ROWS.get(device.type, BLOCK_ROWS["cpu"]), index.block_rows(), len(index)
    )
    spans, pairs = block_pairs(len(index), step)
    pairs = pairs[len(pairs) * part // parts : len(pairs) * (part + 1) // parts]
    components, loaded = Components(len(index)), None
    scores = torch.empty(step * step, device=device)  # reused by every pair of blocks
    for i, j in wrap(pairs):
        if len(np.unique(components.roots(np.concatenate([spans[i], spans[j]])))) == 1:
            continue  # already one group, as in a large cluster of equal images
        if loaded != i:
            block, loaded = torch.from_numpy(index.take(spans[i])).to(device), i
        other = block if i == j else torch.from_numpy(index.take(spans[j])).to(device)
        near = products(block, other, scores)
        merge_pairs(components, near, spans[i], spans[j], threshold=threshold)
    return components.labels()


def joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Join groups that were found in parts: rows that are equal in one part's labels have equal
    labels. parts: [[N] int64]. Returns: [N] int64."""
    parts = list(parts)
    components = Components(len(parts[0]))
    for labels in parts:
        components.merge(np.arange(len(labels)), labels)
    return components.labels()


def neighbours(
    index: VectorIndex, searcher: Searcher, *, k: int = NEIGHBOURS, wrap: Wrap = iter
) -> Iterator[Neighbours]:
    """The k nearest rows of every row, block by block.

    searcher: its answers are ordered by score, with row -1 for an empty place.

    Yields: (rows [n], scores [n, k + 1], matches [n, k + 1]); the row itself is usually among its
    matches."""
    for first, block in wrap(index.blocks()):
        scores, matches = searcher.search(block.numpy(), k + 1)
        yield np.arange(first, first + len(block)), np.asarray(scores), np.asarray(matches)


def approximate_groups(
    index: VectorIndex, nearest: Iterable[Neighbours], *, threshold: float
) -> np.ndarray:
    """Groups of an index from the nearest rows of every row.

    nearest: as `neighbours` yields it, with exact scores.

    A pair is missed when neither row is among the nearest of the other: a group may fall into
    several, and none is larger than the exact one. Holds some arrays of 8 bytes per row of the
    index; `groups_of` then holds as many again, and whoever lists members one object each.

    Returns: [N] int64, the lowest row of the group of every row."""
    components = Components(len(index))
    for rows, scores, matches in nearest:
        near = (np.asarray(scores) >= threshold) & (np.asarray(matches) >= 0)
        components.merge(
            np.broadcast_to(np.asarray(rows)[:, None], near.shape)[near], np.asarray(matches)[near]
        )
    return components.labels()


# Groups -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """Groups of two rows or more, the largest first, then by lowest row. The first row of a group
    is the one to keep."""

    rows: np.ndarray  # [M] int64, group after group
    starts: np.ndarray  # [G + 1] int64, where in `rows` each group begins, and M
    similarity: np.ndarray  # [M] float32 in [-1, 1], of each row to the kept row of its group

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """The number of rows of each group. [G] int64."""
        return np.diff(self.starts)

    @property
    def numbers(self) -> np.ndarray:
        """The number of the group of each of `rows`, from 0. [M] int64."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @property
    def ranks(self) -> np.ndarray:
        """The place of each of `rows` in its group, 0 for the row to keep. [M] int64."""
        return np.arange(len(self.rows)) - np.repeat(self.starts[:-1], self.sizes)


def groups_of(index: VectorIndex, labels: np.ndarray) -> Groups:
    """The groups of rows with equal labels. The row to keep comes first: that of the largest image
    by width x height, then by bytes, then the lowest row. The others follow in the same order.

    labels: [N] int64."""
    values, sizes = np.unique(labels, return_counts=True)
    values, sizes = values[sizes > 1], sizes[sizes > 1]
    order = np.lexsort((values, -sizes))
    starts = np.concatenate([[0], np.cumsum(sizes[order])])
    rows = np.flatnonzero(np.isin(labels, values))
    number_of_value = np.empty(len(values), np.int64)
    number_of_value[order] = np.arange(len(values))
    number = number_of_value[np.searchsorted(values, labels[rows])]
    pixels, size = _picture_sizes(index, rows)
    rows = rows[np.lexsort((rows, -size, -pixels, number))]
    kept = np.repeat(rows[starts[:-1]], np.diff(starts))
    # vectors stored in half precision have a length of 1 within some 1e-4
    similarity = similarities(index, rows, kept).clip(-1, 1)
    similarity[starts[:-1]] = 1
    return Groups(rows, starts, similarity)


def _picture_sizes(index, rows):
    """(width x height, bytes) of some rows, 0 where it is not known. rows: [M], ascending. Returns:
    two arrays [M] int64."""
    table = index.arrow(rows, ("width", "height", "bytes"))
    width, height, size = (c.cast("int64").fill_null(0).to_numpy() for c in table.columns)
    return width * height, size


def similarities(index: VectorIndex, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dot products of the stored vectors of left[i] and right[i]. left, right: [M] rows. Returns:
    [M] float32."""
    products = np.empty(len(left), np.float32)
    step = index.block_rows()
    for start in range(0, len(left), step):
        a, b = (index.take(rows[start : start + step]) for rows in (left, right))
        products[start : start + step] = np.einsum("nd,nd->n", a, b)
    return products
