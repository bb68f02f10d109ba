"""Run tests on mutants: each in a copy of the checkout, in a process of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType

from tests.mutation import Mutant, MutantError, mutated_source

NOT_COPIED = (".venv", ".git", "runs", "build", "__pycache__", ".*_cache", "wandb")


def copy_checkout(root: Path, folder: Path) -> Path:
    """Copy a checkout to a new folder, without environments, history and output."""
    return Path(shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*NOT_COPIED)))


def pytest_in(
    folder: Path, arguments: Iterable[str], *, root: Path, processes: BaseContext
) -> tuple[int, str]:
    """Run pytest in a copy of a checkout.

    folder: the copy; pytest's output goes to a file beside it. root: the checkout itself, from
    which nothing may be imported. Returns: (exit status, output).
    """
    log = folder.with_name("log.txt")
    child = processes.Process(target=_in_child, args=(folder, list(arguments), log, root))
    child.start()
    child.join()
    return child.exitcode, log.read_text() if log.is_file() else ""


def _in_child(folder: Path, arguments: list[str], log: Path, root: Path) -> None:
    """Run pytest in this process, which has imported nothing of the toolkit yet."""
    os.chdir(folder)
    ours = (root.resolve(), Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent)
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() not in ours)]
    for name in [n for n in sys.modules if n.split(".")[0] == "tests"]:
        del sys.modules[name]  # the copy has a package of that name
    # processes of the tests would run the main module again, which imports from the checkout
    sys.modules["__main__"] = ModuleType("__main__")
    with open(log, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    import pytest

    sys.exit(pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", *arguments]))


def try_mutant(mutant: Mutant, *, root: Path, processes: BaseContext) -> str | None:
    """Run the mutant's test on the mutant. Returns: None if it fails as it must, else a reason."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            source = mutated_source(mutant, root)
        except MutantError as error:
            return str(error)
        tree = copy_checkout(root, Path(scratch) / "tree")
        (tree / mutant.file).write_text(source)
        status, output = pytest_in(tree, [mutant.test], root=root, processes=processes)
    if status == 1 and "FAILED " in output:
        return _broken_name(output)
    return "the test passes" if status == 0 else f"pytest ended with {status}: {output[-400:]}"


def _broken_name(output: str) -> str | None:
    """The error of a mutant that names what does not exist: its test fails whatever it tests. None
    for any other failure."""
    errors = (
        "NameError: name ",
        "UnboundLocalError: ",
        "object has no attribute ",
        "got an unexpected keyword argument ",
    )
    for line in output.splitlines():
        if "Error: " in line and any(error in line for error in errors):
            return f"the mutant is not code that runs: {line.strip()[-200:]}"
    return None


def require_passing(
    tests: Iterable[str], *, root: Path, processes: BaseContext, workers: int
) -> None:
    """Run tests on an unbroken copy; SystemExit with pytest's output if one fails."""
    tests = sorted(set(tests))
    files = sorted({t.split("::")[0] for t in tests})
    # a worker takes whole files, so that what a file sets up is set up once
    shares = [[t for t in tests if t.split("::")[0] in files[i::workers]] for i in range(workers)]

    def run(number: int, share: list[str]) -> tuple[int, str]:
        tree = copy_checkout(root, Path(scratch) / str(number) / "tree")
        return pytest_in(tree, share, root=root, processes=processes)

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(workers) as pool:
        shares = [share for share in shares if share]  # no argument would mean all tests
        for status, output in pool.map(run, range(len(shares)), shares):
            if status:
                lead = output[-3000:]
                sys.exit(f"{lead}\nthe named tests must pass before anything is broken")


def run_mutants(
    mutants: Sequence[Mutant],
    *,
    root: Path,
    processes: BaseContext,
    workers: int,
    say: Callable[[str], None],
) -> int:
    """Try every mutant and report a line per mutant. Returns: how many were not caught."""
    tests = [m.test for m in mutants]
    require_passing(tests, root=root, processes=processes, workers=workers)
    missed = 0
    with ThreadPoolExecutor(workers) as pool:
        reasons = pool.map(lambda m: try_mutant(m, root=root, processes=processes), mutants)
        for mutant, reason in zip(mutants, reasons, strict=True):
            missed += reason is not None
            say(_result_line(mutant, reason))
    say(f"{len(mutants) - missed} caught, {missed} missed")
    return missed


def _result_line(mutant: Mutant, reason: str | None) -> str:
    code = " ".join(mutant.old.split())
    shown = code if len(code) <= 60 else code[:57] + "..."
    test = mutant.test.split("::", 1)[1]
    line = f"[{mutant.kind}] {mutant.place}: {shown!r} by {test}"
    return f"caught  {line}" if reason is None else f"MISSED  {line}: {reason}"
