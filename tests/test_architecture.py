"""Imports point one way, read from the source: scripts -> stages -> diffusion | evaluation -> data -> top-level rooms."""

import ast

import pytest

from tests.conftest import ROOT

TOP = {
    "errors",
    "seeding",
    "manifest",
    "records",
    "runs",
    "generations",
    "evaluations",
    "claims",
    "states",
    "devices",
    "downloads",
    "flags",
    "hub",
    "signals",
}
# room -> rooms of `utils` that it may import
ALLOWED = {
    "top": {"top"},
    "data": {"top", "data"},
    "diffusion": {"top", "data", "diffusion"},
    "evaluation": {"top", "data", "evaluation"},
    "reports": {"records", "manifest", "reports"},
    "stages": {"top", "data", "diffusion", "evaluation", "reports", "stages"},
    "options": {"top", "data", "diffusion", "evaluation", "reports"},
    "retrieval_options": {"top", "data", "evaluation", "options"},
}
EXCEPTIONS = {("data.scenes", "options")}  # the scenes command is a script that lives in its room


def modules():
    for path in sorted((ROOT / "utils").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "utils").with_suffix("").parts)
        if not name.endswith("__init__"):
            yield name, path


def imported(path):
    """Modules of `utils` that a file imports anywhere in it, without the leading `utils.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "utils":
            base = node.module.removeprefix("utils").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                is_module = (ROOT / "utils" / (name.replace(".", "/") + ".py")).exists()
                yield name if is_module else base
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("utils.") for a in node.names if a.name.startswith("utils."))


def room(name):
    first = name.split(".")[0]
    return "top" if first in TOP else first


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_one_way(name, path):
    allowed = ALLOWED[room(name)]
    for target in imported(path):
        ok = room(target) in allowed or target in allowed or (name, target) in EXCEPTIONS
        assert ok, f"{name} imports {target}"


def test_nothing_imports_a_script_and_only_options_parses():
    scripts = {p.stem for p in ROOT.glob("*.py")}
    for name, path in modules():
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not scripts & set(found), name
            assert "argparse" not in found or name == "flags", name


def test_a_module_has_a_test_of_its_own():
    for name, _path in modules():
        head, _, tail = name.rpartition(".")
        assert (ROOT / "tests" / head.replace(".", "/") / f"test_{tail}.py").exists(), name
