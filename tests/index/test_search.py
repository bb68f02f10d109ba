"""Search of an index against a naive one: every score, every row, in one order."""

import json

import numpy as np
import pytest
import torch

from utils.files import locks
from utils.index import search, shard_files, vector_index


def unit(count, dimensions, seed):
    x = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make(root, vectors, rows=7, descriptor=None):
    """An index of shards of that many rows."""
    spans = [slice(s, s + rows) for s in range(0, len(vectors), rows)]
    names = [f"{i:05d}" for i in range(len(spans))]
    vector_index.write_index(
        root,
        descriptor=descriptor or {},
        source={"folder": str(root), "shards": False},
        planned=names,
    )
    for name, span in zip(names, spans, strict=True):
        known = [{"key": f"{name}/{i}.png", "bytes": i} for i in range(len(vectors[span]))]
        shard_files.write_shard(
            root, name, vectors[span], known, descriptor=descriptor or {}, change_stamp={}
        )
    return vector_index.open_index("--val_dir", root)


def naive(vectors, query, k):
    """float64, everything sorted, ties by row."""
    stored = vectors.astype(np.float16).astype(np.float64)
    scores = query.astype(np.float64) @ stored.T
    order = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 10 rows of 16 dimensions: they end within shards and hold rows of several."""
    monkeypatch.setattr(vector_index, "BLOCK_BYTES", 10 * 4 * 16)


@pytest.mark.parametrize("queries", [3, 40])  # faiss compares few queries by another way than many
@pytest.mark.parametrize("k", [1, 5, 12])
def test_exact_search_is_the_naive_one(tmp_path, small_blocks, queries, k):
    vectors, query = unit(53, 16, 0), unit(queries, 16, 1)
    scores, rows = search.Exact(make(tmp_path, vectors)).search(query, k)
    expected, order = naive(vectors, query, k)
    assert np.array_equal(rows, order)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_search_of_a_gpu_gives_the_same_bits(tmp_path, small_blocks, monkeypatch):
    vectors, query = unit(53, 16, 0), unit(9, 16, 1)
    index = make(tmp_path, vectors)
    by_faiss = search.Exact(index).search(query, 5)
    monkeypatch.setattr(search, "_best_on_cpu", search._best_on_gpu(torch.device("cpu")))
    by_torch = search.Exact(index).search(query, 5)
    assert np.array_equal(by_faiss[1], by_torch[1])
    assert np.array_equal(by_faiss[0], by_torch[0])  # to the bit: both are scored again


@pytest.mark.parametrize("parts", [1, 2, 3, 60])
def test_parts_of_an_index_merge_to_the_whole(tmp_path, small_blocks, parts):
    vectors, query = unit(53, 16, 0), unit(9, 16, 1)
    index = make(tmp_path, vectors)
    whole = search.Exact(index).search(query, 5)
    answers = [search.Exact(index, part=p, parts=parts).search(query, 5) for p in range(parts)]
    scores, rows = search.merged(answers, 5)
    assert np.array_equal(rows, whole[1])
    assert np.array_equal(scores, whole[0])


def test_equal_scores_come_in_the_order_of_rows_through_blocks_and_parts(tmp_path, small_blocks):
    vectors = unit(53, 16, 0)
    same = [2, 9, 10, 31, 52]
    vectors[same] = vectors[31]
    index = make(tmp_path, vectors)
    query = np.repeat(vectors[31:32], 25, 0)
    for parts in (1, 2):
        answers = [search.Exact(index, part=p, parts=parts).search(query, 4) for p in range(parts)]
        scores, rows = search.merged(answers, 4)
        assert np.array_equal(rows, np.repeat([same[:4]], 25, 0))
        assert len(np.unique(scores)) == 1


def test_more_matches_than_vectors(tmp_path):
    scores, rows = search.Exact(make(tmp_path, unit(4, 16, 0))).search(unit(2, 16, 1), 10)
    assert rows.shape == scores.shape == (2, 4)


def test_candidates_are_scored_exactly_and_none_is_last(tmp_path):
    vectors, query = unit(20, 16, 0), unit(2, 16, 1)
    rows = np.array([[4, -1, 7, 3], [-1, -1, 19, -1]])
    scores, order = search.rescored(make(tmp_path, vectors), query, rows)
    expected = query @ vectors.astype(np.float16).astype(np.float32).T
    assert sorted(order[0, :3]) == [3, 4, 7]
    assert scores[0, :3] == pytest.approx(np.sort(expected[0, [3, 4, 7]])[::-1], abs=1e-6)
    assert order[0, 3] == -1 == order[1, 1]
    assert order[1, 0] == 19
    assert np.isneginf(scores[1, 1:]).all()


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """12,000 vectors of 32 dimensions in 200 clusters, and noisy copies of 100 of them."""
    rng = np.random.default_rng(0)
    centres = unit(200, 32, 1)
    vectors = centres[rng.integers(0, 200, 12_000)] + 0.15 * rng.standard_normal(
        (12_000, 32)
    ).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    planted = rng.choice(12_000, 100, replace=False)
    query = vectors[planted] + 0.1 * rng.standard_normal((100, 32)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    return make(tmp_path_factory.mktemp("clustered"), vectors, rows=5000), query, planted


def test_approximate_search_finds_planted_copies_and_scores_them_exactly(clustered):
    index, query, planted = clustered
    (index.root / "ann.json").unlink(missing_ok=True)  # of a test before
    lines = []
    searcher = search.approximate(index, say=lines.append)
    assert isinstance(searcher, search.Approximate)
    assert "training" in lines[0]
    scores, rows = searcher.search(query, 4)
    exact_scores, exact_rows = search.Exact(index).search(query, 4)
    assert (exact_rows[:, 0] == planted).mean() >= 0.98
    assert (rows[:, 0] == planted).mean() >= 0.98  # with 1 list of 256 looked through 0.94
    same = rows[:, 0] == exact_rows[:, 0]
    assert np.array_equal(scores[same, 0], exact_scores[same, 0])
    assert (np.diff(scores, axis=1) <= 0).all()


def test_lists_and_codes_are_kept_until_the_shards_change(clustered):
    index, query, _ = clustered
    first = search.approximate(index, say=lambda line: None).search(query, 4)
    lines = []
    again = search.approximate(index, say=lines.append).search(query, 4)
    assert lines == []
    assert np.array_equal(first[1], again[1])
    record = json.loads((index.root / "ann.json").read_text())
    assert (record["vectors"], record["lists"], record["pieces"]) == (12_000, 256, 32)
    assert search.planned(index) == []
    (index.root / "ann.faiss").write_bytes(b"not faiss")
    search.approximate(index, say=lines.append)
    assert "cannot be read and is rebuilt" in lines[0]
    record_path = index.root / "ann.json"
    whole = record_path.read_text()
    record_path.write_text("{")
    assert search.planned(index) == search.files(index.root)
    record_path.write_text(whole)
    record_path.write_text(record_path.read_text().replace(record["state"], "0" * 64))
    search.approximate(index, say=lines.append)
    assert sum("training" in line for line in lines) == 2


def test_lists_that_cannot_be_saved_are_used_all_the_same(clustered, monkeypatch):
    index, query, planted = clustered

    import faiss

    real = faiss.write_index
    # faiss says what it says
    monkeypatch.setattr(faiss, "write_index", lambda quantized, path: real(quantized, "/proc/none"))
    monkeypatch.setattr(search, "_read", lambda *_: None)
    lines = []
    _, rows = search.approximate(index, say=lines.append).search(query, 1)
    assert (rows[:, 0] == planted).mean() >= 0.98
    assert "could not be saved in" in lines[-1]


def test_few_vectors_are_searched_exactly(tmp_path):
    lines = []
    searcher = search.approximate(make(tmp_path, unit(50, 16, 0)), say=lines.append)
    assert isinstance(searcher, search.Exact)
    assert lines == ["50 vectors are searched exactly: --ann needs 10000 or more"]


@pytest.mark.parametrize(("count", "lists"), [(10_000, 256), (1_000_000, 2048), (10**9, 65536)])
def test_lists_grow_with_the_root(count, lists):
    assert search.lists_for(count) == lists


def test_near_ties_within_float32_rounding_are_ordered(tmp_path, monkeypatch):
    """Nine rows one unit in the last place of a few entries apart, of which the best two are asked
    for."""
    vectors, rng = unit(200, 512, 0), np.random.default_rng(5)
    near = vectors[:1].astype(np.float16).repeat(9, 0)
    for row in near:
        places = rng.choice(512, 6, replace=False)
        row[places] = np.nextafter(
            row[places], np.float16(1) * rng.choice([-1, 1], 6).astype(np.float16)
        )
    chosen = rng.choice(200, 9, replace=False)
    vectors[chosen] = near.astype(np.float32)
    query = np.concatenate([unit(30, 512, 3) * 0.3 + vectors[chosen[0]], vectors[chosen]])
    query = (query / np.linalg.norm(query, axis=1, keepdims=True)).astype(np.float32)
    expected = naive(vectors, query, 2)[1]
    index = make(tmp_path, vectors, rows=90)
    for rows in (17, 60, 200):
        monkeypatch.setattr(vector_index, "BLOCK_BYTES", rows * 4 * 512)
        for parts in (1, 3):
            answers = [
                search.Exact(index, part=p, parts=parts).search(query, 2) for p in range(parts)
            ]
            assert np.array_equal(search.merged(answers, 2)[1], expected)


class Few:
    """Lists that hold nothing for the first query, and one row for the others."""

    nlist, nprobe, ntotal = 4, None, 53

    def search(self, query, k):
        assert self.nprobe == 4  # no more lists than there are
        rows = np.full((len(query), k), -1)
        rows[1:, 0] = 7
        return None, rows


def test_queries_whose_lists_hold_too_few_are_searched_exactly(tmp_path):
    index, query = make(tmp_path, unit(53, 16, 0)), unit(4, 16, 1)
    scores, rows = search.Approximate(index, Few(), {}).search(query, 3)
    exact = search.Exact(index).search(query, 3)
    assert np.array_equal(rows, exact[1])
    assert np.array_equal(scores, exact[0])
    one = search.Approximate(index, Few(), {}).search(query, 1)[1][:, 0].tolist()
    assert one == [exact[1][0, 0], 7, 7, 7]


def test_of_two_launches_one_trains(clustered, monkeypatch):
    """While this one waits for the claim, the other finishes."""
    index, _, _ = clustered
    kept, fingerprint = search._trained(index, "s"), search._fingerprint(index)
    (index.root / "ann.json").unlink(missing_ok=True)
    real = locks.Claims.take

    def after_the_other(self, name, *, wait=False):
        if name == search.CLAIM:
            search._write(index, kept._replace(record=kept.record | {"state": fingerprint}))
        return real(self, name, wait=wait)

    monkeypatch.setattr(locks.Claims, "take", after_the_other)
    lines = []
    assert isinstance(search.approximate(index, say=lines.append), search.Approximate)
    assert lines == []


def test_candidates_are_gathered_in_parts_that_fit_a_block(tmp_path, monkeypatch):
    index, query = make(tmp_path, unit(53, 16, 0)), unit(9, 16, 1)
    rows = np.random.default_rng(0).integers(0, 53, (9, 20))
    whole = search.rescored(index, query, rows)
    taken, real = [], vector_index.VectorIndex.take
    monkeypatch.setattr(
        vector_index.VectorIndex,
        "take",
        lambda self, rows: taken.append(len(rows)) or real(self, rows),
    )
    monkeypatch.setattr(vector_index, "BLOCK_BYTES", 40 * 4 * 16)
    parts = search.rescored(index, query, rows)
    assert len(taken) == 5  # two queries of 20 candidates at a time
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])
