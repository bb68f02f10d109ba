"""Measure the seconds that aligning a generated image with its candidates takes, alone.

    python benchmarks/alignment.py --images 24 --candidates 10

Cropped and mirrored tiles of scikit-image's photographs are aligned with tiles, on the CPU. Both
sides run in turns, after a warm-up: the threads of one core each that an evaluation uses, and one
thread after the other with torch's own threads within an operation. With OpenCV installed, its
findTransformECC refines the same pairs from their true placement, which is its best case. Nothing
else should run on the machine."""

import argparse
import contextlib
import importlib.util
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIDE = 96  # of a tile, in pixels


def pictures(count):
    """Tiles and their changed copies, as alignment reads them. Returns: uint8 [count, LENGTH] of
    each, and the tiles themselves as PIL RGB."""
    import torch
    from PIL import ImageOps

    from benchmarks.copying.picture_sets import photographs
    from utils.retrieval.aligning import geometry

    tiles = [picture.image for picture in photographs(SIDE)[:count]]
    if len(tiles) < count:
        raise SystemExit(f"--images: there are {len(tiles)} tiles")
    edge = SIDE // 10
    changed = [ImageOps.mirror(tile).crop((edge, edge, SIDE - edge, SIDE - edge)) for tile in tiles]
    thumbnails = (torch.stack([geometry.thumbnail(p) for p in each]) for each in (tiles, changed))
    return (*thumbnails, tiles, changed)


def as_evaluations_do(aligner, queries, near):
    """Threads of one core each."""
    import torch

    from utils.retrieval.second_look import in_threads

    in_threads(
        lambda q: aligner.align(queries[q], near[q]), range(len(queries)), torch.device("cpu"), iter
    )


def one_after_the_other(aligner, queries, near):
    """With torch's own threads within an operation."""
    for q, row in enumerate(near):
        aligner.align(queries[q], row)


def by_opencv(tiles, changed, repeats):
    """Refine `repeats` pairs of each image with OpenCV from the true placement."""
    import cv2
    import numpy as np

    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    for tile, copy in zip(tiles, changed, strict=True):
        target = np.asarray(tile.convert("L"), np.float32)
        moving = np.asarray(copy.convert("L").resize((SIDE, SIDE)), np.float32)[:, ::-1].copy()
        for _ in range(repeats):
            scale = (copy.width / SIDE) ** -1
            start = np.array([[scale, 0, -SIDE * (scale - 1) / 2], [0, scale, 0]], np.float32)
            start[1, 2] = start[0, 2]
            # one that does not converge takes time as well
            with contextlib.suppress(cv2.error):
                cv2.findTransformECC(target, moving, start, cv2.MOTION_AFFINE, stop, None, 5)


def main():
    """Print the seconds of an image for each side, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import torch

    from utils.retrieval.aligning.align import Aligner

    training, queries, tiles, changed = pictures(given.images)
    near = [
        [(q + step) % given.images for step in range(given.candidates)] for q in range(given.images)
    ]
    sides = {
        "threads of one core each": lambda: as_evaluations_do(
            Aligner(training, torch.device("cpu")), queries, near
        ),
        "torch's own threads": lambda: one_after_the_other(
            Aligner(training, torch.device("cpu")), queries, near
        ),
    }
    if importlib.util.find_spec("cv2"):
        sides["OpenCV's findTransformECC, refinement alone"] = lambda: by_opencv(
            tiles, changed, given.candidates
        )
    seconds = {name: [] for name in sides}
    for round_ in range(given.rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if round_:  # round 0 is the warm-up
                seconds[name].append((time.perf_counter() - started) / given.images)
    print(
        f"{given.images} images with {given.candidates} candidates, {torch.get_num_threads()} cores"
    )
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"{name}: {middle:.3f} s an image ({min(found):.3f} to {max(found):.3f})")
    first, second = (statistics.median(found) for found in list(seconds.values())[:2])
    print(f"torch's own threads / threads of one core each: {second / first:.2f}")


if __name__ == "__main__":
    main()
