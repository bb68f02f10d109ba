"""Files behind https addresses: the whole file, a part of it, and what tells it from the same one changed."""

import functools
import os
import time
from urllib.parse import urlsplit

from utils.errors import DataError, first_line

CONNECT_SECONDS, READ_SECONDS = 5, 60
WAITS = (1, 4)  # seconds before a second and a third attempt at what may pass: a busy server, a line that broke
MAY_PASS, GONE = (429, 500, 502, 503, 504), (404, 410)
SILENT_SECONDS = 60  # for which a host that could not be reached is not tried again: a gallery asks for hundreds of files
CONNECTIONS = 32  # kept open to a host; callers ask from fewer threads


class GoneError(DataError):
    """A server says that there is no such file."""


class Address(str):
    """An https address, to which a name can be joined as to a path."""

    __slots__ = ()

    def __truediv__(self, name):
        return Address(f"{self}/{name}")


@functools.cache
def _session(_process):
    """Connections of this process, kept open: one that a worker inherited would be two processes'."""
    import requests

    session = requests.Session()
    session.adapters.clear()  # of http:// too, so that no redirect leads to what anyone on the way can change
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    session.headers["Accept-Encoding"] = "identity"  # lengths and offsets are those of the file
    return session


@functools.cache
def _silent(_process):
    """{host: until when} of hosts that could not be reached, on the clock of time.monotonic."""
    return {}


def _reason(error):
    """What the innermost of the errors that libraries wrap into one another says, in a line."""
    inner = error.reason if isinstance(getattr(error, "reason", None), Exception) else next(iter(error.args), None)
    if isinstance(inner, Exception):
        return _reason(inner)
    return first_line(inner if isinstance(inner, str) else error).split("): ", 1)[-1]


def _asked(address, work, *, waits=None, span=None):
    """What `work` makes of the answer to a GET. span: "first-last" in bytes, to ask for a part. DataError when there is no
    good answer: at the last attempt at what may pass, else at once, as from a host that was not reached a moment ago."""
    import requests

    host, silent = urlsplit(address).netloc, _silent(os.getpid())
    if silent.get(host, 0) > time.monotonic():
        raise DataError(f"{address}: {host} could not be reached a moment ago")
    headers, reached = {"Range": f"bytes={span}"} if span else {}, False
    may_pass = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            with _session(os.getpid()).get(
                address, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
            ) as answer:
                reached = True
                if answer.ok:
                    return work(answer)
                if answer.status_code in GONE:
                    raise GoneError(f"{address}: answered {answer.status_code} {answer.reason}")
                said, final = f"answered {answer.status_code} {answer.reason}", answer.status_code not in MAY_PASS
        except requests.RequestException as error:
            said = f"cannot be read ({_reason(error)})"
            final = not isinstance(error, may_pass) or isinstance(error, requests.exceptions.SSLError)
        if final or wait is None:
            break
        time.sleep(wait)
    if not reached:
        silent[host] = time.monotonic() + SILENT_SECONDS
    raise DataError(f"{address}: {said}")


def fetch(address, path, *, waits=None):
    """Download a file to `path`, where a failure leaves what came. waits: seconds before further attempts, else WAITS.
    DataError when it cannot be had whole; OSError is the disk's."""

    def save(answer):
        with open(path, "wb") as out:
            for block in answer.iter_content(1 << 20):  # raises when fewer bytes come than were announced
                out.write(block)

    _asked(address, save, waits=waits)


def read_part(address, first, size):
    """`size` bytes of a file from byte `first` on. DataError when its server does not give parts of files."""

    def part(answer):
        if answer.status_code != 206:
            raise DataError(f"{address}: its server does not give parts of files")
        return answer.content

    content = _asked(address, part, span=f"{first}-{first + size - 1}")
    if len(content) != size:
        raise DataError(f"{address}: gave {len(content)} bytes from {first} on, not {size}")
    return content


def state_of(address):
    """What tells a file from the same one changed, as far as its server says. Returns: {"bytes": int or None, "etag",
    "last_modified": text or None}; GoneError when there is no such file, DataError when it is not told."""

    def told(answer):
        # one byte is asked for: unlike HEAD that is allowed wherever reading is
        if answer.status_code == 206:
            _ = answer.content  # so that the connection is used again
        length = answer.headers.get("Content-Range", "").rpartition("/")[2]
        length = length if answer.status_code == 206 else answer.headers.get("Content-Length", "")
        return {"bytes": int(length) if length.isdigit() else None, "etag": answer.headers.get("ETag"),
                "last_modified": answer.headers.get("Last-Modified")}  # fmt: skip

    return _asked(address, told, span="0-0")
