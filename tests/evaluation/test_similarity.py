import numpy as np
import pytest
import torch

from utils.evaluation import similarity as sim


def unit(n, d, seed):
    return sim.normalised(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def naive(query, train, k, exclude_self=False):
    scores = (query @ train.T).double().numpy()
    if exclude_self:
        np.fill_diagonal(scores, -np.inf)
    order = np.lexsort((np.broadcast_to(np.arange(len(train)), scores.shape), -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 17, 100])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_blocks_agree_with_the_full_matrix(chunk_size, exclude_self):
    train = unit(17, 8, 0)
    query = train if exclude_self else unit(11, 8, 1)
    scores, indices = sim.top_matches(query, train, k=5, chunk_size=chunk_size, exclude_self=exclude_self)
    expected, order = naive(query, train, 5, exclude_self)
    assert np.array_equal(indices, order)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [3, 8, 64])
def test_ties_go_to_the_lower_index_whatever_the_blocks(chunk_size):
    # dot products of small whole numbers: many exact ties, zeros and negative scores among them
    generator = torch.Generator().manual_seed(0)
    query, train = (torch.randint(-2, 3, (n, 3), generator=generator).float() for n in (20, 60))
    scores, indices = sim.top_matches(query, train, k=9, chunk_size=chunk_size)
    expected, order = naive(query, train, 9)
    assert np.array_equal(indices, order)
    assert np.array_equal(scores, expected)


def test_an_image_is_not_its_own_match_but_its_twin_is():
    train = unit(5, 4, 0)
    train[3] = train[1]
    scores, indices = sim.top_matches(train, train, k=1, exclude_self=True)
    assert indices[1] == 3
    assert indices[3] == 1
    assert scores[1] == pytest.approx(1.0)
    assert (indices[:, 0] != torch.arange(5)).all()


def test_more_matches_than_candidates():
    scores, indices = sim.top_matches(unit(3, 4, 0), unit(2, 4, 1), k=10)
    assert scores.shape == indices.shape == (3, 2)
    scores, _ = sim.top_matches(unit(3, 4, 0), unit(3, 4, 0), k=10, exclude_self=True)
    assert scores.shape == (3, 2)


def test_normalised_rows_have_length_one_and_zero_stays_zero():
    found = sim.normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_summary_by_hand():
    row = sim.summary([0.0, 1.0, 2.0, 3.0, 4.0], "sim")
    # linear percentiles of five values: 0.75 * 4 = 3, 0.9 * 4 = 3.6, 0.95 * 4 = 3.8; ddof 0: sqrt(2)
    assert row == pytest.approx({"sim_mean": 2, "sim_std": 2**0.5, "sim_75pc": 3, "sim_90pc": 3.6, "sim_95pc": 3.8})


def test_the_bootstrap_resamples_prompts_not_images():
    # 10 prompts of 20 identical images each: 200 images tell no more than 10
    hits = np.repeat(np.arange(10) < 5, 20)
    low, high = sim.bootstrap_share(hits, np.repeat(np.arange(10), 20), seed=0)
    assert (low, high) == (pytest.approx(0.2, abs=0.1), pytest.approx(0.8, abs=0.1))
    narrow = sim.bootstrap_share(hits, np.arange(200), seed=0)
    assert narrow[1] - narrow[0] < 0.2
    assert sim.bootstrap_share(hits, np.arange(200), seed=0) == narrow
    assert sim.bootstrap_share(np.ones(8, bool), np.arange(8), seed=0) == (1.0, 1.0)


def test_the_bootstrap_agrees_with_a_naive_one():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    hits = rng.random(len(clusters)) < 0.4
    shares = []
    for _ in range(4000):
        drawn = rng.integers(0, 12, 12)
        shares.append(np.concatenate([hits[clusters == c] for c in drawn]).mean())
    assert sim.bootstrap_share(hits, clusters, seed=1) == pytest.approx(np.percentile(shares, (2.5, 97.5)), abs=0.03)
