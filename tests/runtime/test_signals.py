import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from utils.runtime import signals
from utils.runtime.signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_the_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.number is None
        os.kill(os.getpid(), number)
        assert stop.number == number
        assert signal.getsignal(number) == before  # a second one ends the process as usual
    assert signal.getsignal(number) == before


WORKER = """
import os, sys, time
import torch.utils.data
from utils.runtime import signals

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, item):
        print(os.getpid(), flush=True)
        time.sleep(40)
        return item

next(iter(torch.utils.data.DataLoader(Slow(), num_workers=1, worker_init_fn=signals.worker_init())))
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere torch's workers look for their parent themselves"
)
def test_a_worker_ends_with_a_parent_that_is_killed():
    """torch's own look every five seconds, and between two items alone: this one would stay for
    forty."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        killed = time.monotonic()
        parent.kill()
        parent.stdout.read()  # to its end, when nobody holds the pipe any more
        assert time.monotonic() - killed < 20


@pytest.mark.parametrize(("alive", "status"), [(False, 1), (True, 7)])
def test_a_worker_whose_parent_died_before_it_began_ends_at_once(alive, status):
    """A worker of a fork server is not a child of its parent, and does its work."""
    child = os.fork()
    if not child:
        multiprocessing.parent_process = lambda: SimpleNamespace(
            pid=1, is_alive=lambda: alive, join=signal.pause
        )
        signals.worker_init()(0)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status


@pytest.mark.parametrize("kernel", [True, False])
def test_a_process_ends_with_its_parent_by_the_kernel_or_by_a_thread(kernel):
    script = f"""
import multiprocessing, os, time
from utils.runtime import signals

def work(kernel):
    if not kernel:
        signals._kernel_ends_with_parent = lambda: False
    signals.end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(40)

multiprocessing.get_context("fork").Process(target=work, args=({kernel},)).start()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert int(parent.stdout.readline()) != parent.pid
        killed = time.monotonic()
        parent.kill()
        parent.stdout.read()  # until nobody holds the pipe any more
        assert time.monotonic() - killed < 20


def test_a_process_without_a_parent_goes_on():
    assert signals.end_with_parent() is None
