"""Groups by the whole matrix; large sets, chains and clusters are tested with --dedup
(tests/index/test_near_duplicates.py)."""

import numpy as np
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
