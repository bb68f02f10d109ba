"""Kill the build of an index again and again, continue it each time, and compare the result with an
uninterrupted build.

    python benchmarks/kill_and_continue_index.py

The script writes tar shards of noise and indexes them with the descriptor `pixel`. Each round
builds one index with several launches. All but the last launch are killed: SIGKILL reaches all of
its processes at once, after a random number of batches (batch) or shards, namely while a Parquet
file is written (parquet), between the two files of a shard (between), while vectors are written
(vectors), or when a shard is complete (shard). The next launch continues at once.

The script prints one row per launch. It exits with status 1 unless every shard that was complete at
a kill stayed as it was, each process repeated at most one unfinished shard, and all files equal
those of the uninterrupted build: vectors byte for byte, Parquet files row for row."""

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

# the children are forked, so no thread pool may exist before
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402

MOMENTS = ("batch", "parquet", "between", "vectors", "shard")
BATCH = 4
HEADER = ["round", "processes", "killed at", "status", "whole before", "whole after"]
HEADER += ["begun", "begun again", "lost", "right"]


def write_shards(folder, shards, images):
    """Write tar files of coloured noise in the format of img2dataset."""
    folder.mkdir(parents=True)
    for s in range(shards):
        with tarfile.open(folder / f"{s:05d}.tar", "w") as archive:
            for i in range(images):
                fields = {"caption": f"noise {s} {i}", "url": f"https://example.org/{s}/{i}.jpg"}
                add_file(archive, f"{i:09d}.jpg", noise_jpeg((s, i)))
                add_file(archive, f"{i:09d}.json", json.dumps(fields).encode())


def noise_jpeg(seed):
    """Return the bytes of a JPEG file of coloured noise."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, format="JPEG")
    return picture.getvalue()


def add_file(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


# Inside the processes that build ------------------------------------------------------------------


def note(log, *words):
    """Append a line to the log that all processes share."""
    with open(log, "a", encoding="utf-8") as handle:
        handle.write(" ".join(map(str, words)) + "\n")


def die(log, launch):
    """Kill all processes of this launch, the calling one last."""
    pids = [int(words[2]) for words in notes(log) if words[:2] == ["start", launch]]
    for pid in [*(p for p in pids if p != os.getpid()), os.getpid()]:
        os.kill(pid, signal.SIGKILL)


def arm(log, launch, moment, count):
    """Log the shards that this process begins and ends and, unless moment is "never", make it kill
    its launch at the `count`-th moment of this kind."""
    from utils.index import shard_building

    make = shard_building.make_shard

    def logged(build, name, bar):
        note(log, "begin", launch, name)
        rows = make(build, name, bar)
        note(log, "end", launch, name)
        return rows

    note(log, "start", launch, os.getpid())
    shard_building.make_shard = logged
    if moment != "never":
        arm_kill(log, launch, moment, count)


def arm_kill(log, launch, moment, count):
    """Replace the function that the moment names: its `count`-th call kills the launch."""
    import numpy as np
    import pyarrow.parquet as pq

    from utils.index import shard_files
    from utils.retrieval import features

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
    """Run an armed diff_retrieval.py, in a process that torchrun or a fork has started.

    args: [log, launch, moment, count, arguments of diff_retrieval.py...]."""
    log, launch, moment, count, *arguments = args
    arm(Path(log), launch, moment, int(count))
    import diff_retrieval

    diff_retrieval.main(arguments)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def launched(processes, args, output):
    """Run `child` in a number of processes. output: the file that they print into.

    Returns: the exit status, negative if a signal ended it."""
    if processes > 1:
        torchrun = {"--nproc_per_node": processes, "--master_port": free_port()}
        command = [sys.executable, "-m", "torch.distributed.run", *flag_strings(torchrun)]
        command += [__file__, "--child", *args]
        env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        with open(output, "a") as out:
            return subprocess.run(command, stdout=out, stderr=out, env=env).returncode
    from benchmarks.forked import run_forked

    return run_forked(lambda: child(args), output)


# What the launches left ---------------------------------------------------------------------------


def notes(log):
    """Return the lines of the log, each as a list of words."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def whole(index):
    """Return {finished shard: modification time of its vectors in ns}."""
    return {p.stem: p.stat().st_mtime_ns for p in (index / "shards").glob("[!.]*.npy")}


def contents(index):
    """Return everything in an index that may not depend on how it was built: {file: its bytes, its
    rows and metadata, or its counts}."""
    import pyarrow.parquet as pq

    files = {p.name: p.read_bytes() for p in (index / "shards").glob("*.npy")}
    for path in (index / "shards").glob("*.parquet"):
        table = pq.read_table(path)
        files[path.name] = table.to_pylist(), table.schema.metadata
    record = json.loads((index / "index.json").read_text())
    files["index.json"] = {
        k: v for k, v in record.items() if k not in ("launch", "source", "checksum")
    }
    unfinished = [p.name for p in index.rglob("*") if p.name.endswith((".part", ".stop"))]
    return files | {"half written": unfinished}


def differences(one, other):
    """Return the names of the files in which two indices differ."""
    return sorted(k for k in {*one, *other} if one.get(k) != other.get(k))


class Round:
    """One index, built by several launches. All but the last launch are killed."""

    def __init__(self, folder, shards, count, processes, workers):
        self.index, self.log = folder / "index", folder / "log.txt"
        self.output = folder / "output.txt"  # what the launches print
        self.count, self.processes = count, processes
        folder.mkdir()
        self.arguments = flag_strings(
            {
                "--build_index": self.index,
                "--val_dir": f"{shards}/{{00000..{count - 1:05d}}}.tar",
                "--pt_style": "pixel",
                "--batch_size": BATCH,
                "--num_workers": workers,
                "--report_to": "none",
            }
        )

    def launch(self, number, moment, count):
        """Build until the kill, or to the end if moment is "never".

        Returns: (cells of the table's row, whether all checks passed)."""
        before = whole(self.index)
        begun_before = {words[2] for words in notes(self.log) if words[0] == "begin"}
        child_args = [str(self.log), str(number), moment, str(count), *self.arguments]
        status = launched(self.processes, child_args, self.output)
        after = whole(self.index)
        begun = [words[2] for words in notes(self.log) if words[:2] == ["begin", str(number)]]
        again = begun_before & {*begun}
        lost = {*begun} - {*after}
        killed = status != 0 and (self.processes > 1 or status == -signal.SIGKILL)
        right = (
            all(after.get(name) == time for name, time in before.items())
            and not again & {*before}
            and len(again) <= self.processes
            and len(lost) <= self.processes
            and len(begun) == len({*begun})
            and killed == (moment != "never")
        )
        at = "uninterrupted" if moment == "never" else f"{moment} {count}"
        counts = [len(shards) for shards in (before, after, begun, again, lost)]
        return [self.processes, at, status, *counts, "yes" if right else "no"], right

    def draw_count(self, moment, rng, *, images, kills_left):
        """Draw after how many batches or shards the next launch is killed.

        kills_left: kills of this round that are still to come, this one included."""
        # one of P processes builds at least the P-th part of the missing shards, so it reaches this
        # count
        missing = self.count - len(whole(self.index))
        most = max(1, missing // self.processes // kills_left)
        batches = -(-images // BATCH)
        return rng.randint(1, most * batches) if moment == "batch" else rng.randint(1, most)


class Report:
    """The rows of the table, the checks, and one line per round about its files."""

    def __init__(self):
        self.rows, self.checks, self.text = [], [], ""

    def launch(self, number, one, *args):
        """Launch a round once and add its row. Returns: whether all checks passed."""
        cells, right = one.launch(*args)
        self.rows.append([number, *cells])
        self.checks.append(right)
        return right

    def compare(self, number, one, expected, finished):
        """Add whether the files of a round equal the expected ones."""
        wrong = differences(contents(one.index), expected) if finished else ["not finished"]
        self.checks.append(not wrong)
        if wrong:
            self.text += f"round {number}: {', '.join(wrong)} differ\n"
            self.text += one.output.read_text()[-3000:]
        else:
            self.text += f"round {number}: all files equal\n"


def run_rounds(args, out):
    """Build one index without a kill, then one per round with kills. Returns: the Report."""
    rng, report = random.Random(args.seed), Report()
    write_shards(out / "data", args.shards, args.images)
    alone = Round(out / "alone", out / "data", args.shards, 1, 0)
    report.launch(0, alone, 0, "never", 0)
    expected = contents(alone.index)
    for number, processes in enumerate(map(int, args.processes.split(",")), 1):
        # every other round has loader workers: they outlive a killed parent by seconds, and must
        # not keep its shard locked
        one = Round(out / str(number), out / "data", args.shards, processes, number % 2)
        moments = rng.sample(MOMENTS, len(MOMENTS)) * (1 + args.kills // len(MOMENTS))
        for turn, moment in enumerate(moments[: args.kills], 1):
            left = args.kills + 1 - turn
            count = one.draw_count(moment, rng, images=args.images, kills_left=left)
            report.launch(number, one, turn, moment, count)
        finished = report.launch(number, one, args.kills + 1, "never", 0)
        report.compare(number, one, expected, finished)
    return report


def main(argv=None):
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--shards", type=int, default=16, help="number of shards")
    parser.add_argument("--images", type=int, default=24, help="images per shard")
    parser.add_argument("--kills", type=int, default=5, help="kills per round")
    parser.add_argument(
        "--processes", default="1,1,2,2", help="processes of each round, separated by commas"
    )
    args = parser.parse_args(argv)
    # imported before the forks, so that the children start at once; by name, because the script
    # imports them lazily
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401
    import torch.utils.data  # noqa: F401

    import utils.index.index_build  # noqa: F401
    from utils.reports.tables import markdown

    out = Path(tempfile.mkdtemp())
    try:
        report = run_rounds(args, out)
        print(markdown(HEADER, report.rows))
        print(report.text, end="")
        print(f"{sum(report.checks)} of {len(report.checks)} right")
        sys.exit(not all(report.checks))
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
