import errno

import pytest

from utils.cli import given_paths


@pytest.fixture
def given(tmp_path):
    """A command line with --out <tmp_path>/runs/x and --data <tmp_path>/data."""
    given_paths.remember([("out", str(tmp_path / "runs" / "x")), ("data", str(tmp_path / "data"))])
    return tmp_path


@pytest.mark.parametrize(
    ("path", "flag"),
    [
        ("runs/x", "out"),
        ("runs/x/train/0.png", "out"),
        ("runs", "out"),  # a parent folder that cannot be made
        ("runs/.x.123.part", "out"),  # beside it, before it is renamed
        ("data/0.png", "data"),
        ("other", None),
        ("runs/xy", None),
    ],
)
def test_an_error_belongs_to_the_flag_whose_path_it_names(given, path, flag):
    found = given_paths.flag_of(OSError(errno.EACCES, "no", str(given / path)))
    assert (None if found is None else found[0]) == flag


def test_an_error_without_a_path_belongs_to_no_flag(given):
    assert given_paths.flag_of(OSError(errno.EACCES, "no")) is None
    assert given_paths.flag_of(OSError(errno.EACCES, "no", 3)) is None


def test_the_newest_command_line_comes_first(given):
    given_paths.remember([("inner", str(given / "data"))])
    assert given_paths.flag_of(OSError(errno.EACCES, "no", str(given / "data")))[0] == "inner"


def test_the_root_of_the_file_system_is_above_everything_and_names_no_flag(given):
    assert given_paths.flag_of(OSError(errno.EACCES, "no", "/")) is None
