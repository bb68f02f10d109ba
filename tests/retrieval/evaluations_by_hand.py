"""Evaluations by hand, for tests of comparing them."""

import csv
import json

import numpy as np

from utils.retrieval import compare_evaluations

SETTINGS = {
    "pt_style": "pixel",
    "similarity_metric": "dotproduct",
    "copy_threshold": 0.95,
    "dtype": "torch.float32",
    "val_fingerprint": "aaaaaaaa11",
    "fd": {"arch": "lite0", "weights_sha256": "5793" * 16},
}


def evaluation(
    folder, *, scores=(0.9, 0.5, 0.7, 0.3), clip=None, metrics=None, settings=None, **fields
):
    """An evaluation by hand: two images a prompt, best match and a second one each."""
    folder.mkdir(parents=True)
    flat = {
        "copy_share": 0.25,
        "copy_share_lo": 0.1,
        "copy_share_hi": 0.4,
        "copy_share_n": len(scores),
        "sim_mean": float(np.mean(scores)),
        "sim_95pc": float(np.percentile(scores, 95)),
        "sim_std": 0.1,
        "fd_lite0": 210.94,
    }
    flat |= {"clipscore": float(np.mean(clip))} if clip else {}
    data = {
        "kind": "evaluation",
        "version": 1,
        **flat,
        **(metrics or {}),
        "settings": SETTINGS | (settings or {}),
        "counts": {"generated": len(scores)},
        "left_out": {},
    }
    (folder / "metrics.json").write_text(json.dumps(data | fields))
    with open(folder / "matches.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(
            ["query", "rank", "match", "score", "prompt", *(["clipscore"] if clip else [])]
        )
        for i, score in enumerate(scores):
            for rank in (1, 2):
                row = [f"{i}.png", rank, "m.png", score / rank, f"prompt, {i // 2}"]
                writer.writerow([*row, clip[i]] if clip else row)
    return folder


def read(dirs, *, force=False, seed=0):
    return compare_evaluations.read(dirs, force=force, seed=seed)
