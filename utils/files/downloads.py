"""Files at https addresses: download a file, read a part of it, and detect a change."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar
from urllib.parse import urlsplit

from utils.runtime.errors import DataError, first_line

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS, READ_SECONDS = 5, 60  # timeouts
WAITS = (1, 4)  # seconds before a second and a third attempt, after a failure that may be temporary
TEMPORARY = (429, 500, 502, 503, 504)  # statuses of a busy server
GONE = (404, 410)  # statuses of a file that does not exist
# for how long a host that could not be reached is not asked again: a gallery asks for hundreds of
# files
SILENT_SECONDS = 60
ASKED_AT_ONCE = 16  # addresses
CONNECTIONS = 32  # kept open to a host; callers ask from fewer threads
BLOCK_BYTES = 1 << 20  # that are written to disk at a time

Result = TypeVar("Result")


class Stamp(TypedDict):
    """Facts of a file, to detect a change; None for a fact that its server does not state."""

    bytes: int | None
    etag: str | None
    last_modified: str | None


class CutError(Exception):
    """A server sent fewer bytes than announced; another attempt may succeed."""


class GoneError(DataError):
    """A server answered that the file does not exist."""


class Address(str):
    """An https address; `/` appends a name to it, as to a path."""

    __slots__ = ()

    def __truediv__(self, name: str) -> Address:
        return Address(f"{self}/{name}")


@functools.cache
def _session(_process: int) -> requests.Session:
    """The open connections of a process. Each process has its own, because a forked worker must not
    share connections with its parent."""
    import requests

    session = requests.Session()
    # https alone, also in redirects, so that nobody between can change what is read
    session.adapters.clear()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS))
    session.headers["Accept-Encoding"] = "identity"  # lengths and offsets are those of the file
    return session


@dataclass
class _Host:
    """When a host answered last, and until when no request is sent to it. Times are of
    time.monotonic."""

    last_answer: float = 0.0
    silent_until: float = 0.0


@functools.cache
def _host(_process: int, _name: str) -> _Host:
    return _Host()


def _reason(error: object) -> str:
    """The first line of the innermost error, because libraries wrap errors in each other."""
    if type(error).__name__ == "InvalidSchema":  # of requests, which is imported where it is used
        return "it leads to an address that is not https"
    inner = getattr(error, "reason", None)
    if not isinstance(inner, Exception):
        inner = next(iter(getattr(error, "args", ())), None)
    if isinstance(inner, Exception):
        return _reason(inner)
    return first_line(inner if isinstance(inner, str) else error).split("): ", 1)[-1]


def _request(
    address: str,
    work: Callable[[requests.Response], Result],
    *,
    waits: Sequence[float] | None = None,
    span: str | None = None,
) -> Result:
    """GET an address and return work(answer).

    A failure that may be temporary is tried again. A host that could not be reached is not asked
    for SILENT_SECONDS.
    waits: seconds before each further attempt, by default WAITS;
    span: "first-last" in bytes, to ask for a part of the file.
    DataError if there is no good answer; GoneError if the file does not exist."""
    started = time.monotonic()
    try:
        host = _host(os.getpid(), urlsplit(address).netloc)
    except ValueError as error:
        raise DataError(f"{address}: is not a valid address ({error})") from None
    if host.silent_until > started:
        raise DataError(f"{address}: its host could not be reached a moment ago")
    for wait in (*(WAITS if waits is None else waits), None):
        try:
            return _attempt(address, work, host, span)
        except _Failure as error:
            failure = error
        if failure.final or wait is None:
            break
        time.sleep(wait)
    if host.last_answer < started:  # no other thread had an answer in the meantime either
        host.silent_until = time.monotonic() + SILENT_SECONDS
    raise DataError(f"{address}: {failure}")


class _Failure(Exception):
    """An attempt failed; the message is the reason. final: whether another one would fail too."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


def _attempt(
    address: str, work: Callable[[requests.Response], Result], host: _Host, span: str | None
) -> Result:
    """GET an address once and return work(answer). _Failure, or GoneError if there is no file."""
    import requests

    temporary = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        CutError,
    )
    try:
        with _session(os.getpid()).get(
            address,
            headers={"Range": f"bytes={span}"} if span else {},
            stream=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
        ) as answer:
            host.last_answer = time.monotonic()
            if answer.ok:
                return work(answer)
            status = f"answered {answer.status_code} {answer.reason}"
            if answer.status_code in GONE:
                raise GoneError(f"{address}: {status}")
            raise _Failure(status, final=answer.status_code not in TEMPORARY)
    # ValueError: the libraries below raise it for a host name that cannot exist
    except (requests.RequestException, CutError, ValueError) as error:
        insecure = isinstance(error, requests.exceptions.SSLError)
        raise _Failure(
            f"cannot be read ({_reason(error)})",
            final=insecure or not isinstance(error, temporary),
        ) from None


def _stamp(answer: requests.Response) -> Stamp:
    """The stamp of a file, from the headers of an answer."""
    if answer.status_code == 206:
        length = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        length = answer.headers.get("Content-Length", "")
    return {
        "bytes": int(length) if length.isdigit() else None,
        "etag": answer.headers.get("ETag"),
        "last_modified": answer.headers.get("Last-Modified"),
    }


def fetch(
    address: str,
    path: str | Path,
    *,
    size: int | None = None,
    waits: Sequence[float] | None = None,
) -> None:
    """Download a file to `path`; after a failure, the part that was received stays.

    size: of the file in bytes, if it is known;
    waits: seconds before each further attempt, by default WAITS.
    DataError if the whole file cannot be downloaded; OSError if it cannot be written."""

    def save(answer: requests.Response) -> None:
        with open(path, "wb") as out:
            for block in answer.iter_content(BLOCK_BYTES):
                out.write(block)
        # a server that announces no length closes the connection at the end of a file, which looks
        # like a broken connection
        expected = _stamp(answer)["bytes"] if size is None else size
        received = os.stat(path).st_size
        if expected is not None and received != expected:
            raise CutError(f"received {received} of {expected} bytes")

    _request(address, save, waits=waits)


def read_part(address: str, first: int, size: int) -> tuple[bytes, Stamp]:
    """Read `size` bytes of a file from byte `first` on.

    DataError if the server does not deliver parts of files. Returns: (bytes, stamp of the file)."""

    def part(answer: requests.Response) -> tuple[bytes, Stamp]:
        if answer.status_code != 206:
            raise DataError(f"{address}: its server does not support reading a part of a file")
        content = answer.content
        if len(content) != size:
            raise CutError(f"received {len(content)} of {size} bytes from byte {first} on")
        return content, _stamp(answer)

    return _request(address, part, span=f"{first}-{first + size - 1}")


def change_stamp(address: str) -> Stamp:
    """Size, ETag and modification time of a file, to detect a change.

    GoneError if the file does not exist, DataError if the server cannot be asked."""

    def stamp(answer: requests.Response) -> Stamp:
        if answer.status_code == 206:
            _ = answer.content  # read, so that the connection can be used again
        return _stamp(answer)

    # asks for one byte: unlike HEAD, that is permitted wherever reading is
    return _request(address, stamp, span="0-0")


def is_web_page(path: str | Path) -> bool:
    """Whether a downloaded file is a web page: servers send a login form or an error page in the
    place of a file."""
    with open(path, "rb") as handle:
        return handle.read(64).lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))


def change_stamps(addresses: Iterable[str]) -> list[Stamp | DataError]:
    """The `change_stamp` of many addresses, ASKED_AT_ONCE requests at a time.

    Returns: for each address its stamp, or the DataError that `change_stamp` raised."""

    def ask(address: str) -> Stamp | DataError:
        try:
            return change_stamp(address)
        except DataError as error:
            return error

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(ask, addresses))
