"""Run commands of the scripts in worker processes, one per device. A worker imports the libraries
once, not once per command."""

import contextlib
import importlib
import io
import multiprocessing
import os
import platform
import shlex
import sys
import traceback
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait
from pathlib import Path

from utils.files.whole_files import read_json
from utils.runtime import signals

ROOT = Path(__file__).resolve().parents[2]


def devices():
    """List the devices that share the work: the GPUs, or else the CPU cores, because one thread per
    process is the most efficient. Returns: ["cuda:<name>"] or ["cpu:<number>"]."""
    import torch

    count = torch.cuda.device_count()
    # the GPUs of the machine that this process may use: numbers or UUIDs
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = [f"cuda:{name}" for name in (given or range(count))[:count]]
    return gpus or [f"cpu:{i}" for i in range(len(os.sched_getaffinity(0)))]


def machine():
    """Name the GPU, or the processor and its number of cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def _start(names):
    """Initialise a new worker: choose its device before torch is imported."""
    kind, name = names.get().split(":")
    os.environ.update(
        {"CUDA_VISIBLE_DEVICES": name} if kind == "cuda" else {"OMP_NUM_THREADS": "1"}
    )
    os.environ["TQDM_DISABLE"] = "1"
    sys.path.insert(0, str(ROOT))
    # without its parent, a worker would go on writing into folders that the next study uses
    signals.end_with_parent()


def pool(names):
    """Start a pool with one worker per device. names: as devices() gives them."""
    context = multiprocessing.get_context("spawn")
    waiting = context.Queue()
    for name in names:
        waiting.put(name)
    return ProcessPoolExecutor(
        len(names), mp_context=context, initializer=_start, initargs=(waiting,)
    )


def is_done(path):
    """Return whether a command has finished: whether the file that it writes last exists. A run
    writes run.json at its start; that file says when the run has finished."""
    path = Path(path)
    return path.exists() and (path.name != "run.json" or read_json(path).get("finished") is True)


def line_of(command):
    """Return a command as a line that can be pasted into a shell."""
    return f"python {shlex.join(map(str, command))}"


def make_way(done, command):
    """Move unfinished scenes or an unfinished training away, because these start again from the
    beginning. A generation continues by itself."""
    if command[0] in ("-m", "diff_train.py") and done.parent.exists():
        set_aside(done.parent)


def call(command):
    """Run a command of the project in this process. In a new process, importing the libraries would
    take longer than most commands."""
    words = [str(word) for word in command]
    if words[0] == "-m":
        module, *arguments = words[1:]
    else:
        module, arguments = words[0].removesuffix(".py"), words[1:]
    importlib.import_module(module).main(arguments)


def run_missing(steps):
    """Run every command whose result does not exist yet, in this process, and print each before.
    steps: (file or folder written last, command), in order."""
    for done, command in steps:
        if done.exists():
            print(f"# already finished: {line_of(command)}")
            continue
        make_way(done, command)
        print(f"\n$ {line_of(command)}", flush=True)
        call(command)


def run_command(done, command):
    """Run a command of the project in this process unless its result exists. Its output goes to a
    log beside the result's folder.

    done: the file that the command writes last. RuntimeError with the last lines of the output if
    the command fails."""
    done = Path(done)
    if is_done(done):
        return
    make_way(done, command)
    printed, ended = io.StringIO(), None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            call(command)
        except SystemExit as error:
            ended = error.code
        except Exception:  # noqa: BLE001  any error goes into the log and to the user
            traceback.print_exc()
            ended = 1
    log = done.parent.with_name(f"{done.parent.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"$ {line_of(command)}\n{printed.getvalue()}", encoding="utf-8")
    if ended or not is_done(done):
        lines = " / ".join(printed.getvalue().strip().splitlines()[-3:])
        raise RuntimeError(f"{line_of(command)}\nended with {ended}: {lines} (whole output: {log})")


def set_aside(folder):
    """Rename the folder of an interrupted command. Nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}-interrupted-{number}")).exists():
        number += 1
    folder.rename(aside)
    print(f"files of an interrupted command were moved to {aside}")


def run_graph(executor, tasks, *, workers, may_start=lambda: True):
    """Run tasks as soon as the tasks that they need have finished, otherwise in their order.

    tasks: {name: (names of the tasks it needs, function, arguments)};
    workers: how many tasks run at once;
    may_start: called before each start; False: no further task starts.
    Yields: (name, result) or (name, exception). Tasks that need a failed task do not start, and no
    task starts after a worker was killed."""
    waiting, finished, running = dict(tasks), set(), {}
    while True:
        for name, (needed, function, arguments) in list(waiting.items()):
            if len(running) >= workers or not may_start():
                break
            if finished.issuperset(needed):
                del waiting[name]
                try:
                    running[executor.submit(function, *arguments)] = name
                except BrokenExecutor as error:  # a worker was killed, e.g. for its memory
                    waiting.clear()
                    yield name, error
                    break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            name, error = running.pop(future), future.exception()
            if error is None:
                finished.add(name)
            yield name, future.result() if error is None else error
