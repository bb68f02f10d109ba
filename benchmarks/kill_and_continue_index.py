"""Kill the building of an index again and again, go on each time, and compare it with one that was
left alone.

    python benchmarks/kill_and_continue_index.py

Tar shards are made on the spot; the descriptor is `pixel`. Every round builds one index: SIGKILL
comes to all of its processes at once, at a moment that one of them counts in batches of images or
in shards: while a shard is read (batch), while its Parquet is written (parquet), between its two
files (between), while its vectors are written (vectors), and when it is whole (shard). Then the
next launch goes on at once. Prints a row a launch; ends with status 1 unless every shard that was
whole at a kill was left as it was, at most the shards in hand were begun again, and all files are
those of the index that was left alone: vectors byte for byte, Parquets row for row."""

import argparse
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# children are forked: no thread pool may be alive before
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MOMENTS = ("batch", "parquet", "between", "vectors", "shard")
BATCH = 4


def write_shards(folder, shards, images):
    """Tar files as img2dataset writes them, of coloured noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for s in range(shards):
        with tarfile.open(folder / f"{s:05d}.tar", "w") as archive:
            for i in range(images):
                pixels = np.random.default_rng((s, i)).integers(0, 256, (40, 48, 3), dtype=np.uint8)
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, format="JPEG")
                fields = {"caption": f"noise {s} {i}", "url": f"https://example.org/{s}/{i}.jpg"}
                for ending, content in (
                    ("jpg", picture.getvalue()),
                    ("json", json.dumps(fields).encode()),
                ):
                    member = tarfile.TarInfo(f"{i:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


# In the processes that build ----------------------------------------------------------------------


def note(log, *words):
    """Append a line to a file that all processes write to."""
    with open(log, "a", encoding="utf-8") as handle:
        handle.write(" ".join(map(str, words)) + "\n")


def die(log, launch):
    """Kill all processes of this launch, this one last."""
    pids = [int(words[2]) for words in notes(log) if words[:2] == ["start", launch]]
    for pid in [*(p for p in pids if p != os.getpid()), os.getpid()]:
        os.kill(pid, signal.SIGKILL)


def arm(log, launch, moment, count):
    """Let this process write down what it makes and, unless moment is "never", die at the
    `count`-th moment of its kind."""
    import numpy as np
    import pyarrow.parquet as pq

    from utils.index import shard_building, shard_files
    from utils.retrieval import features

    make = shard_building.make_shard

    def noted(build, name, bar):
        note(log, "begin", launch, name)
        rows = make(build, name, bar)
        note(log, "end", launch, name)
        return rows

    note(log, "start", launch, os.getpid())
    shard_building.make_shard = noted
    if moment == "never":
        return
    owner, name = {
        "batch": (features, "_rows"),
        "parquet": (pq, "write_table"),
        "between": (np, "save"),
        "vectors": (np, "save"),
        "shard": (shard_files, "write_shard"),
    }[moment]
    real, calls = getattr(owner, name), iter(range(1, 10**6))

    def dying(*args, **kwargs):
        if next(calls) != count:
            return real(*args, **kwargs)
        if moment == "parquet":
            Path(args[1]).write_bytes(b"PAR1 and half of it")
        elif moment == "vectors":
            args[0].write(b"\x93NUMPY and half of it")
            args[0].flush()
        elif moment == "shard":
            real(*args, **kwargs)
        return die(log, launch)

    setattr(owner, name, dying)


def child(args):
    """What torchrun starts, or a fork: an armed diff_retrieval.py. args: [log, launch, moment,
    count, its arguments...]"""
    log, launch, moment, count, *arguments = args
    arm(Path(log), launch, moment, int(count))
    import diff_retrieval

    diff_retrieval.main(arguments)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def launched(processes, args, said):
    """Run `child` in as many processes. said: file of what they print. Returns: exit status,
    negative for a signal's."""
    if processes > 1:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(processes),
            "--master_port",
            free_port(),
            __file__,
            "--child",
            *args,
        ]
        with open(said, "a") as out:
            return subprocess.run(
                command, stdout=out, stderr=out, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
            ).returncode
    from benchmarks.forked import run_forked

    return run_forked(lambda: child(args), said)


# What they left -----------------------------------------------------------------------------------


def notes(log):
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def whole(index):
    """{name of a finished shard: time of its vectors in ns}."""
    return {p.stem: p.stat().st_mtime_ns for p in (index / "shards").glob("[!.]*.npy")}


def contents(index):
    """All of an index that must not hang on how it was made: {file: bytes, rows and facts, or
    counts}."""
    import pyarrow.parquet as pq

    found = {p.name: p.read_bytes() for p in (index / "shards").glob("*.npy")}
    for path in (index / "shards").glob("*.parquet"):
        table = pq.read_table(path)
        found[path.name] = table.to_pylist(), table.schema.metadata
    record = json.loads((index / "index.json").read_text())
    found["index.json"] = {k: v for k, v in record.items() if k not in ("launch", "source")}
    found["half written"] = [
        p.name for p in index.rglob("*") if p.name.endswith((".part", ".stop"))
    ]
    return found


def differences(one, other):
    return sorted(k for k in {*one, *other} if one.get(k) != other.get(k))


class Round:
    """One index, built by launches of which all but the last are killed."""

    def __init__(self, folder, shards, count, processes, workers):
        self.index, self.log, self.said = folder / "index", folder / "log.txt", folder / "said.txt"
        self.count, self.processes = count, processes
        folder.mkdir()
        self.arguments = [
            "--build_index",
            str(self.index),
            "--val_dir",
            f"{shards}/{{00000..{count - 1:05d}}}.tar",
            "--pt_style",
            "pixel",
            "--batch_size",
            str(BATCH),
            "--num_workers",
            str(workers),
            "--report_to",
            "none",
        ]

    def launch(self, number, moment, count):
        """Returns: a row of the table, and whether all is as it should be."""
        before = whole(self.index)
        begun_before = {words[2] for words in notes(self.log) if words[0] == "begin"}
        status = launched(
            self.processes,
            [str(self.log), str(number), moment, str(count), *self.arguments],
            self.said,
        )
        after, mine = (
            whole(self.index),
            [words for words in notes(self.log) if words[1] == str(number)],
        )
        begun = [words[2] for words in mine if words[0] == "begin"]
        again = sorted(begun_before & {*begun})
        lost = {*begun} - {*after}
        kept = all(after.get(name) == time for name, time in before.items())
        killed = status != 0 and (self.processes > 1 or status == -signal.SIGKILL)
        right = (
            kept
            and not {*again} & {*before}
            and len(again) <= self.processes
            and len(lost) <= self.processes
            and len(begun) == len({*begun})
            and killed == (moment != "never")
        )
        at = "left alone" if moment == "never" else f"{moment} {count}"
        counts = [len(found) for found in (before, after, begun, again, lost)]
        return [self.processes, at, status, *counts, "yes" if right else "no"], right


def main(argv=None):
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--images", type=int, default=24, help="of a shard")
    parser.add_argument("--kills", type=int, default=5, help="of a round")
    parser.add_argument("--processes", default="1,1,2,2", help="of each round")
    args = parser.parse_args(argv)
    # before the forks, and by name, for the script imports lazily: children then start at once
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401
    import torch.utils.data  # noqa: F401

    import utils.index.index_build  # noqa: F401
    from utils.reports.tables import markdown

    rng, out, rows, right, said = random.Random(args.seed), Path(tempfile.mkdtemp()), [], [], ""
    try:
        write_shards(out / "data", args.shards, args.images)
        alone = Round(out / "alone", out / "data", args.shards, 1, 0)
        row, ok = alone.launch(0, "never", 0)
        rows.append([0, *row])
        right.append(ok)
        expected = contents(alone.index)
        for number, processes in enumerate(map(int, args.processes.split(",")), 1):
            # every other round with workers: they outlive a killed parent by seconds, and must not
            # keep its shard
            one = Round(out / str(number), out / "data", args.shards, processes, number % 2)
            moments = rng.sample(MOMENTS, len(MOMENTS)) * (1 + args.kills // len(MOMENTS))
            for turn, moment in enumerate(moments[: args.kills], 1):
                # one of P processes makes at least the P-th part of what is left: it comes to this
                # moment
                most = max(
                    1, (args.shards - len(whole(one.index))) // processes // (args.kills + 1 - turn)
                )
                batches = -(-args.images // BATCH)
                count = (
                    rng.randint(1, most * batches) if moment == "batch" else rng.randint(1, most)
                )
                row, ok = one.launch(turn, moment, count)
                rows.append([number, *row])
                right.append(ok)
            row, ok = one.launch(args.kills + 1, "never", 0)
            wrong = differences(contents(one.index), expected) if ok else ["not finished"]
            rows.append([number, *row])
            right += [ok, not wrong]
            said += (
                f"round {number}: {', '.join(wrong)} differ\n"
                if wrong
                else f"round {number}: all files equal\n"
            )
            said += one.said.read_text()[-3000:] if wrong else ""
        header = [
            "round",
            "processes",
            "killed at",
            "status",
            "whole before",
            "whole after",
            "begun",
            "begun again",
            "lost",
            "right",
        ]
        print(markdown(header, rows))
        print(said, end="")
        print(f"{sum(right)} of {len(right)} right")
        sys.exit(not all(right))
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
