"""Files behind https addresses: the whole file, a part of it, and what tells it from the same one
changed."""

import functools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from utils.runtime.errors import DataError, first_line

CONNECT_SECONDS, READ_SECONDS = 5, 60
# seconds before a second and a third attempt at what may pass: a busy server, a line that broke
WAITS = (1, 4)
MAY_PASS, GONE = (429, 500, 502, 503, 504), (404, 410)
# for which a host that could not be reached is not tried again: a gallery asks for hundreds of
# files
SILENT_SECONDS = 60
ASKED_AT_ONCE = 16  # addresses
CONNECTIONS = 32  # kept open to a host; callers ask from fewer threads


class CutError(Exception):
    """Less came than was to come: it may pass."""


class GoneError(DataError):
    """A server says that there is no such file."""


class Address(str):
    """An https address, to which a name can be joined as to a path."""

    __slots__ = ()

    def __truediv__(self, name):
        return Address(f"{self}/{name}")


@functools.cache
def _session(_process):
    """Connections of this process, kept open: one that a worker inherited would be two
    processes'."""
    import requests

    session = requests.Session()
    # of http:// too, so that no redirect leads to what anyone on the way can change
    session.adapters.clear()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    session.headers["Accept-Encoding"] = "identity"  # lengths and offsets are those of the file
    return session


@dataclass
class _Heard:
    """Of a host, on the clock of time.monotonic: when it last answered; until when it is not
    asked."""

    last: float = 0.0
    silent_until: float = 0.0


@functools.cache
def _heard(_process, _host):
    return _Heard()


def _reason(error):
    """What the innermost of the errors that libraries wrap into one another says, in a line."""
    if type(error).__name__ == "InvalidSchema":  # of requests, which is imported where it is used
        return "it leads to an address that is not of https"
    inner = (
        error.reason
        if isinstance(getattr(error, "reason", None), Exception)
        else next(iter(error.args), None)
    )
    if isinstance(inner, Exception):
        return _reason(inner)
    return first_line(inner if isinstance(inner, str) else error).split("): ", 1)[-1]


def _asked(address, work, *, waits=None, span=None):
    """What `work` makes of the answer to a GET. span: "first-last" in bytes, to ask for a part.
    DataError when there is no good answer: at the last attempt at what may pass, else at once, as
    from a host that was not reached a moment ago."""
    import requests

    begun, headers = time.monotonic(), {"Range": f"bytes={span}"} if span else {}
    may_pass = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        CutError,
    )
    try:
        heard = _heard(os.getpid(), urlsplit(address).netloc)
    except ValueError as error:
        raise DataError(f"{address}: is no address ({error})") from None
    if heard.silent_until > begun:
        raise DataError(f"{address}: its host could not be reached a moment ago")
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            with _session(os.getpid()).get(
                address, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)
            ) as answer:
                heard.last = time.monotonic()
                if answer.ok:
                    return work(answer)
                if answer.status_code in GONE:
                    raise GoneError(f"{address}: answered {answer.status_code} {answer.reason}")
                said, final = (
                    f"answered {answer.status_code} {answer.reason}",
                    answer.status_code not in MAY_PASS,
                )
        # ValueError: of the libraries below, on a host that can be none
        except (requests.RequestException, CutError, ValueError) as error:
            said = f"cannot be read ({_reason(error)})"
            final = not isinstance(error, may_pass) or isinstance(
                error, requests.exceptions.SSLError
            )
        if final or wait is None:
            break
        time.sleep(wait)
    if heard.last < begun:  # nobody had an answer meanwhile
        heard.silent_until = time.monotonic() + SILENT_SECONDS
    raise DataError(f"{address}: {said}")


def _state(answer):
    """What an answer says of its file, as `change_stamp`."""
    length = answer.headers.get("Content-Range", "").rpartition("/")[2]
    length = length if answer.status_code == 206 else answer.headers.get("Content-Length", "")
    return {
        "bytes": int(length) if length.isdigit() else None,
        "etag": answer.headers.get("ETag"),
        "last_modified": answer.headers.get("Last-Modified"),
    }


def fetch(address, path, *, size=None, waits=None):
    """Download a file to `path`, where a failure leaves what came. size: in bytes, if it is known;
    waits: seconds before further attempts, else WAITS. DataError when it cannot be had whole;
    OSError is the disk's."""

    def save(answer):
        with open(path, "wb") as out:
            for block in answer.iter_content(1 << 20):
                out.write(block)
        # a server that announces no length hangs up at the end of a file; a broken line looks alike
        expected = _state(answer)["bytes"] if size is None else size
        found = os.stat(path).st_size
        if expected is not None and found != expected:
            raise CutError(f"{found} bytes came of {expected}")

    _asked(address, save, waits=waits)


def read_part(address, first, size):
    """`size` bytes of a file from byte `first` on, and the file's state, as `change_stamp`. DataError
    when its server does not give parts of files. Returns: (bytes, dict)."""

    def part(answer):
        if answer.status_code != 206:
            raise DataError(f"{address}: its server does not give parts of files")
        content = answer.content
        if len(content) != size:
            raise CutError(f"{len(content)} bytes came from {first} on, not {size}")
        return content, _state(answer)

    return _asked(address, part, span=f"{first}-{first + size - 1}")


def change_stamp(address):
    """What tells a file from the same one changed, as far as its server says. Returns: {"bytes":
    int or None, "etag", "last_modified": text or None}; GoneError when there is no such file,
    DataError when it is not told."""

    def told(answer):
        # one byte is asked for: unlike HEAD that is allowed wherever reading is
        if answer.status_code == 206:
            _ = answer.content  # so that the connection is used again
        return _state(answer)

    return _asked(address, told, span="0-0")


def is_web_page(path):
    """Whether a file is a web page, as a login or a dead link answers in the place of a file."""
    with open(path, "rb") as handle:
        return handle.read(64).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def change_stamps(addresses):
    """`change_stamp` of many, some at a time. Returns: [dict, or the DataError that told why there is
    none]."""

    def ask(address):
        try:
            return change_stamp(address)
        except DataError as error:
            return error

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(ask, addresses))
