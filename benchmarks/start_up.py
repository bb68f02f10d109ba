"""Measure how long a training run over many images takes until its first batch.

    python benchmarks/start_up.py --images 100000

The script writes small PNG files with captions into ten folders. Then it does what diff_train.py
does before and after it loads the model (listing, decoding, captions, draws), and prints the
seconds of each part. Loading the model is skipped: it takes as long for ten images as for a
million."""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402


def write_images(folder, count, side):
    """Write `count` PNG files of `side` pixels to folder/train, and folder/captions.json. Only 16
    different pictures are drawn; the files repeat them."""
    import io

    import numpy as np
    from PIL import Image

    contents = []
    for seed in range(16):
        out = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, format="PNG")
        contents.append(out.getvalue())
    captions = {}
    for i in range(count):
        path = folder / "train" / f"class{i % 10}" / f"{i}.png"
        if i < 10:
            path.parent.mkdir(parents=True)
        path.write_bytes(contents[i % len(contents)])
        captions[f"train/class{i % 10}/{i}.png"] = [f"picture number {i}", "another caption"]
    (folder / "captions.json").write_text(json.dumps(captions))


def options_of(folder, shards):
    """Return the TrainOptions of a run on the images in `folder`."""
    from utils.cli import flags, train_options

    words = {
        "--pretrained_model_name_or_path": "none",
        "--instance_data_dir": folder / "train",
        "--instance_prompt_loc": folder / "captions.json",
        "--class_prompt": "instancelevel_blip",
        "--duplication": "dup_both",
        "--clients_num": shards,
    }
    return flags.parse(train_options.TrainOptions, flag_strings(words), description="")


def measure(folder, args):
    """Prepare the first batch. Returns: ([(part, seconds)], number of duplicated images)."""
    from utils.data import training_data
    from utils.files import whole_files
    from utils.models import loading
    from utils.training import data_job

    tokenizer = loading.load_tokenizer("--model", str(ROOT / "assets" / "tiny-sd"))
    opts = options_of(folder, args.shards)
    marks = [("", time.perf_counter())]
    data = data_job.checked_data(opts, print)
    marks.append(("images listed and decoded once, captions read", time.perf_counter()))
    captioned, duplicated, hooks = data_job.hooks_and_data(opts, data, tokenizer, seed=1)
    draws = [
        training_data.Draws(
            captioned.take(part),
            seed=1,
            split=k,
            global_batch=16,
            views=data_job.views_of(opts),
            pixels=False,
            choose_caption=hooks.choose_caption,
        )
        for k, part in enumerate(training_data.split_images(args.images, args.shards, 1))
    ]
    marks.append(("duplication, shards, draws", time.perf_counter()))
    whole_files.write_json(folder / "out.json", captioned.prompts)
    batch = next(iter(training_data.loader(draws[0], steps=range(1), batch_size=16)))
    marks.append(
        (f"captions.json written, first batch of {len(batch['slot'])}", time.perf_counter())
    )
    parts = [(part, after - before) for (_, before), (part, after) in itertools.pairwise(marks)]
    return parts, len(duplicated)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000, help="number of images")
    parser.add_argument("--side", type=int, default=32, help="width and height in pixels")
    parser.add_argument("--shards", type=int, default=4, help="copies that share the images")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_images(folder, args.images, args.side)
        parts, duplicated = measure(folder, args)
        for part, seconds in parts:
            print(f"{seconds:6.2f} s  {part}")
        print(
            f"{sum(seconds for _, seconds in parts):6.2f} s  in all, {args.images} images of"
            f" {args.side} px, {duplicated} duplicated"
        )


if __name__ == "__main__":
    main()
