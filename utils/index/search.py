"""Nearest vectors of an index: exactly, block by block from disk, or approximately by faiss IVF-PQ
(Jegou et al. 2011).

Both give the same kind of answer: k rows per query, scored exactly on the stored vectors (float16,
read as float32) and ordered by (score descending, row ascending). So scores depend neither on the
size of a block nor on how many processes searched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np

from utils.files.locks import CLAIMS, wait_for_turn
from utils.files.whole_files import read_manifest, whole_file, write_manifest
from utils.index.vector_index import VectorIndex
from utils.runtime.errors import DataError, first_line

if TYPE_CHECKING:
    import faiss
    import torch

    from utils.runtime.parallel import Say

Wrap = Callable[[Iterable], Iterable]  # wraps an iterable, here the blocks, in a progress bar
Answer = tuple[np.ndarray, np.ndarray]  # (scores [Q, k] float32, rows [Q, k] int64)

ANN_FILE, ANN_RECORD = "ann.faiss", "ann.json"
CLAIM = ".ann"  # the lock for training them; no shard's name begins with a dot
# with fewer vectors an exact search takes no time, and they are too few to train a quantizer
LEAST_ANN = 10_000
# PQ sub-vectors of 4 bits each: a code has 64 bytes, 64 GB for 1e9 vectors
PIECES = 128
SAMPLE = 64  # vectors per list for k-means; faiss asks for at least 39
# Lists that a query looks through; rows per query that are rescored exactly, at least. Of copies
# planted at cosines of 0.75 to 0.95 in 1e6 vectors with 2,048 lists, 32 probes find 96.8 %, 64
# 98.1 %, 96 98.7 %, each step in 0.02 s more (docs/benchmarks.md)
PROBES, CANDIDATES = 96, 32
# float32 matmul rounding depends on the block. SPARE more candidates than asked for are kept and
# rescored in float64, so that near-ties have the same order for any block size, as long as no more
# than SPARE of them are near the k-th
SPARE = 8
NONE = -1  # the row of an empty place in an answer


class Searcher(Protocol):
    """`Exact` or `Approximate`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the search, for records."""

    def search(self, query: np.ndarray, k: int) -> Answer:
        """The best k rows of each query [Q, D]."""


def rescored(index: VectorIndex, query: np.ndarray, rows: np.ndarray) -> Answer:
    """Exact scores of candidate rows, in the order of every answer.

    query: [Q, D] float32.
    rows: [Q, n] int64, NONE for an empty place.

    Returns: (scores [Q, n] float32, -inf for NONE; rows [Q, n])."""
    scores = np.full(rows.shape, -np.inf, np.float32)
    # queries whose candidates fit a block
    step = max(1, index.block_rows() // max(1, rows.shape[1]))
    for start in range(0, len(query), step):
        candidates = rows[start : start + step]
        vectors = index.take(np.maximum(candidates, 0).ravel())
        # float64 sums, rounded once: equal vectors get equal scores in any block
        products = np.einsum(
            "qd,qnd->qn",
            query[start : start + step],
            vectors.reshape(*candidates.shape, index.dimensions),
            dtype=np.float64,
            casting="same_kind",
        )
        scores[start : start + step] = np.where(candidates == NONE, -np.inf, products)
    return ordered(scores, rows, rows.shape[1])


def ordered(scores: np.ndarray, rows: np.ndarray, k: int) -> Answer:
    """The k best by (score descending, row ascending), NONE last. [Q, n] -> [Q, min(k, n)]."""
    order = np.lexsort((np.where(rows == NONE, np.iinfo(np.int64).max, rows), -scores), axis=1)[
        :, :k
    ]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


# Exactly ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact:
    """Search of all vectors, or of one of `parts` consecutive parts of them. It holds a block of
    vectors in memory, never the index."""

    index: VectorIndex
    # None for the CPU, where faiss compares and selects: the fastest choice (docs/benchmarks.md)
    device: torch.device | None = None
    part: int = 0
    parts: int = 1
    wrap: Wrap = iter
    kept: ClassVar[bool] = True  # as `Approximate.kept`: other processes need nothing from disk

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the search, for records."""
        return {"search": "exact"}

    def search(self, query: np.ndarray, k: int) -> Answer:
        """The best rows of each query. query: [Q, D] float32, L2-normalised.

        Returns: (scores [Q, k'] float32, rows [Q, k'] int64), k' = min(k, vectors searched)."""
        best_of = _best_on_cpu
        if self.device is not None and self.device.type == "cuda":
            best_of = _best_on_gpu(self.device)
        query = np.ascontiguousarray(query, np.float32)
        scores, rows = np.empty((len(query), 0), np.float32), np.empty((len(query), 0), np.int64)
        for first, block in self.wrap(self.index.blocks(part=self.part, parts=self.parts)):
            block_scores, places = best_of(query, block, min(k + SPARE, len(block)))
            scores, rows = (
                np.concatenate([scores, block_scores], 1),
                np.concatenate([rows, places + first], 1),
            )
            scores, rows = ordered(scores, rows, k + SPARE)
        scores, rows = rescored(self.index, query, rows)
        return scores[:, :k], rows[:, :k]


def _best_on_cpu(query, block, k):
    """The k best of a block. Returns: (scores [Q, k], positions in the block [Q, k]). query: [Q, D]
    array; block: [n, D] tensor."""
    import faiss

    scores, places = faiss.knn(query, block.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, places


def _best_on_gpu(device):
    """As `_best_on_cpu`, by torch on a device."""
    import torch

    from utils.retrieval.formulas.similarity import top_matches

    def best(query, block, k):
        # a block is copied to the device once and then compared with all queries
        scores, places = top_matches(torch.from_numpy(query), block.to(device), k=k, device=device)
        return scores.numpy(), places.numpy()

    return best


def merged(parts: Sequence[Answer], k: int) -> Answer:
    """The answers of searches of several parts of one index as one. parts: [(scores [Q, n], rows
    [Q, n])]."""
    scores, rows = (np.concatenate(side, 1) for side in zip(*parts, strict=True))
    return ordered(scores, rows, k)


# Approximately ------------------------------------------------------------------------------------


class Lists(NamedTuple):
    """The inverted lists and codes of an index."""

    quantized: faiss.IndexIVF
    record: dict[str, Any]  # how they were trained, as ann.json stores it


@dataclass(frozen=True)
class Approximate:
    """Search of the lists nearest to a query by short codes; the best candidates are rescored
    exactly."""

    index: VectorIndex
    quantized: faiss.IndexIVF
    record: dict[str, Any]
    kept: bool = True  # whether the lists are saved beside the index, for other processes to read
    probes: int = PROBES

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the search, for records."""
        return {
            "search": "approximate",
            "probes": self.probes,
            **{key: self.record[key] for key in ("lists", "pieces", "bits")},
        }

    def search(self, query: np.ndarray, k: int) -> Answer:
        """The best rows of each query, as `Exact.search`. Queries whose lists hold fewer than k
        vectors, which happens when the index has few vectors per list, are searched exactly."""
        query, k = np.ascontiguousarray(query, np.float32), min(k, len(self.index))
        self.quantized.nprobe = min(self.probes, self.quantized.nlist)
        _, candidates = self.quantized.search(query, max(CANDIDATES, 4 * k))
        scores, rows = (
            part[:, :k].copy() for part in rescored(self.index, query, candidates.astype(np.int64))
        )
        few = (rows == NONE).any(1)
        if few.any():
            scores[few], rows[few] = Exact(self.index).search(query[few], k)
        return scores, rows


def approximate(index: VectorIndex, *, say: Say, wrap: Wrap = iter) -> Approximate | Exact:
    """The searcher of --ann, with the lists that are saved beside the index. They are trained when
    they are missing or belong to other shards. An index of fewer than LEAST_ANN vectors is searched
    exactly, and a line says so.

    wrap: wraps the blocks that are added to the lists, for a progress bar."""
    if len(index) < LEAST_ANN:
        say(f"{len(index)} vectors are searched exactly: --ann needs {LEAST_ANN} or more")
        return Exact(index)
    fingerprint = _fingerprint(index)
    lists = _read(index, fingerprint, say)
    if lists is not None:
        return Approximate(index, *lists)
    # of two launches one trains, and the other reads the saved lists
    with wait_for_turn(index.root / CLAIMS, CLAIM):
        lists = _read(index, fingerprint, lambda line: None)
        if lists is not None:
            return Approximate(index, *lists)
        say(f"training the approximate search of {len(index)} vectors, once")
        lists = _trained(index, fingerprint, wrap)
        return Approximate(index, *lists, kept=_save(index, lists, say))


def files(root: Path) -> list[Path]:
    """Paths of the lists of the index at `root`, and of their record."""
    return [root / ANN_FILE, root / ANN_RECORD]


def planned(index: VectorIndex) -> list[Path]:
    """The `files` that `approximate` would write."""
    if len(index) < LEAST_ANN:
        return []
    with contextlib.suppress(DataError):  # a damaged record is written again
        if _record(index, _fingerprint(index)) is not None:
            return []
    return files(index.root)


def _fingerprint(index: VectorIndex) -> str:
    """SHA-256 over the facts of all shards, in hexadecimal: it changes when a shard is rebuilt or
    added."""
    return index.change_stamp["facts"]


def _record(index: VectorIndex, fingerprint: str) -> dict[str, Any] | None:
    """The record of the saved lists, or None when none are saved for these shards. DataError when
    it cannot be read."""
    path, record_path = files(index.root)
    if not (path.is_file() and record_path.is_file()):
        return None
    record = read_manifest(record_path, "ann")
    return None if record.get("state") != fingerprint else record


def _read(index: VectorIndex, fingerprint: str, say: Say) -> Lists | None:
    """The saved lists, or None when they must be trained."""
    import faiss

    path = files(index.root)[0]
    try:
        record = _record(index, fingerprint)
        if record is None:
            return None
        quantized = cast("faiss.IndexIVF", faiss.read_index(str(path)))
    except (DataError, RuntimeError) as error:  # faiss has no error class of its own
        say(f"{path} cannot be read and is rebuilt ({first_line(error)})")
        return None
    return Lists(quantized, record) if quantized.ntotal == len(index) else None


def lists_for(count: int) -> int:
    """The number of lists for `count` vectors: the power of two next to 2 sqrt(count). A query is
    compared with all lists and with the codes in some of them; this balances the two."""
    return 2 ** round(np.log2(2 * np.sqrt(count)))


def _trained(index: VectorIndex, fingerprint: str, wrap: Wrap = iter, *, seed: int = 0) -> Lists:
    """Train lists and codes on a sample, then add every vector, a block at a time."""
    import faiss

    started = time.perf_counter()
    lists = lists_for(len(index))
    pieces = max(n for n in range(1, PIECES + 1) if index.dimensions % n == 0)
    # codes of 4 bits are compared in registers: here eight times as fast as codes of 8 bits of the
    # same length
    kind = f"IVF{lists},PQ{pieces}x4fs"
    quantized = cast(
        "faiss.IndexIVF",
        faiss.index_factory(index.dimensions, kind, faiss.METRIC_INNER_PRODUCT),
    )
    kmeans = quantized.cp
    kmeans.niter, kmeans.seed, kmeans.max_points_per_centroid = 10, seed, SAMPLE
    count = min(len(index), lists * SAMPLE)
    sample = np.random.default_rng(seed).choice(len(index), count, replace=False)
    quantized.train(index.take(np.sort(sample)))
    trained = time.perf_counter()
    for _first, block in wrap(index.blocks()):
        quantized.add(block.numpy())
    record = {
        "state": fingerprint,
        "vectors": len(index),
        "lists": lists,
        "pieces": pieces,
        "bits": 4,
        "sample": count,
        "seed": seed,
        "faiss": faiss.__version__,
        "train_seconds": trained - started,
        "add_seconds": time.perf_counter() - trained,
    }
    return Lists(quantized, record)


def _save(index: VectorIndex, lists: Lists, say: Say) -> bool:
    """Save the lists beside the index. Returns: whether that was possible."""
    try:
        _write(index, lists)
    except (OSError, RuntimeError) as error:  # faiss raises RuntimeError for an error of the disk
        say(
            f"the lists of the approximate search could not be saved in {index.root}"
            f" ({first_line(error)}); the next search trains them again"
        )
        return False
    return True


def _write(index: VectorIndex, lists: Lists) -> None:
    import faiss

    # the record describes the other file: it is removed first and written last
    (index.root / ANN_RECORD).unlink(missing_ok=True)
    with whole_file(index.root / ANN_FILE) as part:
        faiss.write_index(lists.quantized, str(part))
    record = {k: v for k, v in lists.record.items() if k not in ("kind", "version")}
    write_manifest(index.root / ANN_RECORD, "ann", **record)
