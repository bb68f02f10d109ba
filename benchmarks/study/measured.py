"""Read the results of an arm from the files of the scripts into a row: similarity, distance, and
how well the pictures follow their captions."""

import csv
import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import scene_reader
from benchmarks.study.rows import COMPLEXITY, FD, METRICS, Row
from utils.files.whole_files import read_json


def agreements(images, rows):
    """Compute which share of the attributes in its own caption each image shows.

    images: a generation folder; rows: the images of its manifest.
    Returns: [Q, 2], of all five attributes and of the three colours. NaN for a prompt that is not a
    scene's caption (a class name, or random words)."""
    shares = []
    for row in rows:
        try:
            asked = scene_reader.asked_of(row["source_prompt"])
        except ValueError:
            shares.append((np.nan, np.nan))
            continue
        with Image.open(images / row["file"]) as image:
            reading = scene_reader.read_scene(image.convert("RGB"))
        colours = scene_reader.agreement(reading, asked, of=scene_reader.COLOUR_ATTRIBUTES)
        shares.append((scene_reader.agreement(reading, asked), colours))
    return np.array(shares)


def read_arm(plan, name, seed, *, machine, seconds, complexity):
    """Return the Row of an arm whose commands have run.

    seconds: time of its commands; complexity: whether to keep the complexity of every matched
    image."""
    images, (report, distance) = plan.arm(name, seed), plan.reports(name, seed)
    manifest = read_json(images / "manifest.json")
    run = read_json(plan.run(plan.needs(name), seed) / "run.json")
    measured, far = read_json(report / "metrics.json"), read_json(distance / "metrics.json")
    with open(report / "matches.csv", newline="", encoding="utf-8") as handle:
        best = {line["query"]: line for line in csv.DictReader(handle) if line["rank"] == "1"}
    lines = [best[row["file"]] for row in manifest["images"]]
    agreed = agreements(images, manifest["images"])
    # without duplication: the images that this seed would duplicate
    duplicated = {_number(path) for path in run["duplicated"]}
    source = [_number(row["source_image"]) for row in manifest["images"]]
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
    """Return the number of a scene, with which its path ends."""
    return int(Path(path).stem)
