"""Rows of docs/study.csv: what one arm gave with one seed, image by image, keyed by all of its options."""

import csv
import datetime
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from utils.data import scene_reading
from utils.errors import DataError
from utils.manifest import read_json
from utils.reports.tables import write_csv

FD = "fd_tf_efficientnet_lite0"
METRICS = ("sim_mean", "sim_95pc", "copy_share", "copy_share_dup", "copy_share_nodup", "sim_dup", "sim_nodup",
           "cc_ent", "cc_comp", "cc_tvl", "cc_mixed")  # fmt: skip


def _numbers(text, kind=float):
    return np.array([kind(v) for v in text.split()])


@dataclass(frozen=True)
class Row:
    """metrics: {name: number} without those that were not measured; the rest image by image, in order of generation.

    source: [Q] number of the prompt's own scene; score: [Q] s_g; duplicated: [Q] whether the source was duplicated or
    would have been; agreement: [Q] share of what the caption asks for that is there, NaN where it asks for nothing;
    colours: of its colours;
    entropy, jpeg_kib, total_variation: [Q] of the matched training image, or [0] where no finding asks for them.
    """

    key: str
    arm: str
    seed: int
    images: int
    training_seconds: float
    seconds: float
    date: str
    machine: str
    metrics: dict
    source: np.ndarray
    score: np.ndarray
    duplicated: np.ndarray
    agreement: np.ndarray
    colours: np.ndarray
    entropy: np.ndarray
    jpeg_kib: np.ndarray
    total_variation: np.ndarray


COMPLEXITY = ("entropy", "jpeg_kib", "total_variation")
LISTS = {
    "source": int,
    "score": float,
    "duplicated": int,
    "agreement": float,
    "colours": float,
    **dict.fromkeys(COMPLEXITY, float),
}
PLAIN = {f.name: f.type for f in fields(Row) if f.name not in LISTS and f.name != "metrics"}
COLUMNS = (*PLAIN, *METRICS, "fd", *LISTS)


def _cell(value, digits=6):
    return f"{value:.{digits}g}" if isinstance(value, float) else value


def write_rows(path, rows):
    """Write rows whole, sorted by seed and arm: two studies that found the same write the same lines."""
    table = [
        {name: _cell(getattr(row, name)) for name in PLAIN} | {name: _cell(value) for name, value in row.metrics.items()}
        | {name: " ".join(str(_cell(v, 6 if name == "score" else 4)) for v in getattr(row, name).tolist()) for name in LISTS}
        for row in sorted(rows, key=lambda r: (r.seed, r.arm))
    ]  # fmt: skip
    write_csv(path, COLUMNS, table)


def read_rows(path):
    """{key: Row} of a file, none if there is no file. DataError if it has not the columns that are written today."""
    path = Path(path)
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as handle:
        lines = csv.DictReader(handle)
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path}: has other columns than this version of the study writes; move it elsewhere")
        return {line["key"]: _row(line) for line in lines}


def _row(line):
    metrics = {name: float(line[name]) for name in (*METRICS, "fd") if line[name]}
    plain = {name: kind(line[name]) for name, kind in PLAIN.items()}
    return Row(**plain, metrics=metrics, **{name: _numbers(line[name], kind) for name, kind in LISTS.items()})


def agreements(images, rows):
    """Shares of what each image's own caption asks for that is there. images: a generation folder; rows: of its manifest.

    Returns: [Q, 2], of all five attributes and of the three colours; NaN for a prompt that is no caption but a class's or
    random words.
    """
    found = []
    for row in rows:
        try:
            asked = scene_reading.asked_of(row["source_prompt"])
        except ValueError:
            found.append((np.nan, np.nan))
            continue
        with Image.open(images / row["file"]) as image:
            reading = scene_reading.read_scene(image.convert("RGB"))
        colours = scene_reading.agreement(reading, asked, of=scene_reading.COLOUR_ATTRIBUTES)
        found.append((scene_reading.agreement(reading, asked), colours))
    return np.array(found)


def read_arm(plan, name, seed, *, machine, seconds, complexity):
    """The Row of an arm whose commands have run. complexity: whether that of every matched image is kept."""
    images, (report, distance) = plan.arm(name, seed), plan.reports(name, seed)
    made, run = read_json(images / "manifest.json"), read_json(plan.run(plan.needs(name), seed) / "run.json")
    measured, far = read_json(report / "metrics.json"), read_json(distance / "metrics.json")
    with open(report / "matches.csv", newline="", encoding="utf-8") as handle:
        best = {line["query"]: line for line in csv.DictReader(handle) if line["rank"] == "1"}
    lines = [best[row["file"]] for row in made["images"]]
    agreed = agreements(images, made["images"])
    duplicated = {_number(path) for path in run["duplicated"]}  # or, without duplicates, those that its seed would duplicate
    source = [_number(row["source_image"]) for row in made["images"]]
    return Row(
        key=plan.key(name, seed), arm=name, seed=seed, images=plan.images_of(plan.needs(name)),
        training_seconds=float(run["seconds"]), seconds=float(seconds), machine=machine,
        date=datetime.date.today().isoformat(),
        metrics={k: measured[k] for k in METRICS if measured.get(k) is not None} | {"fd": far[FD]},
        source=np.array(source), score=np.array([float(line["score"]) for line in lines]),
        duplicated=np.array([int(s in duplicated) for s in source]), agreement=agreed[:, 0], colours=agreed[:, 1],
        **{k: np.array([float(line[k]) for line in lines] if complexity else []) for k in COMPLEXITY},
    )  # fmt: skip


def _number(path):
    """A scene's number, which its path ends in."""
    return int(Path(path).stem)
