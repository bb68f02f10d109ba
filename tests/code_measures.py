"""Print measures of this repository's own code as a Markdown table: a row per measure.

    python tests/code_measures.py [FOLDER]

FOLDER is the root of a checkout (default: the one this file belongs to). Only the standard library
is used. tests/test_code_measures.py sets limits for the product, which is `utils` and the scripts.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG_FUNCTION = 40  # lines; the share of longer functions is reported
WIDE_LINE = 100  # columns; the number of wider lines is reported
# part of the repository -> patterns of its files
PARTS = {
    "product (utils, scripts)": ("utils/**/*.py", "*.py"),
    "benchmarks, assets": ("benchmarks/**/*.py", "assets/**/*.py"),
    "tests": ("tests/**/*.py",),
}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Function:
    """A `def` statement at any depth: a function, a method or a nested function."""

    file: str  # path below the root of the checkout
    name: str  # qualified name, as in "Trainer._loss" or "steered.ask"
    lines: int  # from the line of `def` to the last line; decorators are excluded
    nesting: int  # deepest nesting of blocks; 0 if there is no block
    public: bool  # its own name does not start with _
    documented: bool  # has a docstring
    typed: tuple[bool, ...]  # one per parameter, except self and cls: has an annotation
    returns_typed: bool  # has a return annotation
    takes_opts: bool  # has a parameter called `opts`


@dataclass(frozen=True)
class SourceFile:
    """One Python file, measured."""

    path: str  # below the root of the checkout
    widths: list[int]  # columns of each line
    functions: list[Function]
    skips: int  # comments that switch the formatter off for a statement
    noqas: int  # comments that switch the linter off for a line


def nesting(statements: list[ast.stmt]) -> int:
    """Deepest nesting of if, for, while, with, try and match blocks.

    An `elif` counts as deep as its `if`. Nested functions and classes are not entered: a function
    is measured by itself.
    """
    deepest = 0
    for statement in statements:
        if isinstance(statement, BLOCKS):
            deepest = max(deepest, 1 + nesting(_inside(statement)), nesting(_elif(statement)))
    return deepest


def _inside(block: ast.stmt) -> list[ast.stmt]:
    """Statements one level inside a block, in all of its branches except an `elif`."""
    inside = list(getattr(block, "body", []))
    inside += [] if _elif(block) else getattr(block, "orelse", [])
    inside += getattr(block, "finalbody", [])
    for branch in [*getattr(block, "handlers", []), *getattr(block, "cases", [])]:
        inside += branch.body
    return inside


def _elif(block: ast.stmt) -> list[ast.stmt]:
    """The `if` that stands alone in the else branch of an `if`; empty if there is none."""
    branch = block.orelse if isinstance(block, ast.If) else []
    return branch if len(branch) == 1 and isinstance(branch[0], ast.If) else []


def _definitions(
    parent: ast.AST, outer: tuple[Definition, ...] = ()
) -> Iterator[tuple[ast.FunctionDef, tuple[Definition, ...]]]:
    """Yield (function, the definitions around it) for every function below a node."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef):
            yield node, outer
        yield from _definitions(node, (*outer, node) if isinstance(node, DEFINITIONS) else outer)


def _measure_function(file: str, node: ast.FunctionDef, outer: tuple[Definition, ...]) -> Function:
    given = node.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    parameters += [a for a in (given.vararg, given.kwarg) if a is not None]
    if outer and isinstance(outer[-1], ast.ClassDef) and not _is_static(node):
        parameters = parameters[1:]  # self or cls
    return Function(
        file=file,
        name=".".join([*(o.name for o in outer), node.name]),
        lines=node.end_lineno - node.lineno + 1,
        nesting=nesting(node.body),
        public=not node.name.startswith("_"),
        documented=ast.get_docstring(node) is not None,
        typed=tuple(a.annotation is not None for a in parameters),
        returns_typed=node.returns is not None,
        takes_opts=any(a.arg == "opts" for a in parameters),
    )


def _is_static(node: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)


def measure_file(path: Path, root: Path) -> SourceFile:
    """Measure one Python file; its path is recorded relative to `root`."""
    text, file = path.read_text(), path.relative_to(root).as_posix()
    comments = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    return SourceFile(
        path=file,
        widths=[len(line) for line in text.splitlines()],
        functions=[_measure_function(file, *d) for d in _definitions(ast.parse(text))],
        skips=sum("fmt: skip" in c for c in comments),
        noqas=sum("noqa" in c for c in comments),
    )


def measure_part(root: Path, patterns: Iterable[str]) -> list[SourceFile]:
    """Measure the files of one part, in the order of `patterns` and then by name."""
    return [measure_file(path, root) for p in patterns for path in sorted(root.glob(p))]


def all_functions(files: Iterable[SourceFile]) -> list[Function]:
    """Functions of all the files, in order."""
    return [function for file in files for function in file.functions]


def percentile_90(values: Iterable[int]) -> float:
    """The 90th percentile, interpolated as `statistics.quantiles` does it."""
    numbers = sorted(values)
    return statistics.quantiles(numbers, n=10)[-1] if len(numbers) > 1 else float(sum(numbers))


def _share(flags: Iterable[bool]) -> str:
    """The share of True, as in "6 of 970 (0.6 %)"."""
    values = list(flags)
    share = 100 * sum(values) / max(1, len(values))
    return f"{sum(values):,} of {len(values):,} ({share:.{0 if share >= 10 else 1}f} %)"


def folder_of(path: str) -> str:
    """The folder of a file: for files below `utils/` the next one, for top-level ones "scripts"."""
    folders = path.split("/")[:-1]
    if not folders:
        return "scripts"
    return folders[1] if folders[0] == "utils" and len(folders) > 1 else folders[0]


def summary(files: list[SourceFile]) -> dict[str, str]:
    """The measures of one part of the repository, each as the text of its table cell."""
    functions = all_functions(files)
    public = [f for f in functions if f.public]
    lengths = [f.lines for f in functions]
    widths = [w for file in files for w in file.widths]
    return {
        "files / lines": f"{len(files)} / {len(widths):,}",
        "functions": f"{len(functions):,}",
        "function lines: median, 90th percentile": (
            f"{statistics.median(lengths or [0]):g}, {percentile_90(lengths):.0f}"
        ),
        "longest function": _largest(functions, "lines"),
        f"functions over {LONG_FUNCTION} lines": _share(n > LONG_FUNCTION for n in lengths),
        "deepest nesting": _largest(functions, "nesting"),
        "with docstring": _share(f.documented for f in functions),
        "with docstring, public": _share(f.documented for f in public),
        "parameters with type": _share(t for f in functions for t in f.typed),
        "parameters with type, public": _share(t for f in public for t in f.typed),
        "returns with type": _share(f.returns_typed for f in functions),
        "returns with type, public": _share(f.returns_typed for f in public),
        f"lines over {WIDE_LINE} columns": f"{sum(w > WIDE_LINE for w in widths):,}",
        "90th percentile of width (blank lines excluded)": f"{percentile_90(w for w in widths if w):.0f}",
        "`# fmt: skip`": f"{sum(file.skips for file in files)}",
        "`# noqa`": f"{sum(file.noqas for file in files)}",
        "functions with a parameter `opts`": _by_folder(f for f in functions if f.takes_opts),
    }


def _largest(functions: list[Function], measure: str) -> str:
    """The largest value of a measure and the function that has it."""
    if not functions:
        return "0"
    largest = max(functions, key=lambda f: getattr(f, measure))
    module = largest.file.removesuffix(".py").replace("/", ".")
    return f"{getattr(largest, measure)} (`{module}:{largest.name}`)"


def _by_folder(functions: Iterable[Function]) -> str:
    """How many functions there are, in all and by folder."""
    counts = Counter(folder_of(f.file) for f in functions)
    folders = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    return f"{counts.total()} ({folders})" if folders else "0"


def table(root: Path) -> str:
    """All measures of a checkout as a Markdown table: a row per measure, a column per part."""
    columns = {name: summary(measure_part(root, patterns)) for name, patterns in PARTS.items()}
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    for measure in next(iter(columns.values())):
        lines.append([measure, *(column[measure] for column in columns.values())])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT))
