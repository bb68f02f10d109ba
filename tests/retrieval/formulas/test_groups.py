"""Groups by the whole matrix; large sets, chains and clusters are tested with --dedup
(tests/index/test_near_duplicates.py)."""

import numpy as np
import pytest
import torch

from utils.retrieval.formulas import groups


def test_components_by_hand():
    found = groups.Components(7)
    found.merge(np.array([5, 1]), np.array([3, 2]))
    assert found.labels().tolist() == [0, 1, 1, 3, 4, 3, 6]
    found.merge(np.array([2]), np.array([5]))
    assert found.labels().tolist() == [0, 1, 1, 1, 4, 1, 6]


def test_pairs_of_blocks_cover_every_pair_once():
    spans, pairs = groups.block_pairs(7, 3)
    assert [s.tolist() for s in spans] == [[0, 1, 2], [3, 4, 5], [6]]
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def test_a_row_is_no_pair_with_itself():
    block, buffer = torch.eye(3), torch.empty(9)
    assert groups.products(block, block, buffer).diagonal().tolist() == [-1, -1, -1]
    assert groups.products(block, block.clone(), buffer).diagonal().tolist() == [1, 1, 1]


def unit(vectors):
    return torch.nn.functional.normalize(torch.as_tensor(vectors, dtype=torch.float32), dim=1)


def test_a_chain_is_one_group_and_zero_rows_are_none():
    # steps of 10 degrees: neighbours score 0.985, the ends of the chain -0.17
    angles = np.radians([0, 10, 90, 20, 30, 180])
    vectors = unit(np.stack([np.cos(angles), np.sin(angles)], 1))
    vectors = torch.cat([vectors, torch.zeros(2, 2)])
    labels = groups.group_labels(vectors, 0.98)
    assert labels.tolist() == [0, 0, 2, 0, 0, 5, 6, 7]
    assert groups.other_members(labels).tolist() == [3, 3, 0, 3, 3, 0, 0, 0]
    assert groups.group_labels(vectors, 0.99).tolist() == list(range(8))


def test_blocks_give_the_groups_of_the_whole_matrix():
    from scipy.sparse.csgraph import connected_components

    vectors = unit(np.random.default_rng(0).standard_normal((60, 3)))
    scores = (vectors @ vectors.T).numpy()
    _, component = connected_components(scores >= 0.97, directed=False)
    expected = [np.flatnonzero(component == c)[0] for c in component]
    for rows in (7, 60, 4096):
        assert groups.group_labels(vectors, 0.97, block_rows=rows).tolist() == expected
    assert groups.other_members(np.array(expected)).tolist() == [
        expected.count(label) - 1 for label in expected
    ]


def test_a_threshold_of_zero_would_join_all():
    with pytest.raises(ValueError, match="is above 0, not 0"):
        groups.group_labels(unit(np.eye(2)), 0)
