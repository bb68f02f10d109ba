"""SIGTERM and SIGINT as a flag that a loop looks at, so that what was computed can be saved first."""

import signal


class StopSignal:
    """Within `with`: `number` is the signal that came, or None. A second one of a kind ends the process as usual."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self.number, self._before = None, {}
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def _take(self, number, frame):
        self.number = number
        signal.signal(number, self._before[number])

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
