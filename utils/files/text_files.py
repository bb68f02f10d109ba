"""Text files that a user brings, as Windows, macOS and Linux editors save them."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.runtime.errors import DataError
from utils.runtime.regular_files import irregular

# byte-order marks and the encoding that each announces; the mark of UTF-16 begins that of UTF-32
MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)


class MalformedError(DataError):
    """A file was read, and its bytes are not the text or the JSON that they should be."""


class RepeatedKeyError(MalformedError):
    """A key stands twice in a JSON object, of which Python would take the last."""


def _encoding(content: bytes) -> tuple[int, str, str]:
    """(length of the byte-order mark, Python's name of the encoding, its name for messages)."""
    for mark, codec, name in MARKS:
        if content.startswith(mark):
            return len(mark), codec, name
    return 0, "utf-8", "UTF-8"


def decode(content: bytes, name: str | Path) -> str:
    """The text of a file's bytes: UTF-8 with or without a byte-order mark, or UTF-16 or UTF-32 with
    one. Ends of lines become \\n.

    No other encoding is guessed: MalformedError with the line and the byte of the first fault.
    name: of the file, for messages."""
    skipped, codec, called = _encoding(content)
    try:
        text = content[skipped:].decode(codec)
    except UnicodeDecodeError as error:
        start = skipped + error.start
        line = content[skipped:start].decode(codec, "replace").count("\n") + 1
        raise MalformedError(
            f"{name}: is not {called} text at line {line}, byte {start} (0x{content[start]:02x});"
            " save it as UTF-8"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise MalformedError(
            f"{name}: line {line} holds a NUL character, as UTF-16 without a byte-order mark does;"
            " save it as UTF-8"
        )
    return text


def read_text(path: str | Path) -> str:
    """The text of a file, see `decode`; DataError if it is no regular file or cannot be read."""
    path = Path(path)
    reason = irregular(path)
    if reason is not None:
        raise DataError(f"{path}: {reason}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return decode(content, path)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file, see `decode`, without their ends; a last line that is empty is left
    out.

    A line ends at a line feed: not at U+2028 and the like, which a caption may hold."""
    return read_text(path).removesuffix("\n").split("\n")


class _Repeated(Exception):
    """A key stands twice in a JSON object. The message names it."""


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary; _Repeated for a key that occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _Repeated(f"the key {twice[:80]!r} stands twice in one object; keep one of them")
    return found


def parse_json(text: str, name: str | Path, *, unique: bool = False) -> Any:
    """The value that a JSON text holds; MalformedError with the place of the fault.

    name: of the file, and of the line if it is one, for messages;
    unique: a key may stand once in an object, else RepeatedKeyError."""
    try:
        return json.loads(text, object_pairs_hook=_without_repeats if unique else None)
    except RecursionError:
        raise MalformedError(f"{name}: is nested too deeply") from None
    except _Repeated as error:
        raise RepeatedKeyError(f"{name}: {error}") from None
    except ValueError as error:
        raise MalformedError(f"{name}: is not JSON ({error})") from None


def read_json(path: str | Path, *, unique: bool = False) -> Any:
    """Read a JSON file; DataError as `read_text` and `parse_json` raise it."""
    return parse_json(read_text(path), path, unique=unique)
