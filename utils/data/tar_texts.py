"""The texts in a tar file: what each says, and to which image it belongs."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.data.field_names import USUAL, Columns, usual_caption
from utils.files import text_files

SUFFIXES = (".txt", ".caption", ".json")  # of texts; the captions of the first are taken
TEXT_BYTES = 1 << 20  # a longer text is no caption
CAPTION_FIELD = "caption"  # the field of a .json that img2dataset writes; it goes before others


@dataclass(frozen=True)
class Known:
    """What the texts of a tar file say of an image."""

    captions: tuple[str, ...] = ()
    url: str | None = None
    fault: str | None = None  # why it has no caption, where a text could be meant for it


NOTHING = Known()


@dataclass(frozen=True)
class _Text:
    """A text of a tar file."""

    name: str
    suffix: str  # of SUFFIXES
    known: Known


# What a text says ---------------------------------------------------------------------------------


def _captions_of(value: Any) -> tuple[str, ...]:
    """The captions that a field of a .json holds, a text or a list of texts; () for any other
    value."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        return ()
    return tuple(listed)


def _of_json(name: str, content: bytes, columns: Columns) -> Known:
    """A .json member. A field with an empty caption counts where no other field holds one."""
    fields = text_files.parse_json(text_files.decode(content, name), name)
    if not isinstance(fields, dict):
        return NOTHING
    held = {key: captions for key, value in fields.items() if (captions := _captions_of(value))}
    filled = [key for key, captions in held.items() if any(text.strip() for text in captions)]
    column = columns.caption if columns.caption in held else None
    if columns.caption is None:
        column = usual_caption(filled, CAPTION_FIELD) or usual_caption(held, CAPTION_FIELD)
    url = fields.get("url")
    return Known(held[column] if column else (), url if isinstance(url, str) and url else None)


def _of_text(name: str, suffix: str, content: bytes, size: int, columns: Columns) -> Known:
    """What a text member says; its `fault` names the member and the place. A field that the user
    names is read from .json alone.

    content: its first TEXT_BYTES; size: of the whole, in bytes."""
    if columns.caption is not None and suffix != ".json":
        return NOTHING
    if size > len(content):
        return Known(fault=f"{name}: has {size} bytes, which is no caption")
    try:
        if suffix == ".json":
            return _of_json(name, content, columns)
        # one caption, as WebDataset and img2dataset write it: captions of the web hold line ends
        caption = text_files.decode(content, name).strip()
    except text_files.MalformedError as error:
        return Known(fault=str(error))
    return Known((caption,) if caption else ())


# Whose text it is ---------------------------------------------------------------------------------


def whole_stem(name: str) -> str:
    """The name of a member without its suffix."""
    return os.path.splitext(name)[0]


def cut_stem(name: str) -> str:
    """The name of a member up to the first dot after the folders: what the members of a sample
    share by the rule of WebDataset."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.split('.')[0]}"


def _joined(texts: Sequence[_Text]) -> Known:
    """What the texts of one stem say together: captions of the first suffix that holds any, unless
    a text before it has a fault. Two texts of one suffix that differ are a fault."""
    by_suffix: dict[str, _Text] = {}
    for text in texts:
        other = by_suffix.setdefault(text.suffix, text)
        if other.known != text.known:
            return Known(fault=f"two texts claim it, {other.name!r} and {text.name!r}, and differ")
    ordered = [by_suffix[suffix].known for suffix in SUFFIXES if suffix in by_suffix]
    first = next((known for known in ordered if known.captions or known.fault), NOTHING)
    url = next((known.url for known in ordered if known.url), None)
    return Known(first.captions, url, first.fault)


@dataclass
class TarTexts:
    """The texts of a tar file, in the order in which they are found."""

    columns: Columns = USUAL  # the field of captions in .json members
    _texts: dict[str, list[_Text]] = field(default_factory=lambda: defaultdict(list))  # by stem

    def add(self, name: str, content: bytes, size: int) -> None:
        """Add a text member. content: its first TEXT_BYTES; size: of the whole, in bytes."""
        suffix = os.path.splitext(name)[1].lower()
        text = _Text(name, suffix, _of_text(name, suffix, content, size, self.columns))
        self._texts[whole_stem(name)].append(text)

    def of(self, images: Sequence[str]) -> list[Known]:
        """What is known of each image.

        The texts with the whole stem of an image are its own. An image without one has those with
        its stem up to the first dot, as WebDataset groups members, if they can be meant for no
        other image.
        images: names of the image members."""
        own = {whole_stem(name) for name in images}
        samples = Counter(map(cut_stem, images))
        loose: dict[str, list[str]] = defaultdict(list)  # {cut stem: stems of texts of no image}
        for stem in self._texts:
            if stem not in own:
                loose[cut_stem(stem)].append(stem)
        return [self._of_image(name, samples, loose) for name in images]

    def _of_image(self, name: str, samples: Counter[str], loose: dict[str, list[str]]) -> Known:
        stem, cut = whole_stem(name), cut_stem(name)
        whole = next((s for s in (stem, cut) if s in self._texts), None)
        if whole is not None:
            return _joined(self._texts[whole])
        found = loose.get(cut, ())
        if not found:
            return NOTHING
        if len(found) > 1 or samples[cut] > 1:
            names = _named(text.name for each in found for text in self._texts[each])
            return Known(
                fault=f"{names} may be its text or that of another of {samples[cut]} images whose"
                f" names begin with {cut!r}"
            )
        return _joined(self._texts[found[0]])


def _named(names: Iterable[str]) -> str:
    """The first of some names in words, and how many follow."""
    first, *rest = names
    return f"{first!r} or one of {len(rest)} more" if rest else repr(first)
