"""Groups of near-duplicates: connected components of vectors whose similarity is at least a
threshold (single linkage).

A group is a chain: a and b are a pair, b and c are a pair, and a and c may look unlike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# torch and scipy are imported where they are used: options may read the constants of this module,
# and --help must answer at once

BLOCK_ROWS = 4096  # of descriptors in memory; the scores of two blocks take 64 MB
# --pt_style -> score from which two images count as near-duplicates. SSCD's authors report a
# precision of 90 % at 0.75; the 0.5 of the papers on copying is for generated images
NEAR_DUPLICATES = {"pixel": 0.95, "sscd": 0.75}


class Components:
    """Connected components of rows: union-find on whole arrays. A component is identified by its
    lowest row."""

    def __init__(self, count: int) -> None:
        # a lower row of the same component, or the row itself when it is the lowest
        self.above = np.arange(count)

    def roots(self, rows: np.ndarray) -> np.ndarray:
        """The lowest row of the component of each row. [n] -> [n] int64."""
        roots = self.above[rows]
        while not np.array_equal(higher := self.above[roots], roots):
            roots = higher
        self.above[rows] = roots  # path compression: the next search is short
        return roots

    def merge(self, left: np.ndarray, right: np.ndarray) -> None:
        """Join the components of left[i] and right[i], for all i. left, right: [n] rows."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.stack([self.roots(left), self.roots(right)], 1)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        if not len(pairs):
            return
        nodes, places = np.unique(pairs, return_inverse=True)
        places = places.reshape(-1, 2)
        graph = coo_array(
            (np.ones(len(places), bool), (places[:, 0], places[:, 1])),
            shape=(len(nodes), len(nodes)),
        )
        number, component = connected_components(graph, directed=False)
        lowest = np.full(number, len(self.above))
        np.minimum.at(lowest, component, nodes)
        self.above[nodes] = lowest[component]

    def merge_near(self, near: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> None:
        """Join the components of rows[i] and columns[j] wherever near[i, j], without a list of the
        pairs. Repeatedly, each row and each column merges with its first neighbour of another
        component; a repetition at least halves the number of components that have such neighbours.

        near: bool tensor [r, c], which is overwritten; rows: [r]; columns: [c]."""
        import torch

        while True:
            left, right = (torch.from_numpy(self.roots(r)).to(near.device) for r in (rows, columns))
            near &= left[:, None] != right[None]
            if not near.any():
                return
            for axis, own, others in ((1, rows, columns), (0, columns, rows)):
                # the first maximum of 0 and 1 is the first neighbour
                has_any, first = (part.cpu().numpy() for part in near.view(torch.uint8).max(axis))
                self.merge(own[has_any > 0], others[first[has_any > 0]])

    def labels(self) -> np.ndarray:
        """The lowest row of the component of every row. Returns: [N] int64."""
        return self.roots(np.arange(len(self.above)))


# Pairs of blocks ----------------------------------------------------------------------------------


def block_pairs(count: int, step: int) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Blocks of `step` consecutive rows of `count`, and all pairs of blocks. Returns: ([[n] rows],
    [(i, j)], i <= j)."""
    spans = [np.arange(first, min(first + step, count)) for first in range(0, count, step)]
    return spans, [(i, j) for i in range(len(spans)) for j in range(i, len(spans))]


def products(block: torch.Tensor, other: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
    """Scores of every row of a block [r, D] with every row of another [c, D], in the memory of
    `buffer`; -1 for a row with itself. Returns: [r, c]."""
    import torch

    out = buffer[: len(block) * len(other)].view(len(block), -1)
    scores = torch.mm(block, other.T, out=out)
    if other is block:
        scores.fill_diagonal_(-1)
    return scores


def merge_pairs(
    components: Components,
    scores: torch.Tensor,
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    threshold: float,
) -> None:
    """Join the components of rows[i] and columns[j] wherever scores[i, j] is at least the
    threshold. scores: [r, c] tensor."""
    near_rows = (scores.amax(1) >= threshold).nonzero()[:, 0]
    if not len(near_rows):  # most pairs of blocks have no near rows, most others few
        return
    near = scores.index_select(0, near_rows) >= threshold
    near_columns = near.any(0).nonzero()[:, 0]
    near = near.index_select(1, near_columns)
    components.merge_near(near, rows[near_rows.cpu().numpy()], columns[near_columns.cpu().numpy()])


# Groups of descriptors in memory ------------------------------------------------------------------


def group_labels(
    descriptors: torch.Tensor,
    threshold: float,
    *,
    device: torch.device | None = None,
    block_rows: int = BLOCK_ROWS,
) -> np.ndarray:
    """The groups of near-duplicates among descriptors, as --dedup finds them in an index, but of
    vectors in full precision. The cost grows with the square of M; no M x M is held.

    descriptors: [M, D], normalised; a zero row is in no group;
    threshold: score of a pair, above 0; ValueError otherwise;
    device: that computes; None: the descriptors' own.

    Returns: [M] int64, the lowest row of the group of every row."""
    import torch

    if threshold <= 0:
        raise ValueError(f"a threshold of near-duplicates is above 0, not {threshold}")
    components, rows = Components(len(descriptors)), descriptors.float()
    on = device or rows.device
    spans, pairs = block_pairs(len(rows), block_rows)
    buffer = torch.empty(min(block_rows, len(rows)) ** 2, device=on)
    blocks = [rows[span[0] : span[-1] + 1].to(on) for span in spans]
    for i, j in pairs:
        near = products(blocks[i], blocks[j], buffer)
        merge_pairs(components, near, spans[i], spans[j], threshold=threshold)
    return components.labels()


def other_members(labels: np.ndarray) -> np.ndarray:
    """How many other rows are in the group of every row. labels: [M] of `group_labels`. Returns:
    [M] int64, 0 for a row without near-duplicates."""
    _, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return sizes[places] - 1
