"""What this toolkit left in a folder, so that a run, an evaluation or an index is never taken for a
folder of pictures: they hold previews and galleries, which would be measured or trained on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.runtime.errors import UsageError

GENERATION, RUN, INDEX, PREVIEWS = "generation", "run", "index", "previews"
# file of a folder -> the kind that it states
RECORDS = {
    "run.json": RUN,
    "metrics.json": "evaluation",
    "index.json": INDEX,
    "summary.json": "dedup",
    "comparison.json": "comparison",
    "card.json": "memorization card",
    "plan.json": "card-plan",
    "state.json": "training state",
    "manifest.json": GENERATION,
}
WORDS = {
    RUN: "a training run",
    PREVIEWS: "the previews of a training run",
    "evaluation": "an evaluation",
    INDEX: "an index",
    "dedup": "the near-duplicates that --dedup found",
    "comparison": "a comparison of evaluations",
    "memorization card": "a memorization card",
    "card-plan": "a memorization card",
    "training state": "the state of a training run",
}
STATED = re.compile(rb'"kind": "([^"]+)"')
HEAD = 4096  # bytes of a record in which it states its kind
DEPTH = 4  # folders below one another in which generations are looked for
NAMED = 5  # generations that an error names
# flags for pictures that a model made, and for pictures that nobody copied; all others are for
# training images
GENERATED_FLAGS = ("--query_dir",)
INNOCENT_FLAGS = ("--innocent_dir", "--base_dir")


def kind_of(folder: str | Path) -> str | None:
    """The kind of what this toolkit left in a folder: a value of RECORDS, or "previews"; None for
    any other folder. A file of that name by another program states no kind."""
    folder = Path(folder)
    try:
        if not folder.is_dir():
            return None
    except OSError:  # of a name that is too long, and of addresses
        return None
    for name, kind in RECORDS.items():
        if _states(folder / name, kind):
            return kind
    if (folder / "manifest.jsonl.part").is_file():
        return GENERATION
    above = folder.resolve().parent
    if folder.resolve().name == "generations" and _states(above / "run.json", RUN):
        return PREVIEWS
    return None


def _states(record: Path, kind: str) -> bool:
    try:
        if not record.is_file():
            return False
        with open(record, "rb") as file:
            found = STATED.search(file.read(HEAD))
    except OSError:
        return False
    return found is not None and found[1].decode("utf-8", "replace") == kind


def generations_below(folder: str | Path) -> list[str]:
    """The generations below a folder, as paths relative to it, sorted."""
    root = Path(folder)
    return sorted(path.relative_to(root).as_posix() for path in _generations(root, DEPTH))


def _generations(folder: Path, depth: int) -> Iterator[Path]:
    if not depth:
        return
    try:
        below = [Path(e.path) for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in below:
        if path.name.startswith("."):
            continue
        if _states(path / "manifest.json", GENERATION):
            yield path
        else:
            yield from _generations(path, depth - 1)


def require_pictures(flag: str, folder: str | Path) -> None:
    """Raise UsageError, which says what to give, for a folder in which this toolkit left anything
    but a generation.

    flag: name of the flag with its dashes; it decides what is meant."""
    kind = kind_of(folder)
    if kind is None or kind == GENERATION:
        return
    raise UsageError(
        f"{flag}={str(folder)!r} is {WORDS[kind]}, not a folder of pictures;"
        f" {_what_to_give(flag, Path(folder), kind)}"
    )


def training_note(flag: str, folder: str | Path) -> str | None:
    """A line for a generation that is given as training images; None for any other folder."""
    if kind_of(folder) != GENERATION:
        return None
    return (
        f"{flag}={str(folder)!r} is a generation: images that a model made are taken for training"
        " images"
    )


def _what_to_give(flag: str, folder: Path, kind: str) -> str:
    if flag in GENERATED_FLAGS:
        return _which_to_measure(folder)
    if flag in INNOCENT_FLAGS:
        return "give pictures that nobody copied, or a generation of the base model"
    place = _pictures_of(folder, kind)
    return f"give the pictures themselves: {place}" if place else "give the pictures themselves"


def _which_to_measure(folder: Path) -> str:
    root = folder.parent if folder.name == "generations" else folder
    found = generations_below(root)
    if not found:
        return "give a folder that diff_inference.py wrote"
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"measure one of: {', '.join(str(root / name) for name in found[:NAMED])}{more}"


def _pictures_of(folder: Path, kind: str) -> str | None:
    """Where the pictures are that a run was trained on, or an index was built from; None where the
    record does not say."""
    place: Any = None
    if kind == RUN:
        place = _field(folder / "run.json", "places", "instance_data_dir")
    elif kind == INDEX:
        place = _field(folder / "index.json", "source", "folder")
    if not isinstance(place, str):
        return None
    return place if "://" in place else os.path.normpath(folder.resolve() / place)


def _field(record: Path, *names: str) -> Any:
    """A field of a record of JSON, or None."""
    try:
        value = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
