"""Search of an index on disk against faiss holding all of it in memory: seconds, memory, what is
found, in one run.

    python benchmarks/search.py                       1,000,000 vectors of 512 dimensions in 1,000
shards, 1,000 queries
    python benchmarks/search.py --folder DIR          keeps the index there, and takes the one that
it finds

The vectors are synthetic: 20,000 clusters of unequal size, a vector's cosine with its centre about
0.7. Each query is a planted near-copy of one vector, at a cosine drawn from 0.75 to 0.95. Three
sides: - flat: faiss.IndexFlatIP with all vectors in memory, float32; loading is not counted. -
exact: utils.index.search.Exact on the memory-mapped float16 shards, a block at a time. -
approximate: the same index by IVF-PQ, its candidates scored exactly on the stored vectors. Seconds:
one process holds all three, and they take turns search by search, as the speed of a shared machine
drifts within seconds; ratios are within rounds. Memory: RssAnon, what is a process's own and not
the page cache's, sampled in a process of each side while it opens and searches, above what it was
when the libraries were imported and the queries read. Opening: in the process of the exact side.
Status 1 when exact and flat disagree in a best match."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIDES = ("flat", "exact", "approximate")
TURNS = "turns"  # of all sides
SIZES = ("vectors", "dimensions", "queries", "shards")
CLUSTERS, NEAREST, FARTHEST = 20_000, 0.95, 0.75
K = 10


# The index ----------------------------------------------------------------------------------------


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def descriptor_of(sizes):
    """What index.json says of synthetic vectors: their sizes, by which one kept in a folder is
    known again."""
    return {"pt_style": "synthetic", **sizes}


def write_synthetic(folder, sizes):
    """The index, queries.npy and planted.npy (the row that each query is a near-copy of) under
    `folder`.

    sizes: how many vectors, dimensions, queries, shards.
    """
    from utils.index import shard_files, vector_index

    vectors, dimensions, queries, shards = (sizes[name] for name in SIZES)
    _remove_earlier(folder)
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((CLUSTERS, dimensions), dtype=np.float32))
    share = 1 / np.arange(1, CLUSTERS + 1) ** 0.8
    planted = rng.choice(vectors, queries, replace=False)
    found = np.empty((queries, dimensions), np.float32)
    names = [f"{i:05d}" for i in range(shards)]
    descriptor = descriptor_of(sizes)
    source = {"folder": str(folder), "shards": True}
    vector_index.write_index(folder / "index", descriptor=descriptor, source=source, planned=names)
    bounds = np.arange(shards + 1) * vectors // shards
    for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
        of = rng.choice(CLUSTERS, last - first, p=share / share.sum())
        noise = rng.standard_normal((last - first, dimensions), dtype=np.float32) / dimensions**0.5
        rows = unit(0.7 * centres[of] + 0.714 * noise)
        for q in np.flatnonzero((planted >= first) & (planted < last)):
            found[q] = near_copy(rows[planted[q] - first], rng.uniform(FARTHEST, NEAREST), rng)
        known = [
            {"key": f"{name}.tar/{i:06d}.jpg", "bytes": 1, "offset": 0} for i in range(last - first)
        ]
        shard_files.write_shard(
            folder / "index", name, rows, known, descriptor=descriptor, change_stamp={}
        )
    np.save(folder / "queries.npy", found)
    np.save(folder / "planted.npy", planted)


def _remove_earlier(folder):
    """Remove what a run that was stopped, or one of other sizes, left; SystemExit when the index is
    somebody's own."""
    from utils.index import vector_index

    if not (folder / "index").exists():
        return
    record = (
        vector_index.read_record(folder / "index")
        if vector_index.is_index(folder / "index")
        else {}
    )
    if record.get("descriptor", {}).get("pt_style") != "synthetic":
        raise SystemExit(
            f"--folder={str(folder)!r} holds an 'index' that this benchmark did not make; takes"
            " another folder"
        )
    for name in ("planted.npy", "queries.npy"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "index")


def near_copy(vector, cosine, rng):
    """A unit vector at that cosine of `vector`, in a random direction."""
    other = rng.standard_normal(len(vector)).astype(np.float32)
    other = unit(other - (other @ vector) * vector)
    return cosine * vector + (1 - cosine**2) ** 0.5 * other


# The sides ----------------------------------------------------------------------------------------


def anonymous():
    """Memory of this process that no file backs, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


class Sampled:
    """Peak of `anonymous` above what it was, while the block runs; sampled every 5 ms."""

    def __enter__(self):
        self.before = self.most = anonymous()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self):
        while not self.ended.wait(0.005):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.above = max(self.most, anonymous()) - self.before


def flat_search(index):
    """All vectors in faiss's memory. Returns: its search."""
    import faiss

    whole = faiss.IndexFlatIP(index.dimensions)
    for _first, block in index.blocks():
        whole.add(block.numpy())
    return whole.search


def exact_search(index):
    from utils.index import search

    return search.Exact(index).search


def approximate_search(index):
    from utils.index import search

    return search.approximate(index, say=lambda line: None).search


# how each side is made of an opened index
MAKE = {
    "flat": flat_search,
    "exact": exact_search,
    "approximate": approximate_search,
}


def prepared(threads):
    """Use that many threads."""
    import faiss
    import torch

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def measure(side, folder, rounds):
    """Open and search as `side` does, `rounds` times. Leaves the rows it found. Returns: seconds,
    bytes."""
    from utils.index import vector_index

    query = np.load(folder / "queries.npy")
    with Sampled() as memory:
        started = time.perf_counter()
        index = vector_index.open_index("--val_dir", folder / "index")
        opened = time.perf_counter()
        find = MAKE[side](index)
        ready = time.perf_counter()
        for _ in range(rounds):
            _, rows = find(query, K)
    np.save(folder / f"{side}.npy", rows)
    return {"opening": opened - started, "loading": ready - opened, "memory": memory.above}


def take_turns(_side, folder, rounds):
    """All sides in one process, by turns, after a round that is not counted. Returns: {side:
    [seconds of a search]}."""
    from utils.index import vector_index

    query, index = (
        np.load(folder / "queries.npy"),
        vector_index.open_index("--val_dir", folder / "index"),
    )
    find, seconds = {side: MAKE[side](index) for side in SIDES}, {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side in SIDES[number % 3 :] + SIDES[: number % 3]:  # each follows each
            begun = time.perf_counter()
            find[side](query, K)
            seconds[side] += [time.perf_counter() - begun] if number else []
    return seconds


def run_process(what, folder, *, rounds, threads):
    """`measure` of a side, or `take_turns`, in a process of its own. Returns: what it returned."""
    command = [
        sys.executable,
        __file__,
        "--process",
        what,
        "--folder",
        str(folder),
        "--rounds",
        str(rounds),
        "--threads",
        str(threads),
    ]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(f"{what}: {told.stderr[-2000:]}")
    return json.loads(told.stdout.strip().splitlines()[-1])


# The comparison -----------------------------------------------------------------------------------


def is_kept(folder, sizes):
    """Whether the folder holds the whole index of these sizes, and its queries, which are written
    last."""
    from utils.index import vector_index

    if not (folder / "planted.npy").exists() or not vector_index.is_index(folder / "index"):
        return False
    return vector_index.read_record(folder / "index")["descriptor"] == descriptor_of(sizes)


def compare(args, folder):
    """Turns of every side, the table, the ratios. Returns: whether exact and flat name the same
    best matches."""
    from utils.index import search, vector_index
    from utils.reports.tables import markdown

    index = vector_index.open_index("--val_dir", folder / "index")
    print(
        f"{len(index)} vectors of {index.dimensions} dimensions in {len(index.shards)} shards,"
        f" {args.queries} queries, k = {K}, {args.threads} threads, {args.rounds} rounds",
        flush=True,
    )
    searcher = search.approximate(index, say=print)  # made once, and kept in the folder
    if isinstance(searcher, search.Exact):
        raise SystemExit(
            f"--vectors={args.vectors}: takes {search.LEAST_ANN} or more, so that there is an"
            " approximate search"
        )
    built = searcher.record
    del searcher
    found = {side: run_process(side, folder, rounds=3, threads=args.threads) for side in SIDES}
    seconds = run_process(TURNS, folder, rounds=args.rounds, threads=args.threads)
    planted, rows = (
        np.load(folder / "planted.npy"),
        {side: np.load(folder / f"{side}.npy") for side in SIDES},
    )
    table = []
    for side in SIDES:
        times = sorted(seconds[side])
        shared = np.mean(
            [len(set(a) & set(b)) / K for a, b in zip(rows[side], rows["flat"], strict=True)]
        )
        table.append(
            [
                side,
                f"{statistics.median(times):.3f}",
                f"{times[0]:.3f} to {times[-1]:.3f}",
                f"{found[side]['memory'] / 2**20:.0f}",
                f"{(rows[side][:, 0] == planted).mean():.3f}",
                f"{shared:.3f}",
            ]
        )
    print()
    print(
        markdown(
            (
                "side",
                "seconds (median)",
                "range",
                "RssAnon, MiB above",
                "planted copy first",
                "of flat's ten",
            ),
            table,
        )
    )
    for one, other in (("exact", "flat"), ("exact", "approximate"), ("flat", "approximate")):
        ratios = sorted(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
        print(
            f"\n{one} / {other} {statistics.median(ratios):.2f} ({ratios[0]:.2f} to"
            f" {ratios[-1]:.2f})",
            end="",
        )
    print("\n")
    opening, loading = found["exact"]["opening"], found["approximate"]["loading"]
    print(
        f"opening {len(index.shards)} shards {opening:.2f} s; reading lists and codes"
        f" {loading:.2f} s"
    )
    print(
        f"{built['lists']} lists, codes of {built['pieces']} x {built['bits']} bits: trained on"
        f" {built['sample']} in {built['train_seconds']:.1f} s, all added in"
        f" {built['add_seconds']:.1f} s"
    )
    return np.array_equal(rows["flat"][:, 0], rows["exact"][:, 0])


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument(
        "--rounds",
        type=int,
        default=9,
        help="searches of a side that count, after one that warms up",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder",
        type=Path,
        help=(
            "where the index is kept (one of other sizes is replaced), else a "
            "folder that is removed"
        ),
    )
    parser.add_argument("--process", choices=(*SIDES, TURNS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.process:
        prepared(args.threads)
        print(
            json.dumps(
                (take_turns if args.process == TURNS else measure)(
                    args.process, args.folder, args.rounds
                )
            )
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        sizes = {name: getattr(args, name) for name in SIZES}
        if not is_kept(folder, sizes):
            write_synthetic(folder, sizes)
        raise SystemExit(0 if compare(args, folder) else 1)


if __name__ == "__main__":
    main()
