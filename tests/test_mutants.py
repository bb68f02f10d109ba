"""The engine of the mutants, on a toolkit of one file, and the rows of this repository.

`make mutants` runs the rows' tests; here every row is only looked up in the source.
"""

import ast
import multiprocessing
from collections import Counter
from dataclasses import replace

import pytest

from tests import mutants, mutation, mutation_run
from tests.conftest import ROOT
from tests.mutation import Mutant, MutantError

TOY = '''
"""A toolkit."""
LIMIT, REST = 96, 32


def scores(rows, *, exclude_self=False):
    total = sum(rows)  # of all
    if exclude_self:
        total = total - (
            1
        )
    print("a", total)
    return scale(rows, total, exclude_self = True, **{'b': 2})


def scale(rows, total, exclude_self, b):
    return [r / total for r in rows if r > 0 and r < total]


def outer():
    def inner(x):
        return x + 1

    return inner


class Bank:
    size = 1

    def update(self, loss):
        self.loss = loss
        self.count()

    def count(self):
        self.number = getattr(self, "number", 0) + 1
'''

TOY_TEST = """
import toy

def test_shares_add_up():
    assert sum(toy.scale([1, 3], 4, True, 2)) == 1

def test_nothing():
    assert toy.LIMIT
"""


@pytest.fixture
def checkout(tmp_path):
    """A toolkit of one module and its tests."""
    folder = tmp_path / "checkout"
    (folder / "tests").mkdir(parents=True)
    (folder / "toy.py").write_text(TOY)
    (folder / "tests" / "test_toy.py").write_text(TOY_TEST)
    return folder


def toy_mutant(scope, old, new, test="test_shares_add_up"):
    return Mutant("a kind", f"toy:{scope}", old, new, f"tests/test_toy.py::{test}")


def mutated(checkout, scope, old, new):
    """Lines of the module that the mutant has and the module has not."""
    source = mutation.mutated_source(toy_mutant(scope, old, new), checkout).splitlines()
    plain = Counter(ast.unparse(ast.parse(TOY)).splitlines())
    return [line.strip() for line in (Counter(source) - plain).elements()]


def refused(checkout, scope, old, new):
    with pytest.raises(MutantError) as error:
        mutation.mutated_source(toy_mutant(scope, old, new), checkout)
    return str(error.value)


@pytest.mark.parametrize(
    ("scope", "old", "new", "lines"),
    [
        ("scores", "total-1", "total", ["total = total"]),
        ("scores", "(total\n  -\n  1)", "total", ["total = total"]),
        ("scores", 'print( "a",  total )', "print('b')", ["print('b')"]),
        ("scores", "if exclude_self: total = total - 1", "if not exclude_self: total = 0", 2),
    ],
)
def test_formatting_does_not_matter(checkout, scope, old, new, lines):
    if lines == 2:
        lines = ["if not exclude_self:", "total = 0"]
    assert mutated(checkout, scope, old, new) == lines


@pytest.mark.parametrize(
    ("scope", "old", "new", "lines"),
    [
        # a keyword of a call
        (
            "scores",
            "exclude_self=True",
            "exclude_self=False",
            ["return scale(rows, total, exclude_self=False, **{'b': 2})"],
        ),
        ("scores", "exclude_self=True", "", ["return scale(rows, total, **{'b': 2})"]),
        ("scores", "**{'b': 2}", "b=3", ["return scale(rows, total, exclude_self=True, b=3)"]),
        # part of a condition, the condition of a comprehension, an operand
        ("scale", "r < total", "", ["return [r / total for r in rows if r > 0]"]),
        ("scale", "r > 0 and r < total", "", ["return [r / total for r in rows]"]),
        ("scale", "r / total", "r", ["return [r for r in rows if r > 0 and r < total]"]),
        # statements: several, one deleted, one that is an expression, one that is all of a body
        ("Bank.update", "self.loss = loss; self.count()", "self.count(loss)", ["self.count(loss)"]),
        ("Bank.update", "self.loss = loss", "self.lost = loss", ["self.lost = loss"]),
        ("Bank.update", "self.count()", "", []),
        ("Bank.update", "self.count()", "raise ValueError", ["raise ValueError"]),
        ("Bank.update", "self.count()", "self.size", ["self.size"]),
        ("outer.inner", "return x + 1", "", ["pass"]),
        # nested functions, by the function around them too
        ("outer.inner", "x + 1", "x", ["return x"]),
        ("outer", "x + 1", "x", ["return x"]),
        # outside functions
        ("", "LIMIT, REST = 96, 32", "LIMIT, REST = 1, 1", ["LIMIT, REST = (1, 1)"]),
        ("Bank", "size = 1", "size = 2", ["size = 2"]),
    ],
)
def test_expressions_keywords_and_statements_are_replaced(checkout, scope, old, new, lines):
    assert mutated(checkout, scope, old, new) == lines


def test_code_that_does_not_stand_there_is_an_error_with_hints(checkout):
    message = refused(checkout, "scale", "r / totals", "r")
    assert message == "'r / totals' occurs 0 times, expected once; nearest: 'r / total'"
    message = refused(checkout, "scores", "r / total", "r")
    assert message.startswith("'r / total' occurs 0 times, expected once")
    assert message.endswith("; it occurs in toy:scale")
    message = refused(checkout, "Bank.update", "self.loss = loss\nself.counted()", "")
    assert message.endswith("occurs 0 times, expected once; nearest: 'self.count()'")
    assert "occurs 0 times" in refused(checkout, "", "x + 1", "x")  # in a function, not outside
    assert "occurs 0 times" in refused(checkout, "Bank", "self.count()", "")


def test_a_target_of_an_assignment_is_named_as_such(checkout):
    assert refused(checkout, "Bank.update", "self.loss", "self.lost") == (
        "'self.loss' occurs 0 times, expected once; it is the target of an assignment: give the whole statement"
    )


def test_code_that_stands_twice_is_an_error_that_names_the_lines(checkout):
    assert refused(checkout, "scale", "total", "1") == (
        "'total' occurs 2 times, expected once (lines 17, 17): give more of the code around it"
    )


def test_a_place_that_is_gone_is_an_error_with_hints(checkout):
    assert refused(checkout, "Bank.updated", "self.loss = loss", "pass") == (
        "toy has no function or class `Bank.updated`; nearest: Bank.update; "
        "its code occurs in toy:Bank.update"
    )
    assert refused(checkout, "Store.count", "a", "b") == (
        "toy has no function or class `Store.count`; toy:Bank.count has that name"
    )
    assert refused(checkout, "gone", "self.loss = losses", "pass") == (
        "toy has no function or class `gone`; nearest: 'self.loss = loss'"
    )
    elsewhere = Mutant("a kind", "utils.toy:scale", "r / total", "r", "tests/test_toy.py::test_b")
    with pytest.raises(MutantError, match=r"no file utils/toy.py; nearest: toy$"):
        mutation.mutated_source(elsewhere, checkout)


def test_new_code_that_fits_badly_is_an_error(checkout):
    assert refused(checkout, "scale", "r / total", "r/total") == "the new code is the old code"
    assert "(BinOp)" in refused(checkout, "scale", "r / total", "r = 1")
    assert "(keyword)" in refused(checkout, "scores", "exclude_self=True", "False")
    assert "(statements)" in refused(checkout, "Bank.update", "self.loss = loss", "if:")
    assert "give a new one" in refused(checkout, "outer.inner", "x", "")
    assert "cannot be compiled" in refused(checkout, "Bank", "size = 1", "break")
    assert "neither expression" in refused(checkout, "scale", "r /", "r")
    assert "neither expression" in refused(checkout, "scale", "", "r")


def test_the_check_names_the_row_and_looks_for_its_test_too(checkout):
    good = toy_mutant("scale", "r / total", "r")
    lost = toy_mutant("scale", "r / 2", "r")
    untested = toy_mutant("scale", "r / total", "r", test="test_shares_add")
    moved = replace(good, test="tests/test_moved.py::test_nothing")
    problems = mutation.check([good, lost, untested, moved], checkout)
    assert len(problems) == 3
    assert problems[0].startswith("[a kind] toy:scale: 'r / 2' occurs 0 times")
    assert problems[1] == (
        "[a kind] toy:scale: tests/test_toy.py has no test_shares_add; nearest: test_shares_add_up"
    )
    assert problems[2] == (
        "[a kind] toy:scale: no file tests/test_moved.py; tests/test_toy.py has it"
    )


def test_a_mutant_is_caught_by_a_test_that_fails_and_missed_by_one_that_passes(checkout):
    lines = []
    rows = [
        toy_mutant("scale", "r / total", "r"),
        toy_mutant("scale", "r / total", "r", test="test_nothing"),
        toy_mutant("scale", "r / totals", "r"),
        toy_mutant("scale", "r / total", "r / rows.length"),
    ]
    missed = mutation_run.run_mutants(
        rows,
        root=checkout,
        processes=multiprocessing.get_context("spawn"),
        workers=1,
        say=lines.append,
    )
    assert missed == 3
    line = "[a kind] toy:scale: 'r / total' by"
    assert lines[:2] == [
        f"caught  {line} test_shares_add_up",
        f"MISSED  {line} test_nothing: the test passes",
    ]
    assert lines[2].startswith("MISSED  [a kind] toy:scale: 'r / totals' by test_shares_add_up: ")
    assert lines[3].startswith(f"MISSED  {line} test_shares_add_up: the mutant is not code that")
    assert lines[4] == "1 caught, 3 missed"
    assert (checkout / "toy.py").read_text() == TOY


def test_a_test_that_fails_before_anything_is_broken_ends_the_run(checkout):
    (checkout / "tests" / "test_toy.py").write_text("def test_b():\n    assert not 'now'\n")
    with pytest.raises(SystemExit, match="must pass before anything is broken"):
        mutation_run.require_passing(
            ["tests/test_toy.py::test_b"],
            root=checkout,
            processes=multiprocessing.get_context("spawn"),
            workers=1,
        )


def test_every_row_of_this_repository_has_its_place_and_its_test():
    problems = mutation.check(mutants.MUTANTS, ROOT)
    assert not problems, "\n".join(problems)


def test_rows_are_chosen_by_kind_and_by_module():
    assert mutants.chosen([]) == mutants.MUTANTS
    kind = mutants.MUTANTS[0].kind
    assert {m.kind for m in mutants.chosen([kind])} == {kind}
    assert {m.module for m in mutants.chosen(["loss_control.py"])} == {
        "utils.training.loss_control"
    }
    assert mutants.chosen(["training.loss_control"]) == mutants.chosen(["loss_control.py"])
