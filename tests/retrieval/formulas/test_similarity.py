import numpy as np
import pytest
import torch

from utils.retrieval.formulas import similarity as sim
from utils.runtime.errors import UsageError


def unit(n, d, seed):
    return sim.normalised(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def naive(query, train, k, exclude_self=False):
    scores = (query @ train.T).double().numpy()
    if exclude_self:
        np.fill_diagonal(scores, -np.inf)
    order = np.lexsort((np.broadcast_to(np.arange(len(train)), scores.shape), -scores), axis=1)[
        :, :k
    ]
    return np.take_along_axis(scores, order, 1), order


@pytest.mark.parametrize("block_rows", [1, 4, 7, 17, 100])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_blocks_agree_with_the_full_matrix(block_rows, exclude_self):
    train = unit(17, 8, 0)
    query = train if exclude_self else unit(11, 8, 1)
    scores, indices = sim.top_matches(
        query, train, k=5, block_rows=block_rows, exclude_self=exclude_self
    )
    expected, order = naive(query, train, 5, exclude_self)
    assert np.array_equal(indices, order)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("block_rows", [3, 8, 64])
def test_ties_go_to_the_lower_index_whatever_the_blocks(block_rows):
    # dot products of small whole numbers: many exact ties, zeros and negative scores among them
    generator = torch.Generator().manual_seed(0)
    query, train = (torch.randint(-2, 3, (n, 3), generator=generator).float() for n in (20, 60))
    scores, indices = sim.top_matches(query, train, k=9, block_rows=block_rows)
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
    # linear percentiles of five values: 0.75 * 4 = 3, 0.9 * 4 = 3.6, 0.95 * 4 = 3.8; ddof 0:
    # sqrt(2)
    assert row == pytest.approx(
        {"sim_mean": 2, "sim_std": 2**0.5, "sim_75pc": 3, "sim_90pc": 3.6, "sim_95pc": 3.8}
    )


@pytest.mark.parametrize("chunks", [1, 2, 4, 8])
def test_split_products_agree_with_naive_einsums(chunks):
    query, train = unit(7, 16, 0), unit(13, 16, 1)
    q, t = (x.reshape(len(x), chunks, -1) for x in (query, train))
    split = torch.einsum("qcd,tcd->qtc", q, t).amax(2)
    cross = torch.einsum("qcd,ted->qtce", q, t).flatten(2).amax(2)
    for name, expected in (("splitloss", split), ("splitlosscross", cross)):
        scores = sim.SIMILARITIES[name](chunks)
        torch.testing.assert_close(scores(query, train), expected)
        found, indices = sim.top_matches(query, train, k=1, scores=scores, block_rows=4)
        torch.testing.assert_close(found[:, 0], expected.amax(1))
        assert torch.equal(indices[:, 0], expected.argmax(1))
        torch.testing.assert_close(
            sim.paired(query, train[:7], scores=scores, block_rows=3), expected[:, :7].diagonal()
        )
    if chunks == 1:
        torch.testing.assert_close(split, query @ train.T)
    else:
        assert (cross >= split - 1e-6).all()
        assert (cross > split + 0.01).any()


def test_chunks_are_not_normalised_again():
    # the second half carries all the length: the product of the first halves stays small although
    # they are equal
    a = sim.normalised(torch.tensor([[0.1, 0.0, 3.0, 0.0]]))
    b = sim.normalised(torch.tensor([[0.1, 0.0, 0.0, 3.0]]))
    assert sim.SIMILARITIES["splitloss"](2)(a, b).item() == pytest.approx(0.01 / 9.01, abs=1e-6)


def test_chunks_must_divide_the_descriptor():
    with pytest.raises(
        UsageError,
        match=(
            "--num_loss_chunks=3 does not divide the 8 dimensions of the descriptor; give a divisor"
        ),
    ):
        sim.SIMILARITIES["splitloss"](3)(unit(2, 8, 0), unit(2, 8, 1))


def test_the_whole_matrix_is_written_in_blocks(tmp_path):
    query, train = unit(7, 8, 0), unit(9, 8, 1)
    sim.write_matrix(tmp_path / "m" / "all.npy", query, train, block_rows=4)
    found = np.load(tmp_path / "m" / "all.npy")
    assert (found.dtype, found.shape) == (np.float16, (7, 9))
    np.testing.assert_allclose(found, (query @ train.T).numpy(), atol=1e-3)
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["all.npy"]


def test_never_more_than_a_block_of_scores_is_held(monkeypatch):
    held = []

    def scores(query, train):
        held.append((len(query), len(train)))
        return sim.dot_product(query, train)

    sim.top_matches(unit(23, 4, 0), unit(31, 4, 1), k=2, scores=scores, block_rows=8)
    assert max(held) == (8, 8)
    assert len(held) == 12
