import os

import pytest

from utils.runtime.errors import UsageError, require_file
from utils.runtime.regular_files import irregular


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("x"), None),
        (lambda path: path.symlink_to(__file__), None),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "is a pipe, which is not opened"),
        (lambda path: path.symlink_to("/dev/null"), "is a device, which is not opened"),
        (lambda path: path.symlink_to(path.name), "is a link that leads back to itself"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_flag_that_names_a_file_takes_regular_files_alone(tmp_path, make, reason):
    path = tmp_path / "captions.json"
    make(path)
    assert irregular(path) == reason
    if reason is None:
        assert require_file("--f", path) == path
    else:
        with pytest.raises(UsageError, match=f"--f='.*captions.json' {reason}; give an existing"):
            require_file("--f", path)


def test_names_that_no_system_accepts_lead_nowhere():
    assert irregular("a\0b") == "does not exist"
    assert irregular("x" * 5000) == "cannot be read (File name too long)"
