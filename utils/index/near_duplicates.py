"""Near-duplicates within an index: groups of images whose descriptors are close, found exactly or
from nearest neighbours.

Two images are a pair when the dot product of their stored vectors, as float32, is at least the
threshold; a group is a connected component of the graph of pairs (single linkage). So groups are
chains: a and b are a pair, b and c are, and a and c may look unlike; a threshold that is too low
chains a whole set together. The vector 0, of a flat picture under `pixel`, has cosine 0 with
everything: two flat grey pictures are not found."""

from dataclasses import dataclass

import numpy as np

# torch and scipy are imported where they are used: options may read this room's constants, and
# --help must answer at once
EXACT_ROWS = 1_000_000  # up to here every pair is looked at: 5e11 products
NEIGHBOURS = 32  # of a row, from which groups are made beyond
BLOCK_ROWS = {"cpu": 4096, "cuda": 16384}  # scores of two blocks: 64 MB, 1 GB


class Components:
    """Which rows belong together, by union-find on whole arrays; a component is known by its lowest
    row."""

    def __init__(self, count):
        # a lower row of the same component, or the row itself when it is the lowest
        self.above = np.arange(count)

    def roots(self, rows):
        """The lowest row of the component of each row. [n] -> [n] int64."""
        found = self.above[rows]
        while not np.array_equal(higher := self.above[found], found):
            found = higher
        self.above[rows] = found  # the next way is short
        return found

    def merge(self, left, right):
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

    def merge_near(self, near, rows, columns):
        """Join the components of rows[i] and columns[j] wherever near[i, j], without a list of the
        pairs, which may be all: every row and column takes its first pair that joins something, as
        long as there are any. That at least halves the components that have pairs left.

        near: bool tensor [r, c], which is overwritten; rows: [r]; columns: [c].
        """
        import torch

        while True:
            left, right = (torch.from_numpy(self.roots(r)).to(near.device) for r in (rows, columns))
            near &= left[:, None] != right[None]
            if not near.any():
                return
            for axis, own, others in ((1, rows, columns), (0, columns, rows)):
                there, first = (part.cpu().numpy() for part in near.view(torch.uint8).max(axis))
                self.merge(own[there > 0], others[first[there > 0]])

    def labels(self):
        """Of every row the lowest row of its component. Returns: [N] int64."""
        return self.roots(np.arange(len(self.above)))


# Finding ------------------------------------------------------------------------------------------


def exact_groups(index, *, threshold, device=None, block_rows=None, wrap=iter, part=0, parts=1):
    """Groups of an index from all its pairs, block by block; cost grows with the square of its
    rows.

    index: VectorIndex; threshold: of a pair, above 0; device: that computes, else the CPU; wrap:
    takes the list of pairs of blocks, for a bar; part, parts: look at the part-th of `parts` shares
    of the pairs of blocks alone: labels of all parts, joined by `joined`, are those of the whole.
    Holds two blocks of vectors, their matrix of scores and, where they are near, as much again, and
    some arrays of 8 bytes a row of the index; never N x N and never a list of pairs. 20,480 rows of
    512 take 2.2 s on one core; by the square a million 87 minutes, ten million 6 days. Returns: [N]
    int64, of every row the lowest row of its group."""
    import torch

    device = torch.device(device or "cpu")
    step = min(
        block_rows or BLOCK_ROWS.get(device.type, BLOCK_ROWS["cpu"]), index.block_rows(), len(index)
    )
    spans = [
        np.arange(first, min(first + step, len(index))) for first in range(0, len(index), step)
    ]
    pairs = [(i, j) for i in range(len(spans)) for j in range(i, len(spans))]
    pairs = pairs[len(pairs) * part // parts : len(pairs) * (part + 1) // parts]
    components, held = Components(len(index)), None
    scores = torch.empty(step * step, device=device)
    for i, j in wrap(pairs):
        if len(np.unique(components.roots(np.concatenate([spans[i], spans[j]])))) == 1:
            continue  # of one group already, as in a large cluster of equal pictures
        if held != i:
            block, held = torch.from_numpy(index.take(spans[i])).to(device), i
        other = block if i == j else torch.from_numpy(index.take(spans[j])).to(device)
        found = torch.mm(block, other.T, out=scores[: len(block) * len(other)].view(len(block), -1))
        if i == j:
            found.fill_diagonal_(-1)
        rows = (found.amax(1) >= threshold).nonzero()[:, 0]
        if len(rows):  # in most pairs of blocks nothing is near, in most others little
            near = found.index_select(0, rows) >= threshold
            columns = near.any(0).nonzero()[:, 0]
            near = near.index_select(1, columns)
            components.merge_near(
                near, spans[i][rows.cpu().numpy()], spans[j][columns.cpu().numpy()]
            )
    return components.labels()


def joined(parts):
    """Labels of a whole from labels of its parts. parts: [[N] int64]. Returns: [N] int64."""
    components = Components(len(parts[0]))
    for labels in parts:
        components.merge(np.arange(len(labels)), labels)
    return components.labels()


def neighbours(index, searcher, *, k=NEIGHBOURS, wrap=iter):
    """The k nearest rows of every row, block by block.

    searcher: its search(vectors [n, D] float32 array, k) gives (scores [n, k], rows [n, k]), best
    first, row -1 for none. Yields: (rows [n], scores [n, k + 1], matches [n, k + 1]), the row
    itself most often among them."""
    for first, block in wrap(index.blocks()):
        scores, matches = searcher.search(block.numpy(), k + 1)
        yield np.arange(first, first + len(block)), np.asarray(scores), np.asarray(matches)


def approximate_groups(index, found, *, threshold):
    """Groups of an index from the nearest rows of every row.

    found: iterable of (rows [n], scores [n, k], matches [n, k]), scores exact, matches -1 for none.
    A pair is missed when neither is among the nearest found of the other: groups may fall into
    several, and none is larger than the exact ones. Holds some arrays of 8 bytes a row of the
    index, besides what `found` holds; `groups_of` then as many again, and whoever names members
    holds a Python object for each. Returns: [N] int64, of every row the lowest row of its group.
    """
    components = Components(len(index))
    for rows, scores, matches in found:
        near = (np.asarray(scores) >= threshold) & (np.asarray(matches) >= 0)
        components.merge(
            np.broadcast_to(np.asarray(rows)[:, None], near.shape)[near], np.asarray(matches)[near]
        )
    return components.labels()


# Groups -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """Groups of two rows or more, the largest first, then by lowest row; of each the row to keep
    first.

    rows: [M] int64, group after group; starts: [G + 1] int64, where in `rows` each group begins;
    similarity: [M] float32 of each row to the one of its group to keep, within [-1, 1], of that one
    itself 1."""

    rows: np.ndarray
    starts: np.ndarray
    similarity: np.ndarray

    def __len__(self):
        return len(self.starts) - 1

    @property
    def sizes(self):
        """[G] int64."""
        return np.diff(self.starts)

    @property
    def numbers(self):
        """The group of every one of `rows`, from 0. [M] int64."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @property
    def ranks(self):
        """The place of every one of `rows` in its group, 0 for the one to keep. [M] int64."""
        return np.arange(len(self.rows)) - np.repeat(self.starts[:-1], self.sizes)


def groups_of(index, labels):
    """The groups that labels tell. The row to keep, first, is of the largest picture: width x
    height, then bytes, then the lowest row; the others follow in that order. labels: [N] int64.
    Returns: Groups."""
    found, sizes = np.unique(labels, return_counts=True)
    found, sizes = found[sizes > 1], sizes[sizes > 1]
    order = np.lexsort((found, -sizes))
    starts = np.concatenate([[0], np.cumsum(sizes[order])])
    rows = np.flatnonzero(np.isin(labels, found))
    number = np.empty(len(found), np.int64)
    number[order] = np.arange(len(found))
    number = number[np.searchsorted(found, labels[rows])]
    pixels, size = _picture_sizes(index, rows)
    rows = rows[np.lexsort((rows, -size, -pixels, number))]
    kept = np.repeat(rows[starts[:-1]], np.diff(starts))
    # vectors stored in half precision have lengths of 1 within some 1e-4
    similarity = similarities(index, rows, kept).clip(-1, 1)
    similarity[starts[:-1]] = 1
    return Groups(rows, starts, similarity)


def _picture_sizes(index, rows):
    """(width x height, bytes) of some rows, 0 where it is not known. rows: [M], ascending. Returns:
    two of [M] int64."""
    known = index.arrow(rows, ("width", "height", "bytes"))
    width, height, size = (c.cast("int64").fill_null(0).to_numpy() for c in known.columns)
    return width * height, size


def similarities(index, left, right):
    """Dot products of the stored vectors of left[i] and right[i]. left, right: [M] rows. Returns:
    [M] float32."""
    found = np.empty(len(left), np.float32)
    step = index.block_rows()
    for start in range(0, len(left), step):
        a, b = (index.take(rows[start : start + step]) for rows in (left, right))
        found[start : start + step] = np.einsum("nd,nd->n", a, b)
    return found
