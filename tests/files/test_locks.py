"""Claims: one holder at a time, whoever asks; a holder that dies lets go."""

import contextlib
import errno
import fcntl
import os
import signal

import pytest

from utils.files import locks
from utils.files.locks import Claims, Stride
from utils.runtime.errors import UsageError
from utils.runtime.parallel import Alone, Processes


@contextlib.contextmanager
def forked(work):
    """A child process that does some work, says so, and waits until it is killed. Yields: its
    number."""
    heard, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), work():
            os.write(said, b"x")
            signal.pause()
        os._exit(1)
    os.read(heard, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(heard)
        os.close(said)


def is_free(folder, name):
    with Claims(folder).take(name) as mine:
        return mine


def test_one_holder_at_a_time(tmp_path):
    held = Claims(tmp_path / "c")
    with held.take("a") as mine:
        assert mine
        assert not is_free(tmp_path / "c", "a")
        assert is_free(tmp_path / "c", "b")
    assert is_free(tmp_path / "c", "a")
    with pytest.raises(ValueError, match="mine"), held.take("a"):
        raise ValueError("mine")
    assert is_free(tmp_path / "c", "a")


def test_a_holder_that_is_killed_lets_go(tmp_path):
    with forked(lambda: Claims(tmp_path).take("a")):
        assert not is_free(tmp_path, "a")
    assert is_free(tmp_path, "a")


def test_a_forked_worker_does_not_keep_what_its_parent_held(tmp_path):
    """A worker that reads images lives for seconds after its parent was killed; the next launch
    wants the shard at once."""
    held = Claims(tmp_path)
    with contextlib.ExitStack() as children:
        with held.take("a"):
            children.enter_context(forked(contextlib.nullcontext))
            assert not is_free(tmp_path, "a")  # the child's closing did not let go for the parent
        assert is_free(tmp_path, "a")  # while the child lives


def test_waiting_for_a_claim(tmp_path):
    with Claims(tmp_path).take("a", wait=True) as mine:
        assert mine
    with forked(lambda: Claims(tmp_path).take("a")) as pid:
        os.kill(pid, signal.SIGKILL)
        with Claims(tmp_path).take("a", wait=True) as mine:
            assert mine


@pytest.mark.parametrize("number", locks.NO_LOCKS)
def test_file_systems_without_locks_are_found_out(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    assert Claims(tmp_path).work()
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not Claims(tmp_path).work()
    assert not locks._held


def test_another_error_of_the_disk_is_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="broken"):
        Claims(tmp_path).work()


def test_strides_share_out_every_piece_once():
    names = [f"{i}" for i in range(7)]
    strides = [Stride(names, index, 3) for index in range(3)]
    owners = []
    for name in names:
        found = []
        for stride in strides:
            with stride.take(name) as mine:
                found.append(mine)
        owners.append(found.index(True))
        assert sum(found) == 1
    assert owners == [0, 1, 2, 0, 1, 2, 0]
    with (
        strides[2].take(".index", wait=True) as mine,
        strides[0].while_others_wait().take("4") as all_mine,
    ):
        assert mine
        assert all_mine


def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks")


def test_a_turn_is_waited_for_and_not_needed_without_locks(tmp_path, monkeypatch):
    with forked(lambda: Claims(tmp_path).take("a")) as pid:
        os.kill(pid, signal.SIGKILL)
        with locks.wait_for_turn(tmp_path, "a"):
            assert not is_free(tmp_path, "a")
    assert is_free(tmp_path, "a")
    entered = []
    with locks.wait_for_turn(tmp_path / "a.lock" / "below", "a"):  # a folder that cannot be made
        entered.append(1)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.wait_for_turn(tmp_path, "a"):
        entered.append(2)
    assert entered == [1, 2]
    with pytest.raises(OSError, match="mine"), locks.wait_for_turn(tmp_path, "a"):
        raise OSError("mine")


def test_one_command_of_a_machine_works_on_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "new"
    with locks.lock_folder_on_this_machine(folder) as one:
        with locks.lock_folder_on_this_machine(folder) as two:
            assert (one, two) == (True, False)
        with locks.lock_folder_on_this_machine(tmp_path / "other") as other:
            assert other
    assert not folder.exists()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.lock_folder_on_this_machine(folder) as without_locks:
        assert without_locks


def test_a_second_writer_is_refused_at_once_by_name_and_not_after_the_first_has_died(tmp_path):
    folder = tmp_path / "run"
    with forked(lambda: locks.lock_folder_on_this_machine(folder)) as pid:
        with pytest.raises(UsageError) as error, locks.only_writer("--output_dir", folder):
            pytest.fail("two commands write")
        assert str(error.value) == (
            f"--output_dir={str(folder)!r} is being written by another command (process {pid}); use"
            " another folder, or wait for that command"
        )
    with locks.only_writer("--output_dir", folder):  # the other one was killed
        assert not folder.exists()


def test_of_several_processes_the_main_one_holds_the_folder_and_all_are_refused(tmp_path):
    alone = Processes(Alone("cpu"))
    with (
        locks.only_writers("--output_dir", tmp_path, alone),
        pytest.raises(UsageError, match="is being written by another command"),
        locks.only_writers("--output_dir", tmp_path, alone),
    ):
        pytest.fail("two commands write")
    with locks.only_writers("--output_dir", tmp_path, alone):
        pass
