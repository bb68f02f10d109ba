"""Imports between the folders of `utils` point one way, options end at the stages, and public
functions have types: all read from the source. utils/README.md draws the arrows."""

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
    "captioning": {"runtime", "files", "reports", "data", "models", "captioning"},
    "training": {"runtime", "files", "reports", "data", "models", "generation", "training"},
    "retrieval": {"runtime", "files", "reports", "data", "retrieval"},
    "watch": {
        "runtime",
        "files",
        "reports",
        "data",
        "models",
        "generation",
        "training",
        "retrieval",
        "watch",
    },
    "index": {"runtime", "files", "reports", "data", "retrieval", "index"},
    "card": {
        "runtime",
        "files",
        "reports",
        "data",
        "models",
        "generation",
        "retrieval",
        "index",
        "card",
    },
    # flags list the names that registries hold
    "cli": {
        "runtime",
        "files",
        "reports",
        "data",
        "models",
        "generation",
        "captioning",
        "training",
        "retrieval",
        "index",
        "card",
        "watch",
        "cli",
    },
}
# the stages: they and the folder `cli` alone take options, and so may ask what a flag was
STAGES = {
    "captioning.caption_stage",
    "training.data_job",
    "training.model_job",
    "training.preservation_job",
    "training.starting_model",
    "training.training_job",
    "training.training_plan",
    "training.training_stage",
    "generation.generation_plan",
    "generation.generation_stage",
    "generation.unprompted",
    "retrieval.compare_stage",
    "retrieval.evaluation_stage",
    "watch.watch_stage",
    "index.deduplication",
    "index.index_build",
    "index.index_evaluation",
    "index.index_stage",
    "card.card_plan",
    "card.card_run",
    "card.card_stage",
}
EXCEPTIONS = {  # (module, what it imports): why
    ("data.scenes", "cli.exits"): "the command that draws scenes lives in its room",
    ("data.scenes", "cli.flags"): "the command that draws scenes lives in its room",
    ("data.scenes", "cli.scenes_options"): "the command that draws scenes lives in its room",
    ("captioning.__main__", "cli.exits"): "the command that captions lives in its room",
    ("captioning.__main__", "cli.flags"): "the command that captions lives in its room",
    ("captioning.__main__", "cli.captioning_options"): "the command lives in its room",
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


def is_stage(name):
    return name in STAGES or folder(name) == "cli"


def functions(node, prefix="", public=True):
    """(qualified name, function, is it public, is it a method) of a module or class, at any depth.

    Public is what a user of the module may call: no name of the path begins with an underscore, and
    it is not within a function. Special methods count as public."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            special = child.name.startswith("__") and child.name.endswith("__")
            shown = public and (special or not child.name.startswith("_"))
            name = f"{prefix}{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from functions(child, f"{name}.", shown)
            else:
                yield name, child, shown, isinstance(node, ast.ClassDef)
                yield from functions(child, f"{name}.", False)
        else:
            yield from functions(child, prefix, public)


def parameters(function):
    given = function.args
    plain = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return plain + [a for a in (given.vararg, given.kwarg) if a is not None]


def untyped(function, is_method):
    """Names of the parameters without a type, and "return" where that is missing; a constructor
    returns nothing."""
    static = any(getattr(d, "id", None) == "staticmethod" for d in function.decorator_list)
    wanted = parameters(function)[1 if is_method and not static else 0 :]
    missing = [p.arg for p in wanted if p.annotation is None]
    returns = function.returns is not None or function.name in ("__init__", "__post_init__")
    return missing if returns else [*missing, "return"]


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


def test_only_stages_take_options():
    offenders = [
        f"{name}: {function}"
        for name, path in modules()
        if not is_stage(name)
        for function, node, _, _ in functions(ast.parse(path.read_text()))
        if "opts" in {p.arg for p in parameters(node)}
    ]
    assert offenders == [], "\n" + "\n".join(offenders)


def test_public_functions_below_the_stages_have_types():
    offenders = [
        f"{name}: {function} ({', '.join(missing)})"
        for name, path in modules()
        if not is_stage(name)
        for function, node, public, is_method in functions(ast.parse(path.read_text()))
        if public and (missing := untyped(node, is_method))
    ]
    assert offenders == [], "\n" + "\n".join(offenders)


SAMPLE = """
class Record:
    def __init__(self, value): ...
    def method(self, value): ...
    @staticmethod
    def plain(value: int): ...
    def __len__(self) -> int: ...
    def _hidden(self, value): ...

class _Private:
    def method(self, value): ...

def public(first: int, *rest, opts=None, **named: str) -> int:
    def inner(value): ...

if True:
    def late(value) -> None: ...
"""


def test_the_rules_above_see_what_they_look_for():
    seen = {name: (node, *facts) for name, node, *facts in functions(ast.parse(SAMPLE))}
    shown = {name for name, (_, public, _) in seen.items() if public}
    assert shown == {
        "Record.__init__",
        "Record.method",
        "Record.plain",
        "Record.__len__",
        "public",
        "late",
    }
    assert "opts" in {p.arg for p in parameters(seen["public"][0])}
    missing = {name: untyped(seen[name][0], seen[name][2]) for name in shown}
    assert missing == {
        "Record.method": ["value", "return"],
        "Record.plain": ["return"],
        "Record.__len__": [],
        "public": ["opts", "rest"],
        "Record.__init__": ["value"],
        "late": ["value"],
    }
