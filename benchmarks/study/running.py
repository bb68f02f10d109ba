"""Commands of the scripts in worker processes, one a device: libraries are imported once a worker,
not once a command."""

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
    """What work is shared over: a GPU each, or else a CPU core each, on which one thread wastes
    least. Returns: [name]."""
    import torch

    count = torch.cuda.device_count()
    # of all the machine's, those that are ours: numbers or UUIDs
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = [f"cuda:{name}" for name in (given or range(count))[:count]]
    return gpus or [f"cpu:{i}" for i in range(len(os.sched_getaffinity(0)))]


def machine():
    """What computes, in words: the GPU, or the processor and its cores."""
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
    """In a new worker: take a device before torch is imported."""
    kind, name = names.get().split(":")
    os.environ.update(
        {"CUDA_VISIBLE_DEVICES": name} if kind == "cuda" else {"OMP_NUM_THREADS": "1"}
    )
    os.environ["TQDM_DISABLE"] = "1"
    sys.path.insert(0, str(ROOT))
    # a worker whose parent was killed would write where the next study begins
    signals.end_with_parent()


def pool(names):
    """A pool of a worker a device. names: of devices()."""
    context = multiprocessing.get_context("spawn")
    waiting = context.Queue()
    for name in names:
        waiting.put(name)
    return ProcessPoolExecutor(
        len(names), mp_context=context, initializer=_start, initargs=(waiting,)
    )


def is_done(path):
    """Whether what a command makes last is there; a run's record is there from the start and says
    when it has finished."""
    path = Path(path)
    return path.exists() and (path.name != "run.json" or read_json(path).get("finished") is True)


def line_of(command):
    return f"python {shlex.join(map(str, command))}"


def make_way(done, command):
    """Set aside what was drawn or trained half, which is made anew; a generation continues by
    itself."""
    if command[0] in ("-m", "diff_train.py") and done.parent.exists():
        set_aside(done.parent)


def call(command):
    """Run a command of the project in this process: importing the libraries takes longer than most
    of them."""
    words = [str(word) for word in command]
    module, arguments = (
        (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    )
    importlib.import_module(module).main(arguments)


def run_command(done, command):
    """Run a command of the project in this process unless `done` is there; what it prints goes to a
    log beside.

    RuntimeError with its last lines if it ends otherwise than well.
    """
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
        except Exception:  # noqa: BLE001  whatever it is goes into the log and to the user
            traceback.print_exc()
            ended = 1
    log = done.parent.with_name(f"{done.parent.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"$ {line_of(command)}\n{printed.getvalue()}", encoding="utf-8")
    if ended or not is_done(done):
        lines = " / ".join(printed.getvalue().strip().splitlines()[-3:])
        raise RuntimeError(f"{line_of(command)}\nended with {ended}: {lines} (all of it: {log})")


def set_aside(folder):
    """Move what an interrupted command left out of the way; nothing is deleted."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}-interrupted-{number}")).exists():
        number += 1
    folder.rename(aside)
    print(f"what an interrupted command left was moved to {aside}")


def run_graph(executor, tasks, *, workers, may_start=lambda: True):
    """Run tasks as the ones they wait for finish, in their order otherwise.

    tasks: {name: (names it waits for, function, arguments)}; workers: how many run at once, each
    begun when one is free; may_start: asked before each. Yields: (name, result), or (name,
    exception): what waits for a failed task is not started, and nothing is once a worker was
    killed."""
    waiting, finished, running = dict(tasks), set(), {}
    while True:
        for name, (needed, function, arguments) in list(waiting.items()):
            if len(running) >= workers or not may_start():
                break
            if finished.issuperset(needed):
                del waiting[name]
                try:
                    running[executor.submit(function, *arguments)] = name
                except BrokenExecutor as error:  # a worker was killed, as for memory
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
