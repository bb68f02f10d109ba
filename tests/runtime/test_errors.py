import pytest

from utils.runtime.errors import (
    UsageError,
    choose,
    first_line,
    is_disk_full,
    require_dir,
    require_file,
)


def test_choose_names_flag_value_and_choices():
    assert choose("--x", "b", {"a": 1, "b": 2}) == 2
    with pytest.raises(UsageError, match=r"^--x='c' is unknown; choose one of: a, b$"):
        choose("--x", "c", {"b": 2, "a": 1})


def test_a_folder_is_told_from_a_file(tmp_path):
    file = tmp_path / "f"
    file.write_text("")
    assert require_dir("--d", str(tmp_path)) == tmp_path
    assert require_file("--f", str(file)) == file
    with pytest.raises(UsageError, match="--d=.*is a file; give an existing folder"):
        require_dir("--d", file)
    with pytest.raises(UsageError, match="--f=.*is a folder; give an existing file"):
        require_file("--f", tmp_path)
    with pytest.raises(UsageError, match="--f=.*does not exist"):
        require_file("--f", tmp_path / "nothing")


def test_a_library_s_error_becomes_one_short_line():
    assert first_line(ValueError("  first\nsecond")) == "first"
    assert first_line(OSError("x" * 200), 120) == "x" * 120
    assert first_line(KeyError()) == "KeyError"


def test_a_file_that_the_disk_took_in_part_says_that_the_disk_is_full():
    assert is_disk_full(OSError("92160 requested and 16320 written"))
    assert not is_disk_full(OSError(2, "No such file or directory"))
