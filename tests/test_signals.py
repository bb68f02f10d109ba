import os
import signal

import pytest

from utils.signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_the_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.number is None
        os.kill(os.getpid(), number)
        assert stop.number == number
        assert signal.getsignal(number) == before  # a second one ends the process as usual
    assert signal.getsignal(number) == before
