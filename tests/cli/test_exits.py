import errno
import os

import pytest

from utils.cli import exits, given_paths
from utils.runtime.errors import Stopped, TrainingError, UsageError


@pytest.mark.parametrize(("error", "status"), [(UsageError, 2), (TrainingError, 1)])
def test_a_users_error_is_one_line_without_traceback(capsys, error, status):
    with pytest.raises(SystemExit) as stopped, exits.exit_on_user_error("x.py"):
        raise error("two\nlines")
    assert stopped.value.code == status
    assert capsys.readouterr().err == "x.py: error: two lines\n"


def test_a_full_disk_is_a_line_whoever_says_it_and_other_errors_go_on(capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/x")
    wrapped = RuntimeError(f"Error while serializing: {os.strerror(errno.ENOSPC)} (os error 28)")
    for error in (full, wrapped):
        with pytest.raises(SystemExit) as stopped, exits.exit_on_user_error("x.py"):
            raise error
        assert stopped.value.code == 1
        assert "x.py: error: cannot write: " in capsys.readouterr().err
    with pytest.raises(PermissionError), exits.exit_on_user_error("x.py"):
        raise PermissionError(errno.EACCES, "no")


def test_ctrl_c_is_a_line(capsys):
    with pytest.raises(SystemExit) as stopped, exits.exit_on_user_error("x.py"):
        raise KeyboardInterrupt
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "x.py: stopped\n"


def test_a_signal_ends_with_its_status(capsys):
    with pytest.raises(SystemExit) as stopped, exits.exit_on_user_error("x.py"):
        raise Stopped("stopped after step 3", 15)
    assert stopped.value.code == 143
    assert capsys.readouterr().err == "x.py: stopped after step 3\n"


def test_an_error_of_the_system_about_a_given_path_is_a_line_with_the_flag(capsys, tmp_path):
    given_paths.remember([("out", str(tmp_path / "x"))])
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "x" / "y"))
    with pytest.raises(SystemExit) as stopped, exits.exit_on_user_error("x.py"):
        raise error
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"x.py: error: --out={str(tmp_path / 'x')!r} cannot be used: No such file or directory,"
        f" at {str(tmp_path / 'x' / 'y')!r}\n"
    )


def test_a_path_that_nobody_gave_is_a_line_only_where_the_system_refuses_it(capsys, tmp_path):
    refused = PermissionError(errno.EROFS, os.strerror(errno.EROFS), "/elsewhere")
    with pytest.raises(SystemExit) as stopped, exits.exit_on_user_error("x.py"):
        raise refused
    assert stopped.value.code == 2
    line = "'/elsewhere' cannot be used: Read-only file system"
    assert capsys.readouterr().err == f"x.py: error: {line}\n"
    # a file that this program should have made: its own fault
    with pytest.raises(FileNotFoundError), exits.exit_on_user_error("x.py"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/elsewhere")
