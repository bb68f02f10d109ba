"""Run a function in a forked process that may be killed. A fork has all libraries loaded already,
so it starts at once."""

import os
import sys


def run_forked(work, log):
    """Call work() in a forked process whose output is appended to the file `log`.

    Returns: its exit status, negative if a signal ended it."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            work()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
