"""Imports between the folders of `utils` point one way, read from the source; CONTRIBUTING.md draws
the arrows."""

import ast

import pytest

from tests.conftest import ROOT

# folder -> folders of `utils` that it may import
ALLOWED = {
    "runtime": {"runtime"},
    "files": {"runtime", "files"},
    "reports": {"runtime", "files", "reports"},
    "data": {"runtime", "files", "data"},
    "models": {"runtime", "files", "data", "models"},
    "generation": {"runtime", "files", "reports", "data", "models", "generation"},
    "training": {"runtime", "files", "reports", "data", "models", "generation", "training"},
    "retrieval": {"runtime", "files", "reports", "data", "retrieval"},
    "index": {"runtime", "files", "reports", "data", "retrieval", "index"},
    # flags list the names that registries hold
    "cli": {
        "runtime",
        "files",
        "reports",
        "data",
        "models",
        "generation",
        "training",
        "retrieval",
        "index",
        "cli",
    },
}
# the stages: they alone take options, and so may ask what a flag was
STAGES = {"index.deduplication", "index.index_build", "index.index_evaluation"}
EXCEPTIONS = {  # (module, what it imports): why
    ("data.scenes", "cli.exits"): "the command that draws scenes lives in its room",
    ("data.scenes", "cli.flags"): "the command that draws scenes lives in its room",
    ("data.scenes", "cli.scenes_options"): "the command that draws scenes lives in its room",
}


def modules():
    for path in sorted((ROOT / "utils").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "utils").with_suffix("").parts)
        if not name.endswith("__init__"):
            yield name, path


def imported(path):
    """Modules of `utils` that a file imports anywhere in it, without the leading `utils.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "utils"
        ):
            base = node.module.removeprefix("utils").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                is_module = (ROOT / "utils" / (name.replace(".", "/") + ".py")).exists()
                yield name if is_module else base
        elif isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("utils.") for a in node.names if a.name.startswith("utils.")
            )


def folder(name):
    return name.split(".")[0]


@pytest.mark.parametrize(
    ("name", "path"), list(modules()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_imports_point_one_way(name, path):
    for target in imported(path):
        allowed = ALLOWED[folder(name)] | ({"cli"} if name in STAGES else set())
        assert folder(target) in allowed or (name, target) in EXCEPTIONS, f"{name} imports {target}"


def test_nothing_imports_a_script_and_only_flags_parses():
    scripts = {p.stem for p in ROOT.glob("*.py")}
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            heads = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            heads += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not scripts & set(heads), name
            assert "argparse" not in heads or name == "cli.flags", name


def test_every_folder_has_a_folder_of_tests():
    for name, path in modules():
        beside = ROOT / "tests" / path.parent.relative_to(ROOT / "utils")
        assert list(beside.glob("test_*.py")), f"{name}: no tests in {beside}"
