"""From what the scripts left on disk to a row: similarity, distance, and how far the pictures obey
their captions."""

import csv
import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import scene_reader
from benchmarks.study.rows import COMPLEXITY, FD, METRICS, Row
from utils.files.whole_files import read_json


def agreements(images, rows):
    """Shares of what each image's own caption asks for that is there. images: a generation folder;
    rows: of its manifest.

    Returns: [Q, 2], of all five attributes and of the three colours; NaN for a prompt that is no
    caption but a class's or random words."""
    found = []
    for row in rows:
        try:
            asked = scene_reader.asked_of(row["source_prompt"])
        except ValueError:
            found.append((np.nan, np.nan))
            continue
        with Image.open(images / row["file"]) as image:
            reading = scene_reader.read_scene(image.convert("RGB"))
        colours = scene_reader.agreement(reading, asked, of=scene_reader.COLOUR_ATTRIBUTES)
        found.append((scene_reader.agreement(reading, asked), colours))
    return np.array(found)


def read_arm(plan, name, seed, *, machine, seconds, complexity):
    """The Row of an arm whose commands have run. complexity: whether that of every matched image is
    kept."""
    images, (report, distance) = plan.arm(name, seed), plan.reports(name, seed)
    made, run = (
        read_json(images / "manifest.json"),
        read_json(plan.run(plan.needs(name), seed) / "run.json"),
    )
    measured, far = read_json(report / "metrics.json"), read_json(distance / "metrics.json")
    with open(report / "matches.csv", newline="", encoding="utf-8") as handle:
        best = {line["query"]: line for line in csv.DictReader(handle) if line["rank"] == "1"}
    lines = [best[row["file"]] for row in made["images"]]
    agreed = agreements(images, made["images"])
    # or, without duplicates, those that its seed would duplicate
    duplicated = {_number(path) for path in run["duplicated"]}
    source = [_number(row["source_image"]) for row in made["images"]]
    return Row(
        key=plan.key(name, seed),
        arm=name,
        seed=seed,
        images=plan.images_of(plan.needs(name)),
        training_seconds=float(run["seconds"]),
        seconds=float(seconds),
        machine=machine,
        date=datetime.date.today().isoformat(),
        metrics={k: measured[k] for k in METRICS if measured.get(k) is not None} | {"fd": far[FD]},
        source=np.array(source),
        score=np.array([float(line["score"]) for line in lines]),
        duplicated=np.array([int(s in duplicated) for s in source]),
        agreement=agreed[:, 0],
        colours=agreed[:, 1],
        **{
            k: np.array([float(line[k]) for line in lines] if complexity else [])
            for k in COMPLEXITY
        },
    )


def _number(path):
    """A scene's number, which its path ends in."""
    return int(Path(path).stem)
