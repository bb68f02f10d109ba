"""Measure the search of an index on disk beside faiss with all vectors in memory: seconds, memory,
and which vectors are found.

    python benchmarks/search.py                  # 1,000,000 vectors of 512 dimensions in 1,000
                                                 # shards, 1,000 queries
    python benchmarks/search.py --folder DIR     # keep the index in DIR, and reuse it next time

The vectors are synthetic: 20,000 clusters of unequal size; the cosine between a vector and its
cluster's centre is about 0.7. Each query is a planted near-copy of one vector, at a cosine drawn
from 0.75 to 0.95. There are three sides:

- flat: faiss.IndexFlatIP with all vectors in memory as float32; loading does not count.
- exact: utils.index.search.Exact on the memory-mapped float16 shards, one block at a time.
- approximate: the same index by IVF-PQ; candidates are scored exactly on the stored vectors.

Seconds: one process holds all three sides, and they take turns search by search, because the speed
of a shared machine drifts within seconds. Ratios are taken within a round.
Memory: one process per side opens the index and searches. The table gives the peak of its RssAnon
(its own memory, without the page cache) above the value after it imported the libraries and read
the queries. The time to open the index is that of the exact side's process.

The exit status is 1 if exact and flat disagree on a best match."""

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

from benchmarks.commands import flag_strings  # noqa: E402

SIDES = ("flat", "exact", "approximate")
TURNS = "turns"  # the process in which all sides take turns
SIZES = ("vectors", "dimensions", "queries", "shards")
CLUSTERS, NEAREST, FARTHEST = 20_000, 0.95, 0.75
K = 10
COLUMNS = (
    "side",
    "seconds (median)",
    "range",
    "RssAnon, MiB above",
    "planted copy first",
    "of flat's ten",
)


# The index ----------------------------------------------------------------------------------------


def unit(vectors):
    """Scale vectors to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def descriptor_of(sizes):
    """Return the descriptor record of a synthetic index. Its sizes identify an index that is kept
    in a folder."""
    return {"pt_style": "synthetic", **sizes}


def write_synthetic(folder, sizes):
    """Write the index, queries.npy and planted.npy to `folder`. planted.npy holds the row of which
    each query is a near-copy.

    sizes: {"vectors", "dimensions", "queries", "shards": number}."""
    from utils.index import shard_files, vector_index

    vectors, dimensions, queries, shards = (sizes[name] for name in SIZES)
    _remove_earlier(folder)
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((CLUSTERS, dimensions), dtype=np.float32))
    share = 1 / np.arange(1, CLUSTERS + 1) ** 0.8
    planted = rng.choice(vectors, queries, replace=False)
    near_copies = np.empty((queries, dimensions), np.float32)
    names = [f"{i:05d}" for i in range(shards)]
    descriptor = descriptor_of(sizes)
    source = {"folder": str(folder), "shards": True}
    vector_index.write_index(folder / "index", descriptor=descriptor, source=source, planned=names)
    bounds = np.arange(shards + 1) * vectors // shards
    for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
        cluster = rng.choice(CLUSTERS, last - first, p=share / share.sum())
        noise = rng.standard_normal((last - first, dimensions), dtype=np.float32) / dimensions**0.5
        rows = unit(0.7 * centres[cluster] + 0.714 * noise)
        for q in np.flatnonzero((planted >= first) & (planted < last)):
            cosine = rng.uniform(FARTHEST, NEAREST)
            near_copies[q] = near_copy(rows[planted[q] - first], cosine, rng)
        known = [
            {"key": f"{name}.tar/{i:06d}.jpg", "bytes": 1, "offset": 0} for i in range(last - first)
        ]
        shard_files.write_shard(
            folder / "index", name, rows, known, descriptor=descriptor, change_stamp={}
        )
    np.save(folder / "queries.npy", near_copies)
    np.save(folder / "planted.npy", planted)


def _remove_earlier(folder):
    """Remove the files of an interrupted run, or of one with other sizes. SystemExit if this
    benchmark did not write the index."""
    from utils.index import vector_index

    if not (folder / "index").exists():
        return
    known = vector_index.is_index(folder / "index")
    record = vector_index.read_record(folder / "index") if known else {}
    if record.get("descriptor", {}).get("pt_style") != "synthetic":
        raise SystemExit(
            f"--folder={str(folder)!r} holds an 'index' that this benchmark did not make; use"
            " another folder"
        )
    for name in ("planted.npy", "queries.npy"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "index")


def near_copy(vector, cosine, rng):
    """Return a unit vector with the given cosine to `vector`, in a random direction."""
    other = rng.standard_normal(len(vector)).astype(np.float32)
    other = unit(other - (other @ vector) * vector)
    return cosine * vector + (1 - cosine**2) ** 0.5 * other


# The sides ----------------------------------------------------------------------------------------


def anonymous():
    """Return the memory of this process that no file backs, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


class Sampled:
    """A context that samples `anonymous` every 5 ms. `above`: the peak minus the first value."""

    def __enter__(self):
        self.before = self.peak = anonymous()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._sample)
        self.thread.start()
        return self

    def _sample(self):
        while not self.ended.wait(0.005):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.above = max(self.peak, anonymous()) - self.before


def flat_search(index):
    """Load all vectors into faiss. Returns: its search function."""
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


# {side: function that builds its search from an opened index}
MAKE = {
    "flat": flat_search,
    "exact": exact_search,
    "approximate": approximate_search,
}


def use_threads(threads):
    """Set the number of threads of torch and faiss."""
    import faiss
    import torch

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def measure(side, folder, rounds):
    """Open the index and search as `side` does, `rounds` times. Saves the matched rows to
    <side>.npy.

    Returns: {"opening": seconds, "loading": seconds, "memory": bytes}."""
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
    """Let all sides search in turns in this process. The first round does not count.

    Returns: {side: [seconds of a search]}."""
    from utils.index import vector_index

    query = np.load(folder / "queries.npy")
    index = vector_index.open_index("--val_dir", folder / "index")
    find, seconds = {side: MAKE[side](index) for side in SIDES}, {side: [] for side in SIDES}
    for number in range(rounds + 1):
        for side in SIDES[number % 3 :] + SIDES[: number % 3]:  # the order rotates
            begun = time.perf_counter()
            find[side](query, K)
            if number:
                seconds[side].append(time.perf_counter() - begun)
    return seconds


def run_process(what, folder, *, rounds, threads):
    """Run `measure` of a side, or `take_turns`, in a process of its own. Returns: its result."""
    flags = {"--process": what, "--folder": folder, "--rounds": rounds, "--threads": threads}
    command = [sys.executable, __file__, *flag_strings(flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# The comparison -----------------------------------------------------------------------------------


def is_kept(folder, sizes):
    """Return whether the folder holds a complete index of these sizes and its queries. planted.npy
    is written last."""
    from utils.index import vector_index

    if not (folder / "planted.npy").exists() or not vector_index.is_index(folder / "index"):
        return False
    return vector_index.read_record(folder / "index")["descriptor"] == descriptor_of(sizes)


def compare(args, folder):
    """Measure every side and print the table and the ratios.

    Returns: whether exact and flat agree on all best matches."""
    from utils.index import search, vector_index

    index = vector_index.open_index("--val_dir", folder / "index")
    print(
        f"{len(index)} vectors of {index.dimensions} dimensions in {len(index.shards)} shards,"
        f" {args.queries} queries, k = {K}, {args.threads} threads, {args.rounds} rounds",
        flush=True,
    )
    searcher = search.approximate(index, say=print)  # builds its lists and keeps them in the folder
    if isinstance(searcher, search.Exact):
        raise SystemExit(
            f"--vectors={args.vectors} is too small for an approximate search; use"
            f" {search.LEAST_ANN} or more"
        )
    lists = searcher.record
    del searcher  # its memory would count for the sides
    costs = {side: run_process(side, folder, rounds=3, threads=args.threads) for side in SIDES}
    seconds = run_process(TURNS, folder, rounds=args.rounds, threads=args.threads)
    matches = {side: np.load(folder / f"{side}.npy") for side in SIDES}
    print_table(seconds, costs, matches, np.load(folder / "planted.npy"))
    print_ratios(seconds)
    opening, loading = costs["exact"]["opening"], costs["approximate"]["loading"]
    print(
        f"opening {len(index.shards)} shards {opening:.2f} s; reading lists and codes"
        f" {loading:.2f} s"
    )
    print(
        f"{lists['lists']} lists, codes of {lists['pieces']} x {lists['bits']} bits: trained on"
        f" {lists['sample']} in {lists['train_seconds']:.1f} s, all added in"
        f" {lists['add_seconds']:.1f} s"
    )
    return np.array_equal(matches["flat"][:, 0], matches["exact"][:, 0])


def print_table(seconds, costs, matches, planted):
    """Print one row per side. matches: {side: [Q, K] rows}; planted: [Q] rows."""
    from utils.reports.tables import markdown

    table = []
    for side in SIDES:
        times = sorted(seconds[side])
        both = zip(matches[side], matches["flat"], strict=True)
        shared = np.mean([len(set(a) & set(b)) / K for a, b in both])
        table.append(
            [
                side,
                f"{statistics.median(times):.3f}",
                f"{times[0]:.3f} to {times[-1]:.3f}",
                f"{costs[side]['memory'] / 2**20:.0f}",
                f"{(matches[side][:, 0] == planted).mean():.3f}",
                f"{shared:.3f}",
            ]
        )
    print(f"\n{markdown(COLUMNS, table)}")


def print_ratios(seconds):
    """Print median and range of the ratios of times within a round, for each pair of sides."""
    for one, other in (("exact", "flat"), ("exact", "approximate"), ("flat", "approximate")):
        ratios = sorted(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
        middle, least, most = statistics.median(ratios), ratios[0], ratios[-1]
        print(f"\n{one} / {other} {middle:.2f} ({least:.2f} to {most:.2f})", end="")
    print("\n")


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=1_000_000, help="vectors of the index")
    parser.add_argument("--dimensions", type=int, default=512, help="dimensions of a vector")
    parser.add_argument("--queries", type=int, default=1000, help="queries per search")
    parser.add_argument("--shards", type=int, default=1000, help="shards of the index")
    parser.add_argument("--rounds", type=int, default=9, help="rounds after the warm-up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and faiss")
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder that keeps the index; an index of other sizes is replaced (default: a"
        " temporary folder)",
    )
    parser.add_argument("--process", choices=(*SIDES, TURNS), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.process:
        use_threads(args.threads)
        run = take_turns if args.process == TURNS else measure
        print(json.dumps(run(args.process, args.folder, args.rounds)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        sizes = {name: getattr(args, name) for name in SIZES}
        if not is_kept(folder, sizes):
            write_synthetic(folder, sizes)
        raise SystemExit(0 if compare(args, folder) else 1)


if __name__ == "__main__":
    main()
