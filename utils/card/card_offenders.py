"""The training pictures that a model hands back most often."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.card.card_record import Offender, Returned, Training
from utils.card.card_verdicts import Judged

MOST_OFFENDERS, MOST_RETURNED = 12, 4  # that a card shows


@dataclass(frozen=True)
class KnownPictures:
    """What is known of training pictures, by key; an absent key is not known."""

    captions: Mapping[str, str]
    duplicated: frozenset[str] | None  # None: not known of any
    near_duplicates: Mapping[str, tuple[str, ...]] | None  # None: were not searched
    draws: Mapping[str, tuple[int, int]]  # (drawn, skipped)
    sources: Mapping[str, str]  # {picture as a manifest names it: key}

    def training(self, key: str) -> Training:
        """What training did with a picture."""
        drawn, skipped = self.draws.get(key, (None, None))
        near, many = self.near_duplicates, self.duplicated
        return Training(
            duplicated=None if many is None else key in many,
            near_duplicates=None if near is None else near.get(key, ()),
            drawn=drawn,
            skipped=skipped,
        )


def read_draws(path: Path) -> dict[str, tuple[int, int]]:
    """How often training drew each picture, and how often it then skipped it: a run's skips.csv;
    {} if there is none."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as handle:
        return {
            row["image"]: (int(row["drawn"]), int(row["skipped"])) for row in csv.DictReader(handle)
        }


def read_groups(folder: Path) -> dict[str, tuple[str, ...]]:
    """The near-duplicates of each picture that has any: {key: keys of the others of its group}.

    folder: that --dedup wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "groups.parquet", columns=["group", "key"])
    groups: dict[int, list[str]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["group"], []).append(row["key"])
    return {
        key: tuple(other for other in group if other != key)
        for group in groups.values()
        for key in group
    }


def generated_picture(arm: str, image: str) -> str:
    """Name of a generated image among the pictures of a card."""
    return f"{arm}/{image}"


def training_picture(key: str) -> str:
    """Name of a training picture among the pictures of a card."""
    return f"pictures/{key}"


def copies_by_picture(images: Iterable[Judged]) -> dict[str, list[Judged]]:
    """The copies of each training picture, best first; pictures with most copies first, among
    equals those with the best copy, then in the order of their keys."""
    groups: dict[str, list[Judged]] = {}
    for each in images:
        if each.copy and each.picture is not None:
            groups.setdefault(each.picture, []).append(each)
    for group in groups.values():
        group.sort(key=lambda each: -each.score)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), -item[1][0].score, item)))


def offenders_of(images: Sequence[Judged], known: KnownPictures, arm: str) -> tuple[Offender, ...]:
    """The worst offenders. images: of the step `arm`."""
    made: dict[str, int] = {}
    for each in images:
        key = known.sources.get(each.source or "")
        if key is not None:
            made[key] = made.get(key, 0) + 1
    return tuple(
        Offender(
            key=key,
            picture=training_picture(key),
            caption=known.captions.get(key),
            copies=len(copies),
            images=made.get(key, 0),
            best=copies[0].score,
            returned=tuple(_returned(each, arm) for each in copies[:MOST_RETURNED]),
            training=known.training(key),
        )
        for key, copies in list(copies_by_picture(images).items())[:MOST_OFFENDERS]
    )


def _returned(each: Judged, arm: str) -> Returned:
    return Returned(
        image=each.image,
        picture=generated_picture(arm, each.image),
        score=each.score,
        prompt=each.prompt,
        seed=each.seed,
        alignment=each.alignment,
    )
