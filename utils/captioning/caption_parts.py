"""What is captioned already while a captions file is made: a file for each process, beside it.

A killed run continues from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from utils.data.caption_files import Captions
from utils.files import whole_files
from utils.runtime.errors import UsageError


class CaptionParts:
    """The files <out>.part and <out>.part.<process>: a line of settings, then a line for each image
    that is captioned."""

    def __init__(self, out: Path, *, process: int = 0) -> None:
        """out: the captions file; process: number of this process, from 0."""
        self.out = out
        self.first = out.with_name(f"{out.name}.part")
        self.own = out.with_name(f"{out.name}.part.{process}") if process else self.first

    def paths(self) -> list[Path]:
        """The parts of all processes that exist."""
        numbered = sorted(self.out.parent.glob(f"{glob_literal(self.first.name)}.*"))
        return [p for p in (self.first, *numbered) if p.is_file()]

    def read(self, settings: Mapping[str, Any]) -> Captions:
        """What all parts hold. Returns: {image key: sampled captions}.

        settings: of the captions that will be sampled, as JSON types; UsageError names one that
        differs from those of the parts."""
        captions: Captions = {}
        for path in self.paths():
            lines = list(_whole_lines(path))
            if not lines:
                continue
            _require_same(path, lines[0], settings)
            captions |= {line["image"]: line["captions"] for line in lines[1:]}
        return captions

    def begin(self, settings: Mapping[str, Any], captions: Captions) -> None:
        """Start this process's part with what is captioned already. Process 0 must begin before the
        others: it removes the parts of an earlier run."""
        lines = [json.dumps(settings), *(_line(k, c) for k, c in captions.items())]
        whole_files.write_text(self.own, "\n".join(lines) + "\n")
        if self.own == self.first:
            self.remove(but=self.first)

    @contextmanager
    def appending(self) -> Iterator[TextIO]:
        """This process's part, open for `append`."""
        with open(self.own, "a", encoding="utf-8") as part:
            yield part

    def append(self, part: TextIO, captions: Captions) -> None:
        """Add images that are captioned now; they are on disk when this returns."""
        part.writelines(_line(key, listed) + "\n" for key, listed in captions.items())
        part.flush()

    def remove(self, but: Path | None = None) -> None:
        """Remove the parts of all processes, except the file `but`."""
        for path in self.paths():
            if path != but:
                path.unlink()


def glob_literal(name: str) -> str:
    """A pattern that matches the name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _line(key: str, captions: list[str]) -> str:
    return json.dumps({"image": key, "captions": captions})


def _whole_lines(path: Path) -> Iterator[Any]:
    """The JSON values of a part's lines, up to one that was cut because a process was killed."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _require_same(path: Path, recorded: Any, settings: Mapping[str, Any]) -> None:
    if not isinstance(recorded, dict):
        raise UsageError(f"--out: {str(path)!r} is no part of a captions file; use another --out")
    for key, value in settings.items():
        if recorded.get(key) != value:
            shown = f"={value!r}" if isinstance(value, int | float | str) else ""
            raise UsageError(
                f"--{key}{shown}: {str(path)!r} holds captions that were made with another one; use"
                " the same, or another --out, or remove that file"
            )
