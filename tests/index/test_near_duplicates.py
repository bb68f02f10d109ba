"""Groups of near-duplicates: blocks against the whole matrix, chains and large clusters, and which
image of a group is kept."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from tests.indices import index_of
from utils.index.near_duplicates import (
    Components,
    approximate_groups,
    exact_groups,
    groups_of,
    joined,
    neighbours,
)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def scattered(rng):
    """60 directions in 3 dimensions: components of many sizes."""
    return unit(rng.standard_normal((60, 3)))


def chain(rng):
    """A half circle in steps of 5 degrees, in any order: its ends are opposite."""
    angles = rng.permutation(np.radians(np.arange(0, 180, 5)))
    return unit(np.stack([np.cos(angles), np.sin(angles)], 1))


def clusters(rng):
    """Two clusters of equal vectors, of 30 and of 8, among strangers, and three vectors 0."""
    strangers = rng.standard_normal((15, 64))
    vectors = np.concatenate(
        [np.repeat(strangers[:1], 30, 0), np.repeat(strangers[1:2], 8, 0), strangers[2:]]
    )
    return np.concatenate([unit(vectors), np.zeros((3, 64), np.float32)])[rng.permutation(54)]


# name -> (vectors, threshold, sizes of the groups that there are, where they are known)
CASES = {
    "scattered": (scattered, 0.97, None),
    "chain": (chain, 0.99, [36]),
    "clusters": (clusters, 0.9, [30, 8]),
}


def naive(vectors, threshold):
    """Labels from the whole matrix of scores of what is stored."""
    stored = vectors.astype(np.float16).astype(np.float32)
    scores = stored @ stored.T
    assert abs(scores - threshold).min() > 1e-6  # else rounding may decide
    _, component = connected_components(scores >= threshold, directed=False)
    return np.array([np.flatnonzero(component == c)[0] for c in component])


def sizes_of(labels):
    counts = np.unique(labels, return_counts=True)[1]
    return sorted(counts[counts > 1].tolist(), reverse=True)


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("block_rows", [1, 3, 7, 1000])
def test_blocks_give_the_components_of_the_whole_matrix(tmp_path, case, block_rows):
    make, threshold, sizes = CASES[case]
    vectors = make(np.random.default_rng(1))
    index = index_of(tmp_path, vectors, names=("0", "1", "2"))
    labels = exact_groups(index, threshold=threshold, block_rows=block_rows)
    assert labels.dtype == np.int64
    assert np.array_equal(labels, naive(vectors, threshold))
    assert sizes_of(labels) == sizes if sizes else 2 < len(sizes_of(labels)) < 30


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_the_parts_of_several_processes_join_to_the_whole(tmp_path, parts):
    vectors = scattered(np.random.default_rng(2))
    index = index_of(tmp_path, vectors)
    asked = []

    def wrap(pairs):
        asked.extend(pairs)
        return pairs

    labels = [
        exact_groups(index, threshold=0.97, block_rows=8, wrap=wrap, part=p, parts=parts)
        for p in range(parts)
    ]
    assert np.array_equal(joined(labels), naive(vectors, 0.97))
    assert len(asked) == len(set(asked)) == 8 * 9 / 2  # each pair of blocks once
    assert not np.array_equal(labels[0], joined(labels))


def test_a_large_cluster_is_never_a_list_of_pairs(tmp_path, monkeypatch):
    """20,000 equal pictures are 2e8 pairs; what is merged is some per row."""
    vectors = np.zeros((20_000, 8), np.float32)
    vectors[:, 0] = 1
    vectors[[5, 19_000], :2] = (0, 1)
    index, edges = index_of(tmp_path, vectors), []
    merge = Components.merge
    monkeypatch.setattr(
        Components, "merge", lambda self, a, b: (edges.append(len(a)), merge(self, a, b))[1]
    )
    labels = exact_groups(index, threshold=0.5, block_rows=2048)
    assert labels[5] == labels[19_000] == 5
    assert set(np.delete(labels, [5, 19_000])) == {0}
    assert 20_000 < sum(edges) < 60_000


def test_a_star_is_joined_in_few_merges(monkeypatch):
    """One row that is near to all others, which are not near to each other."""
    import torch

    components, merges = Components(300), []
    merge = Components.merge
    monkeypatch.setattr(
        Components, "merge", lambda self, a, b: (merges.append(len(a)), merge(self, a, b))[1]
    )
    near = torch.zeros(100, 200, dtype=torch.bool)
    near[17] = True
    components.merge_near(near, np.arange(100), np.arange(100, 300))
    assert sizes_of(components.labels()) == [201]
    assert components.labels()[299] == 17
    assert len(merges) <= 4


def test_union_find_against_scipy():
    rng = np.random.default_rng(0)
    components, everything = Components(500), np.zeros((500, 500), bool)
    for count in (40, 0, 1, 200, 30):
        left, right = rng.integers(500, size=(2, count))
        everything[left, right] = True
        components.merge(left, right)
        _, expected = connected_components(everything, directed=False)
        labels = components.labels()
        assert (labels <= np.arange(500)).all()
        assert np.array_equal(labels[labels], labels)
        assert np.array_equal(labels[:, None] == labels[None], expected[:, None] == expected[None])


# From nearest neighbours --------------------------------------------------------------------------


class Searcher:
    """Exact search of held vectors, as an approximate one answers: best first, filled up with
    -1."""

    def __init__(self, vectors):
        self.vectors, self.asked = vectors.astype(np.float16).astype(np.float32), []

    def search(self, query, k):
        self.asked.append((len(query), k))
        scores = query @ self.vectors.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, rows, 1)
        missing = ((0, 0), (0, k - rows.shape[1]))
        return np.pad(scores, missing, constant_values=-np.inf), np.pad(
            rows, missing, constant_values=-1
        )


@pytest.mark.parametrize("case", list(CASES))
def test_enough_neighbours_give_the_exact_groups(tmp_path, case, monkeypatch):
    make, threshold, _ = CASES[case]
    vectors = make(np.random.default_rng(3))
    index, searcher = index_of(tmp_path, vectors, names=("0", "1")), Searcher(vectors)
    # blocks of 10 rows
    monkeypatch.setattr("utils.index.vector_index.BLOCK_BYTES", 4 * vectors.shape[1] * 10)
    nearest = list(neighbours(index, searcher, k=70))
    assert np.array_equal(np.concatenate([rows for rows, _, _ in nearest]), np.arange(len(vectors)))
    assert {k for _, k in searcher.asked} == {71}
    assert max(n for n, _ in searcher.asked) == 10
    assert (nearest[0][2] == -1).any()
    assert np.array_equal(
        approximate_groups(index, nearest, threshold=threshold), naive(vectors, threshold)
    )


def test_a_pair_is_found_when_either_knows_the_other(tmp_path):
    index = index_of(tmp_path, np.eye(6, dtype=np.float32))
    nearest = [
        (
            np.array([0, 1, 2]),
            np.array([[1, 0.9], [1, 0.2], [1, 0.95]]),
            np.array([[0, 4], [1, 0], [2, 4]]),
        ),
        (
            np.array([3, 4, 5]),
            np.array([[1, 0.99], [1, 0], [1, 0.5]]),
            np.array([[3, -1], [4, 1], [5, 3]]),
        ),
    ]
    assert approximate_groups(index, nearest, threshold=0.5).tolist() == [0, 1, 0, 3, 0, 3]
    assert approximate_groups(index, nearest, threshold=0.92).tolist() == [0, 1, 2, 3, 2, 5]


def test_too_few_neighbours_split_a_group_and_join_none(tmp_path):
    vectors = scattered(np.random.default_rng(4))
    index = index_of(tmp_path, vectors)
    exact = naive(vectors, 0.97)
    labels = approximate_groups(index, neighbours(index, Searcher(vectors), k=1), threshold=0.97)
    assert len(np.unique(labels)) > len(np.unique(exact))
    assert np.array_equal(exact[labels], exact)


# What is kept -------------------------------------------------------------------------------------


def picture(i, width=None, height=None, size=1):
    return {"key": f"{i}.png", "bytes": size, "width": width, "height": height}


def test_groups_by_size_and_in_each_the_largest_picture_first(tmp_path):
    rng = np.random.default_rng(5)
    base, other = unit(rng.standard_normal((2, 32)))
    vectors = unit(rng.standard_normal((10, 32)))
    vectors[[1, 8]] = other, unit(other[None] + 0.02 * rng.standard_normal((1, 32)))[0]
    for row in (2, 4, 5, 9):
        vectors[row] = unit(base[None] + 0.02 * rng.standard_normal((1, 32)))[0]
    vectors[[0, 3]] = vectors[7]
    rows = [picture(i) for i in range(10)]
    # as many pixels, more bytes
    rows[2], rows[4] = picture(2, 10, 20, 900), picture(4, 20, 10, 901)
    rows[5], rows[9] = picture(5, 5, 5, 10_000), picture(9, 200, 1, 901)  # as large as 4 in both
    index = index_of(tmp_path, vectors, rows, names=("0", "1", "2"))
    groups = groups_of(index, exact_groups(index, threshold=0.9))
    assert groups.rows.tolist() == [4, 9, 2, 5, 0, 3, 7, 1, 8]
    assert groups.starts.tolist() == [0, 4, 7, 9]
    assert groups.sizes.tolist() == [4, 3, 2]
    assert len(groups) == 3
    assert groups.numbers.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert groups.ranks.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    stored = vectors.astype(np.float16).astype(np.float32)
    kept = stored[[4, 4, 4, 4, 0, 0, 0, 1, 1]]
    products = (stored[groups.rows] * kept).sum(1)
    assert products.max() > 1.0001  # half precision
    products[[0, 4, 7]] = 1  # of the ones to keep with themselves
    np.testing.assert_allclose(groups.similarity, products.clip(-1, 1), atol=1e-6)
    assert groups.similarity.max() == 1
    assert groups.similarity[4:7] == pytest.approx(1, abs=1e-3)
    assert 0.9 < groups.similarity[1:4].min() < 0.999


def test_groups_of_equal_size_are_ordered_by_their_lowest_row(tmp_path):
    index = index_of(tmp_path, np.eye(4, dtype=np.float32)[[3, 1, 1, 3, 0, 2]])
    groups = groups_of(index, exact_groups(index, threshold=0.9))
    assert groups.rows.tolist() == [0, 3, 1, 2]


def test_no_groups(tmp_path):
    index = index_of(tmp_path, np.eye(5, dtype=np.float32))
    groups = groups_of(index, exact_groups(index, threshold=0.5))
    assert (len(groups), groups.rows.tolist(), groups.sizes.tolist()) == (0, [], [])
    assert (len(groups.similarity), groups.numbers.tolist(), groups.ranks.tolist()) == (0, [], [])
