"""Measures of the code: their definitions on a file written by hand, and limits for the product.

`python tests/code_measures.py` prints all measures.
"""

import pytest

from tests import code_measures
from tests.conftest import ROOT

# limits for the product: utils and the scripts
LONGEST_FUNCTION = 40  # lines
DEEPEST_NESTING = 4
FORMATTER_SKIPS = 0
WIDE_LINES = 0  # lines of more than 100 columns

BY_HAND = '''
"""A module."""
import functools


@functools.cache
def public(values, *, opts: dict, **others: int) -> list:
    """Documented."""
    for value in values:
        if value:
            with opts:
                pass
        elif opts:
            try:
                pass
            finally:
                while value:
                    pass

    def inner(x):
        return x

    return inner


class _Holder:
    def method(self, a: int):
        return a  # noqa: B018

    @staticmethod
    def free(a):
        return [
            a
        ]  # fmt: skip

    def _private(self, *rest): ...
'''.lstrip()


@pytest.fixture
def by_hand(tmp_path):
    """The file above in a checkout of its own."""
    folder = tmp_path / "utils" / "data"
    folder.mkdir(parents=True)
    (folder / "by_hand.py").write_text(BY_HAND)
    return tmp_path


@pytest.fixture(scope="module")
def product():
    """The files of this repository's product, measured."""
    return code_measures.measure_part(ROOT, code_measures.PARTS["product (utils, scripts)"])


def test_functions_of_a_file_by_hand(by_hand):
    (file,) = code_measures.measure_part(by_hand, ["utils/**/*.py"])
    measured = {
        f.name: (f.lines, f.nesting, f.public, f.documented, f.typed, f.returns_typed, f.takes_opts)
        for f in file.functions
    }
    assert measured == {
        "public": (17, 4, True, True, (False, True, True), True, True),
        "public.inner": (2, 0, True, False, (False,), False, False),
        "_Holder.method": (2, 0, True, False, (True,), False, False),
        "_Holder.free": (4, 0, True, False, (False,), False, False),
        "_Holder._private": (1, 0, False, False, (False,), False, False),
    }
    assert (file.path, file.skips, file.noqas) == ("utils/data/by_hand.py", 1, 1)
    assert max(file.widths) == len("def public(values, *, opts: dict, **others: int) -> list:")


@pytest.mark.parametrize(
    ("code", "depth"),
    [
        ("pass", 0),
        ("if a:\n    pass\nelif b:\n    pass\nelif c:\n    pass\nelse:\n    pass", 1),
        ("if a:\n    pass\nelse:\n    if b:\n        pass\n    c()", 2),
        ("for a in b:\n    pass\nelse:\n    for c in d:\n        pass", 2),
        ("try:\n    pass\nexcept A:\n    if a:\n        pass", 2),
        ("match a:\n    case 1:\n        if b:\n            pass", 2),
        ("def f():\n    if a:\n        pass", 0),
    ],
)
def test_nesting_counts_blocks_and_an_elif_is_no_deeper(code, depth):
    assert code_measures.nesting(code_measures.ast.parse(code).body) == depth


def test_percentiles_by_hand():
    assert code_measures.percentile_90(range(1, 10)) == 9
    assert code_measures.percentile_90([4]) == 4
    assert code_measures.percentile_90([]) == 0


def test_the_table_has_a_row_per_measure_and_a_column_per_part(by_hand):
    (by_hand / "script.py").write_text("def main(opts):\n    pass\n")
    lines = code_measures.table(by_hand).splitlines()
    rows = {cells[1]: cells[2:-1] for cells in ([c.strip() for c in li.split("|")] for li in lines)}
    assert rows["files / lines"] == ["2 / 37", "0 / 0", "0 / 0"]
    assert rows["longest function"][0] == "17 (`utils.data.by_hand:public`)"
    assert rows["deepest nesting"][0] == "4 (`utils.data.by_hand:public`)"
    assert rows["with docstring"][0] == "1 of 6 (17 %)"
    assert rows["parameters with type"][0] == "3 of 8 (38 %)"
    assert rows["functions with a parameter `opts`"][0] == "2 (data 1, scripts 1)"


def test_no_function_of_the_product_is_too_long(product):
    functions = code_measures.all_functions(product)
    too_long = [(f.file, f.name, f.lines) for f in functions if f.lines > LONGEST_FUNCTION]
    assert not too_long


def test_no_function_of_the_product_is_nested_too_deeply(product):
    functions = code_measures.all_functions(product)
    too_deep = [(f.file, f.name, f.nesting) for f in functions if f.nesting > DEEPEST_NESTING]
    assert not too_deep


def test_the_product_is_formatted_everywhere_and_its_lines_are_not_too_wide(product):
    skipped = [file.path for file in product if file.skips]
    wide = [
        f"{file.path}:{number}"
        for file in product
        for number, width in enumerate(file.widths, 1)
        if width > code_measures.WIDE_LINE
    ]
    assert len(skipped) <= FORMATTER_SKIPS, skipped
    assert len(wide) <= WIDE_LINES, wide
