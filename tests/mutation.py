"""Mutants: faults that are put into the toolkit by editing its syntax trees.

A mutant names a place (a function) and the code that is replaced there. Code is compared as syntax
trees, so white space, quotes, line breaks and comments do not matter. `tests/mutants.py` lists the
mutants of this repository; `tests/mutation_run.py` runs tests on them.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import dedent

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# lists of which an element can be deleted: call arguments, elements, conditions, operands
DELETABLE = {"args", "elts", "ifs", "keywords", "values"}
SEARCHED = ("*.py", "utils/**/*.py", "benchmarks/**/*.py", "assets/**/*.py")
SHORT_CODE = 8  # letters; shorter code occurs in too many places to be a hint


@dataclass(frozen=True)
class Mutant:
    """One fault and the test that must fail because of it."""

    kind: str  # the scientific fault that it stands for
    place: str  # "package.module:Class.function"; "package.module:" for module-level code
    old: str  # an expression, statements, or a keyword as in "exclude_self=True"
    new: str  # what replaces it; "" deletes a statement, keyword, list element or condition
    test: str  # "tests/folder/test_file.py::test_name"

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return self.place.partition(":")[0]

    @property
    def scope(self) -> str:
        """The qualified name within the module; "" for module-level code."""
        return self.place.partition(":")[2]

    @property
    def file(self) -> str:
        """The module's path below the root of the checkout."""
        return self.module.replace(".", "/") + ".py"


class MutantError(Exception):
    """A mutant cannot be built from the source as it is; the message says why."""


@dataclass(frozen=True)
class Site:
    """A position in a syntax tree: one node, or `count` consecutive nodes of a list."""

    parent: ast.AST
    field: str  # the field of the parent that holds the node
    index: int | None  # position in the list that the field holds; None if it holds one node
    node: ast.AST  # the (first) node
    count: int = 1  # number of consecutive nodes of the list

    @property
    def is_statement(self) -> bool:
        """Whether this is a position of statements."""
        return isinstance(self.node, ast.stmt)

    def replace(self, nodes: list[ast.AST]) -> None:
        """Put other nodes at this position."""
        if self.index is None:
            (node,) = nodes
            setattr(self.parent, self.field, node)
        else:
            siblings = getattr(self.parent, self.field)
            siblings[self.index : self.index + self.count] = nodes


def mutated_source(mutant: Mutant, root: Path) -> str:
    """The source of the mutant's module with the fault in it.

    root: folder of a checkout. Raises MutantError if the place does not exist, if the code does
    not occur in it exactly once, or if the result is not Python or equals the original.
    """
    tree = _parse_module(mutant, root)
    before = ast.dump(tree)
    site = _find_site(mutant, tree, root)
    site.replace(_replacement(mutant.new, site))
    if site.is_statement and not getattr(site.parent, site.field) and site.field == "body":
        site.parent.body = [ast.Pass()]
    source = ast.unparse(ast.fix_missing_locations(tree))
    try:
        after = ast.dump(ast.parse(source))
        compile(source, mutant.file, "exec")
    except SyntaxError as error:
        raise MutantError(f"the new code cannot be compiled: {error}") from error
    if after == before:
        raise MutantError("the new code is the old code")
    return source


def check(mutants: Iterable[Mutant], root: Path) -> list[str]:
    """Look every mutant up in a checkout without running tests.

    Returns: a line per mutant whose place, code or test does not match.
    """
    problems = []
    for mutant in mutants:
        try:
            mutated_source(mutant, root)
            _require_test(mutant, root)
        except MutantError as error:
            problems.append(f"[{mutant.kind}] {mutant.place}: {error}")
    return problems


# Code as patterns


def patterns(code: str) -> list[list[ast.AST]]:
    """What a piece of code can mean, each as a list of consecutive nodes.

    An expression is one node. Anything else is a keyword of a call ("exclude_self=True",
    "**others"), statements, or both: "x = 1" is a keyword and an assignment.
    """
    expression = _expression(code)
    if expression is not None:
        return [[expression]]
    keyword, statements = _keyword(code), _statements(code)
    meanings = [[keyword]] if keyword is not None else []
    meanings += [statements] if statements else []
    if not meanings:
        raise MutantError(f"neither expression, keyword nor statements: {code!r}")
    return meanings


def _expression(code: str) -> ast.expr | None:
    try:
        return ast.parse(f"(\n{code}\n)", mode="eval").body if code.strip() else None
    except SyntaxError:
        return None


def _keyword(code: str) -> ast.keyword | None:
    try:
        call = ast.parse(f"_(\n{code}\n)", mode="eval").body
    except SyntaxError:
        return None
    is_one = isinstance(call, ast.Call) and not call.args and len(call.keywords) == 1
    return call.keywords[0] if is_one else None


def _statements(code: str) -> list[ast.stmt] | None:
    try:
        return ast.parse(dedent(code).strip("\n")).body
    except SyntaxError:
        return None


def _replacement(new: str, site: Site) -> list[ast.AST]:
    """The new code as nodes of the same sort as the old ones; [] to delete them."""
    if not new.strip():
        if site.is_statement or (site.index is not None and site.field in DELETABLE):
            return []
        raise MutantError(f"{ast.unparse(site.node)!r} is part of an expression: give a new one")
    if site.is_statement:
        nodes = _statements(new)
    else:
        node = _keyword(new) if isinstance(site.node, ast.keyword) else _expression(new)
        nodes = None if node is None else [node]
    if nodes is None:
        sort = "statements" if site.is_statement else type(site.node).__name__
        raise MutantError(f"the new code {new!r} does not parse as the old one did ({sort})")
    return nodes


# Places and matches


def definitions(tree: ast.AST, prefix: str = "") -> dict[str, ast.AST]:
    """Every class and function of a module by its qualified name, nested ones included."""
    named = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, DEFINITIONS):
            named[prefix + node.name] = node
            named |= definitions(node, f"{prefix}{node.name}.")
        else:
            named |= definitions(node, prefix)
    return named


def sites(parent: ast.AST, *, shallow: bool) -> Iterator[Site]:
    """Every node below another; `shallow` does not enter functions and classes."""
    for field, value in ast.iter_fields(parent):
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST):
                continue
            yield Site(parent, field, index if isinstance(value, list) else None, node)
            if not (shallow and isinstance(node, DEFINITIONS)):
                yield from sites(node, shallow=shallow)


def matches(scope: ast.AST, code: str) -> list[Site]:
    """Every occurrence of code in a function, or in a module or class outside its functions."""
    wanted = patterns(code)
    matching = [
        replace(site, count=len(nodes))
        for site in sites(scope, shallow=_is_shallow(scope))
        for nodes in wanted
        if _stands_at(site, nodes)
    ]
    return [_whole_statement(site, scope) for site in matching]


def _is_shallow(scope: ast.AST) -> bool:
    """Whether functions within a place are other places: those of a module or a class are."""
    return isinstance(scope, (ast.Module, ast.ClassDef))


def _stands_at(site: Site, wanted: list[ast.AST]) -> bool:
    """Whether the nodes that begin at a site are the wanted ones."""
    if type(site.node) is not type(wanted[0]):
        return False
    nodes = [site.node]
    if len(wanted) > 1:
        nodes = getattr(site.parent, site.field)[site.index : site.index + len(wanted)]
    return [ast.dump(node) for node in nodes] == [ast.dump(node) for node in wanted]


def _whole_statement(site: Site, scope: ast.AST) -> Site:
    """The statement around an expression that is a statement by itself, else the site."""
    if not isinstance(site.parent, ast.Expr):
        return site
    return next(s for s in sites(scope, shallow=False) if s.node is site.parent)


def _find_site(mutant: Mutant, tree: ast.Module, root: Path) -> Site:
    scope = _find_scope(mutant, tree, root)
    matching = matches(scope, mutant.old)
    if len(matching) == 1:
        return matching[0]
    message = f"{mutant.old!r} occurs {len(matching)} times, expected once"
    if matching:
        lines = ", ".join(str(site.node.lineno) for site in matching)
        raise MutantError(f"{message} (lines {lines}): give more of the code around it")
    hints = _nearest_code(scope, mutant.old, shallow=_is_shallow(scope))
    hints += [f"it occurs in {place}" for place in _places_of(mutant.old, root)]
    raise MutantError("; ".join([message, *hints]))


def _find_scope(mutant: Mutant, tree: ast.Module, root: Path) -> ast.AST:
    if not mutant.scope:
        return tree
    named = definitions(tree)
    if mutant.scope in named:
        return named[mutant.scope]
    hints = [f"nearest: {n}" for n in difflib.get_close_matches(mutant.scope, named, 1)]
    last = mutant.scope.rpartition(".")[2]
    hints += [
        f"{module}:{name} has that name"
        for module, other in _modules(root)
        for name in definitions(other)
        if name.rpartition(".")[2] == last
    ][:3]
    places = _places_of(mutant.old, root)
    hints += [f"its code occurs in {place}" for place in places]
    if not places and len(mutant.old) >= SHORT_CODE:
        hints += _nearest_code(tree, mutant.old, shallow=False)
    message = f"{mutant.module} has no function or class `{mutant.scope}`"
    raise MutantError("; ".join([message, *dict.fromkeys(hints)]))


# Hints for mutants that no longer match


def _nearest_code(scope: ast.AST, code: str, *, shallow: bool) -> list[str]:
    """A hint at the code of the same sort in the scope that looks most like a pattern, if any."""
    nodes = patterns(code)[-1]
    is_expression = isinstance(nodes[0], ast.expr)
    sort = (ast.expr, ast.keyword) if is_expression else (ast.keyword, ast.stmt)
    candidates = {
        ast.unparse(site.node)
        for site in sites(scope, shallow=shallow)
        if isinstance(site.node, sort) and not isinstance(site.node, DEFINITIONS)
    }
    # of several statements, the first one that does not occur
    texts = [ast.unparse(node) for node in nodes]
    wanted = next((text for text in texts if text not in candidates), texts[0])
    if is_expression and wanted in candidates:
        return ["it is the target of an assignment: give the whole statement"]
    similar = sorted(c for c in candidates if len(c) < 3 * len(wanted) + 20)
    nearest = difflib.get_close_matches(wanted, similar, 1, cutoff=0.4)
    return [f"nearest: {code!r}" for code in nearest]


def _places_of(code: str, root: Path) -> list[str]:
    """The first three places in which code occurs; none for short code."""
    if len(code) < SHORT_CODE:
        return []
    places, wanted = [], patterns(code)
    for module, tree in _modules(root):
        scopes = definitions(tree)
        if not any(_stands_at(s, nodes) for s in sites(tree, shallow=False) for nodes in wanted):
            continue
        inner = [n for n, node in scopes.items() if matches(node, code)]
        # a function counts, those around it do not
        inner = [n for n in inner if not any(m.startswith(f"{n}.") for m in inner)]
        places += [f"{module}:{name}" for name in inner]
        places += [f"{module}:"] if matches(tree, code) else []
    return places[:3]


@cache
def _modules(root: Path) -> list[tuple[str, ast.Module]]:
    """Every module of the toolkit: (dotted name, syntax tree)."""
    paths = [path for pattern in SEARCHED for path in sorted(root.glob(pattern))]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
    return [(n, ast.parse(p.read_text())) for n, p in zip(names, paths, strict=True)]


def _parse_module(mutant: Mutant, root: Path) -> ast.Module:
    path = root / mutant.file
    if path.is_file():
        return ast.parse(path.read_text())
    names = [name for name, _ in _modules(root)]
    near = difflib.get_close_matches(mutant.module, names, 1)
    same = [n for n in names if n.rpartition(".")[2] == mutant.module.rpartition(".")[2]]
    hint = f"; nearest: {', '.join(dict.fromkeys([*same, *near]))}" if same or near else ""
    raise MutantError(f"no file {mutant.file}{hint}")


def _require_test(mutant: Mutant, root: Path) -> None:
    file, _, name = mutant.test.partition("::")
    wanted = name.partition("[")[0].replace("::", ".")
    names = _test_names(root).get(file)
    if names is not None and wanted in names:
        return
    hints = [f"{other} has it" for other, n in _test_names(root).items() if wanted in n]
    hints = hints or [f"nearest: {n}" for n in difflib.get_close_matches(wanted, names or (), 1)]
    message = f"no file {file}" if names is None else f"{file} has no {wanted}"
    raise MutantError("; ".join([message, *hints]))


@cache
def _test_names(root: Path) -> dict[str, list[str]]:
    """Qualified names of the definitions in each file of tests, by the file's path below `root`."""
    paths = sorted((root / "tests").rglob("test_*.py"))
    trees = [ast.parse(path.read_text()) for path in paths]
    files = [path.relative_to(root).as_posix() for path in paths]
    return {f: list(definitions(tree)) for f, tree in zip(files, trees, strict=True)}
