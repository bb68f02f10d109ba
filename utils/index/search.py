"""Nearest vectors of an index: exactly, block by block from disk, or approximately by faiss IVF-PQ
(Jegou et al. 2011).

Both give the same kind of answer: k rows a query, scored exactly on the stored vectors (float16,
read as float32), ordered by (score descending, row ascending), so that scores hang neither on the
size of a block nor on how many processes searched."""

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from utils.files.locks import CLAIMS, wait_for_turn
from utils.files.whole_files import read_manifest, whole_file, write_manifest
from utils.index.vector_index import VectorIndex
from utils.runtime.errors import DataError, first_line

ANN_FILE, ANN_RECORD = "ann.faiss", "ann.json"
CLAIM = ".ann"  # of who makes them; no shard's name begins with a dot
# vectors below which an exact search takes no time, and too few train a quantizer
LEAST_ANN = 10_000
# a vector's code is a number of 4 bits for each of that many pieces: 64 bytes, 64 GB for 1e9
# vectors
PIECES = 128
SAMPLE = 64  # vectors a list that k-means sees; faiss asks for at least 39
# Lists that are looked through; rows a query that are scored exactly, at least. Of copies planted
# at cosines of 0.75 to 0.95 in 1e6 vectors, 2,048 lists, 32 probes find 96.8 %, 64 98.1 %, 96 98.7
# %, each in 0.02 s more (docs/benchmarks.md)
PROBES, CANDIDATES = 96, 32
# A product's last digits hang on what stands beside it. Rows whose scores differ by less are told
# apart when they are scored again, as long as not more than this many of them stand about the k-th
SPARE = 8
NONE = -1  # the row where there is none


def rescored(index, query, rows):
    """Exact scores of candidates, in the order that every answer has.

    query: [Q, D] float32; rows: [Q, n] int64, NONE where there is none. Returns: (scores [Q, n]
    float32, -inf for NONE; rows)."""
    found = np.full(rows.shape, -np.inf, np.float32)
    # queries whose candidates fit a block
    step = max(1, index.block_rows() // max(1, rows.shape[1]))
    for start in range(0, len(query), step):
        some = rows[start : start + step]
        vectors = index.take(np.maximum(some, 0).ravel()).reshape(*some.shape, index.dimensions)
        # float64 sums, rounded once: equal vectors get equal scores, whatever stands beside them
        scores = np.einsum(
            "qd,qnd->qn",
            query[start : start + step],
            vectors,
            dtype=np.float64,
            casting="same_kind",
        )
        found[start : start + step] = np.where(some == NONE, -np.inf, scores)
    return ordered(found, rows, rows.shape[1])


def ordered(scores, rows, k):
    """The k best by (score descending, row ascending), NONE last. [Q, n] -> [Q, min(k, n)]."""
    order = np.lexsort((np.where(rows == NONE, np.iinfo(np.int64).max, rows), -scores), axis=1)[
        :, :k
    ]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


@dataclass(frozen=True)
class Exact:
    """Search of all vectors, or of one of `parts` consecutive parts of them. Holds a block of
    vectors, never the index.

    device: a torch.device; on a CPU faiss compares and selects, which is the fastest at hand
    (docs/benchmarks.md)."""

    index: VectorIndex
    device: object = None
    part: int = 0
    parts: int = 1
    wrap: object = iter  # takes the blocks, for a bar
    kept: ClassVar[bool] = True  # nothing has to be made

    @property
    def settings(self):
        """What is recorded of how was searched."""
        return {"search": "exact"}

    def search(self, query, k):
        """query: [Q, D] float32, L2-normalised. Returns: (scores [Q, k'], rows [Q, k']), k' =
        min(k, vectors searched)."""
        best_of = (
            _best_on_gpu(self.device)
            if self.device is not None and self.device.type == "cuda"
            else _best_on_cpu
        )
        query = np.ascontiguousarray(query, np.float32)
        scores, rows = np.empty((len(query), 0), np.float32), np.empty((len(query), 0), np.int64)
        for first, block in self.wrap(self.index.blocks(part=self.part, parts=self.parts)):
            more, places = best_of(query, block, min(k + SPARE, len(block)))
            scores, rows = (
                np.concatenate([scores, more], 1),
                np.concatenate([rows, places + first], 1),
            )
            scores, rows = ordered(scores, rows, k + SPARE)
        scores, rows = rescored(self.index, query, rows)
        return scores[:, :k], rows[:, :k]


def _best_on_cpu(query, block, k):
    import faiss

    scores, places = faiss.knn(query, block.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, places


def _best_on_gpu(device):
    import torch

    from utils.retrieval.formulas.similarity import top_matches

    def best(query, block, k):
        # one copy of the block a search, many products with it: it is sent once
        scores, places = top_matches(torch.from_numpy(query), block.to(device), k=k, device=device)
        return scores.numpy(), places.numpy()

    return best


def merged(parts, k):
    """Answers of searches of several parts of one index as one. parts: [(scores [Q, n], rows [Q,
    n])]."""
    scores, rows = (np.concatenate(side, 1) for side in zip(*parts, strict=True))
    return ordered(scores, rows, k)


# Approximately ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Approximate:
    """Search of the lists nearest to a query by short codes; what they rank first is scored
    exactly."""

    index: VectorIndex
    quantized: object
    record: dict
    kept: bool = True  # beside the index, where other processes find it
    probes: int = PROBES

    @property
    def settings(self):
        """What is recorded of how was searched."""
        return {
            "search": "approximate",
            "probes": self.probes,
            **{k: self.record[k] for k in ("lists", "pieces", "bits")},
        }

    def search(self, query, k):
        """query: [Q, D] float32, L2-normalised. Returns: as `Exact`; queries whose lists hold fewer
        than k, which takes an index of few vectors a list, are searched exactly."""
        query, k = np.ascontiguousarray(query, np.float32), min(k, len(self.index))
        self.quantized.nprobe = min(self.probes, self.quantized.nlist)
        _, rows = self.quantized.search(query, max(CANDIDATES, 4 * k))
        scores, rows = (
            found[:, :k].copy() for found in rescored(self.index, query, rows.astype(np.int64))
        )
        few = (rows == NONE).any(1)
        if few.any():
            scores[few], rows[few] = Exact(self.index).search(query[few], k)
        return scores, rows


def approximate(index, *, say, wrap=iter):
    """The searcher of --ann: the lists and codes that are kept beside the index, made when they are
    missing or of other shards. An index of fewer than LEAST_ANN vectors is searched exactly, said.
    wrap: takes the blocks that are put into lists, for a bar. Returns: Approximate or Exact."""
    if len(index) < LEAST_ANN:
        say(f"{len(index)} vectors are searched exactly: --ann takes {LEAST_ANN} or more")
        return Exact(index)
    state = _state(index)
    found, kept = _read(index, state, say), True
    if found is None:
        # of two launches one trains, and the other reads what the first one wrote
        with wait_for_turn(index.root / CLAIMS, CLAIM):
            found = _read(index, state, lambda line: None)
            if found is None:
                *found, kept = _trained(index, state, say, wrap)
    return Approximate(index, *found, kept=kept)


def files(root):
    """Paths of the lists and codes of the index at `root`, and of their record."""
    return [root / ANN_FILE, root / ANN_RECORD]


def planned(index):
    """Those of `files` that `approximate` would write. Returns: [Path]."""
    there = len(index) < LEAST_ANN
    with contextlib.suppress(DataError):  # a damaged one is made anew
        there = there or _record(index, _state(index)) is not None
    return [] if there else files(index.root)


def _trained(index, state, say, wrap):
    """Returns: (faiss index, record, whether both are kept)."""
    say(f"training the approximate search of {len(index)} vectors, once")
    found = _made(index, state, wrap)
    try:
        _write(index, *found)
    except (OSError, RuntimeError) as error:  # the latter is faiss's, of whatever the disk says
        say(
            f"the approximate search is not kept in {index.root} ({first_line(error)}); the next"
            " one makes it anew"
        )
        return *found, False
    return *found, True


def _state(index):
    """What tells the shards from others, and from the same ones made anew. Hex."""
    facts = [(s.name, s.rows, s.facts) for s in index.shards]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _record(index, state):
    """What is recorded of the lists and codes that are kept, or None when there are none of these
    shards. DataError when it cannot be read."""
    path, record_path = files(index.root)
    if not (path.is_file() and record_path.is_file()):
        return None
    record = read_manifest(record_path, "ann")
    return None if record.get("state") != state else record


def _read(index, state, say):
    """(faiss index, record) as kept, or None."""
    import faiss

    path = files(index.root)[0]
    try:
        record = _record(index, state)
        if record is None:
            return None
        quantized = faiss.read_index(str(path))
    except (DataError, RuntimeError) as error:  # faiss has no error of its own
        say(f"{path} cannot be read and is made anew ({first_line(error)})")
        return None
    return (quantized, record) if quantized.ntotal == len(index) else None


def lists_for(count):
    """How many lists for that many vectors: the power of two next to 2 sqrt(count), as search takes
    the comparisons of a query with all lists and with the codes in some of them."""
    return 2 ** round(np.log2(2 * np.sqrt(count)))


def _made(index, state, wrap=iter, seed=0):
    """Train lists and codes on a sample, then add every vector, a block at a time. wrap: takes the
    blocks. Returns: (faiss index, record)."""
    import faiss

    started = time.perf_counter()
    lists = lists_for(len(index))
    pieces = max(n for n in range(1, PIECES + 1) if index.dimensions % n == 0)
    # codes of 4 bits are compared in registers: eight times as fast here as those of 8 bits of the
    # same length
    made = faiss.index_factory(
        index.dimensions, f"IVF{lists},PQ{pieces}x4fs", faiss.METRIC_INNER_PRODUCT
    )
    made.cp.niter, made.cp.seed, made.cp.max_points_per_centroid = 10, seed, SAMPLE
    count = min(len(index), lists * SAMPLE)
    made.train(
        index.take(np.sort(np.random.default_rng(seed).choice(len(index), count, replace=False)))
    )
    trained = time.perf_counter()
    for _first, block in wrap(index.blocks()):
        made.add(block.numpy())
    record = {
        "state": state,
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
    return made, record


def _write(index, quantized, record):
    import faiss

    (index.root / ANN_RECORD).unlink(missing_ok=True)  # it speaks of the other file, and comes last
    with whole_file(index.root / ANN_FILE) as part:
        faiss.write_index(quantized, str(part))
    write_manifest(
        index.root / ANN_RECORD,
        "ann",
        **{k: v for k, v in record.items() if k not in ("kind", "version")},
    )
