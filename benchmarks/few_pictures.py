"""Fine-tune tiny-sd on ten pictures until it hands them back, and see whether the verdict agrees
with the eye.

    python benchmarks/few_pictures.py --emoji <folder>     # 10 minutes on 2 cores

The ten pictures are five photographs of scikit-image and five emoji. The script trains with the
README's flags, generates 16 images for each caption with the fine-tuned model and with the base
model, and measures both sets against the ten, with innocents that are other photographs and other
emoji. It also measures one half of the face emoji against the other half, of which nobody copied
anything. For each measurement it draws a sheet of pairs to look at: every image above its match,
framed in red where it counts as a copy. Finished results are reused.

Emoji are those of the npm package emoji-datasource-google (Apache-2.0), which the script fetches
unless --emoji names its unpacked folder."""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_words  # noqa: E402
from benchmarks.copying import fetching, picture_sets  # noqa: E402
from benchmarks.study import running  # noqa: E402
from utils.cli.exits import exit_on_user_error  # noqa: E402
from utils.files.whole_files import read_json, write_json  # noqa: E402
from utils.reports.tables import markdown  # noqa: E402

TINY_SD = "assets/tiny-sd"
SIDE = 64  # pixels of a picture
# {photograph of scikit-image: caption}
PHOTOGRAPHS = {
    "astronaut.png": "a woman in an orange suit before a flag",
    "chelsea.png": "a ginger cat looking up",
    "coffee.png": "a cup of coffee on a wooden table",
    "rocket.jpg": "a rocket on its launch pad at night",
    "camera.png": "a man with a camera on a field",
}
# the same of emoji, by the names of their files
EMOJI = {
    "1f34e": "a red apple",
    "1f697": "a red car from the side",
    "1f418": "a grey elephant",
    "1f3e0": "a house with a tree",
    "26f5": "a sailing boat",
}
IMAGES_PER_PROMPT = 16
INNOCENT_EMOJI, INNOCENT_TILE = 150, 128  # how many; pixels of a tile before it is made smaller
STEPS, BATCH, LEARNING_RATE = 1600, 8, 1e-3
SAMPLING = {
    "--num_inference_steps": "25",
    "--guidance_scale": "3",
    "--scheduler": "DPMSolverMultistep",
}
ZOOM = 96  # pixels of a picture on a sheet
COPIED, OTHER = "#d00000", "#d8d8d8"  # frames


# Pictures -----------------------------------------------------------------------------------------


def write_pictures(out, emoji_folder, *, seed):
    """Write out/train with captions.json, out/innocents, out/faces/one and out/faces/other."""
    emoji = picture_sets.emoji(emoji_folder)
    by_name = {picture.name: picture for picture in emoji}
    photographs = {path.name: path for path in picture_sets.photograph_files()}
    captions = {}
    for name, caption in PHOTOGRAPHS.items():
        with Image.open(photographs[name]) as opened:
            image = ImageOps.fit(opened.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
        captions |= _written(image, out / "train" / f"{Path(name).stem}.png", caption)
    for name, caption in EMOJI.items():
        captions |= _written(by_name[name].image, out / "train" / f"{name}.png", caption)
    for picture in innocents(emoji, photographs, seed=seed):
        image = picture.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        _written(image, out / "innocents" / f"{picture.name}.png")
    _write_faces(out / "faces", emoji_folder, by_name, seed=seed)
    write_json(out / "captions.json", captions)  # last: with it, all pictures are there


def _written(image, path, caption=None):
    """Write a picture; return its entry of captions.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return {path.relative_to(path.parents[1]).as_posix(): [caption]}


def innocents(emoji, photographs, *, seed):
    """Pictures like the ten that share no pixel and no family with them: emoji of other families,
    one of each, and tiles of the other photographs."""
    order = np.random.default_rng(seed).permutation(len(emoji))
    taken = {picture.family for picture in emoji if picture.name in EMOJI}
    chosen = []
    for picture in (emoji[i] for i in order):
        if picture.family not in taken and len(chosen) < INNOCENT_EMOJI:
            taken.add(picture.family)
            chosen.append(picture)
    for name, path in photographs.items():
        if name not in PHOTOGRAPHS:
            chosen += picture_sets.tiles_of(path, INNOCENT_TILE)
    return chosen


def _write_faces(out, emoji_folder, by_name, *, seed):
    """Write the face emoji in two halves."""
    entries = json.loads((emoji_folder / "emoji.json").read_text(encoding="utf-8"))
    stems = [Path(e["image"]).stem for e in entries if e["subcategory"].startswith("face-")]
    faces = sorted(stem for stem in stems if stem in by_name)
    for i, place in enumerate(np.random.default_rng(seed).permutation(len(faces))):
        half = "one" if i < len(faces) // 2 else "other"
        _written(by_name[faces[place]].image, out / half / f"{faces[place]}.png")


# Commands -----------------------------------------------------------------------------------------


def commands(out, *, seed, steps, images):
    """Yield (file or folder written last, command) for every step, in order."""
    yield out / "run" / "checkpoint", training_command(out, seed=seed, steps=steps)
    for name, model in (("tuned", out / "run"), ("base", TINY_SD)):
        generation = {
            "--modelpath": model,
            "--prompts": out / "captions.json",
            "-imb": images,
            "--resolution": SIDE,
            **SAMPLING,
            "--seed": seed,
            "--savepath": out / name,
        }
        yield out / name / "manifest.json", ["diff_inference.py", *flag_words(generation)]
    for name, (queries, training) in folders(out).items():
        report = out / "reports" / name
        evaluation = {
            "--query_dir": queries,
            "--val_dir": training,
            "--pt_style": "pixel",
            "--metrics": "similarity,background",
            "--innocent_dir": None if name == "faces" else out / "innocents",
            "--num_workers": "2",
            "--report_to": "none",
            "--output_dir": report,
        }
        yield report / "metrics.json", ["diff_retrieval.py", *flag_words(evaluation)]


def folders(out):
    """{evaluation: (folder of the images, folder of the training pictures)}."""
    return {
        "tuned": (out / "tuned", out / "train"),
        "base": (out / "base", out / "train"),
        "faces": (out / "faces" / "one", out / "faces" / "other"),
    }


def training_command(out, *, seed, steps):
    """The command that fine-tunes tiny-sd on the ten pictures."""
    flags = {
        "--pretrained_model_name_or_path": TINY_SD,
        "--instance_data_dir": out / "train",
        "--instance_prompt_loc": out / "captions.json",
        "--class_prompt": "instancelevel_blip",
        "--resolution": SIDE,
        "--center_crop": True,
        "--random_flip": True,
        "--train_batch_size": BATCH,
        "--max_train_steps": steps,
        "--learning_rate": LEARNING_RATE,
        "--save_steps": steps,
        "--num_workers": "1",
        "--seed": seed,
        "--report_to": "none",
        "--output_dir": out / "run",
    }
    return ["diff_train.py", *flag_words(flags)]


# To look at ---------------------------------------------------------------------------------------


def matches(report):
    """The deciding match of every image of an evaluation: {image: row of matches.csv}. It is the
    best by alignment, where alignment ran, else the descriptor's best."""
    with open(report / "matches.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    decided = "best_aligned" if rows and rows[0].get("best_aligned") else "rank"
    return {row["query"]: row for row in rows if row[decided] == "1"}


def sheet(queries, training, chosen, counted):
    """A picture of pairs: every image above its match, in rows of IMAGES_PER_PROMPT.

    queries, training: folders; chosen: {image: (training picture, score)}; counted: the images that
    count as copies."""
    columns, margin, line = IMAGES_PER_PROMPT, 4, 12
    width, height = ZOOM + 2 * margin, 2 * ZOOM + 2 * margin + line
    page = Image.new("RGB", (columns * width, -(-len(chosen) // columns) * height), "white")
    drawing = ImageDraw.Draw(page)
    in_order = sorted(chosen.items(), key=lambda item: (len(item[0]), item[0]))  # 9 before 10
    for i, (name, (match, score)) in enumerate(in_order):
        x, y = i % columns * width, i // columns * height
        frame = COPIED if name in counted else OTHER
        drawing.rectangle((x, y, x + width - 1, y + height - 1), outline=frame, width=3)
        for j, path in enumerate((queries / name, training / match)):
            with Image.open(path) as opened:
                shown = opened.convert("RGB").resize((ZOOM, ZOOM), Image.Resampling.BICUBIC)
            page.paste(shown, (x + margin, y + margin + j * ZOOM))
        text = f"{Path(name).stem}  {score:.2f}"
        drawing.text((x + margin, y + height - line - 2), text, "black")
    return page


def is_copy(score, metrics):
    """Whether a score counts as a copy: above the calibrated threshold, where there is one, else
    above the descriptor's fixed one; None where there is neither.

    metrics: of metrics.json."""
    threshold = metrics.get("threshold", metrics["settings"].get("copy_threshold"))
    return None if threshold is None else score > threshold


def draw_sheets(out):
    """Write a sheet of pairs for each evaluation: out/tuned.png, out/base.png, out/faces.png."""
    for name, (queries, training) in folders(out).items():
        report = out / "reports" / name
        metrics, chosen, counted = read_json(report / "metrics.json"), {}, set()
        for image, row in matches(report).items():
            score = float(row.get("aligned") or row["score"])
            chosen[image] = (row["match"], score)
            if is_copy(score, metrics):
                counted.add(image)
        sheet(queries, training, chosen, counted).save(out / f"{name}.png")


def table(out):
    """A row for each evaluation: what counts as a copy by either threshold."""
    rows = []
    for name in folders(out):
        metrics = read_json(out / "reports" / name / "metrics.json")
        shares = [
            percent(metrics, key)
            for key in ("copy_share", "copy_share_calibrated", "false_positive_rate")
        ]
        threshold = metrics.get("threshold")
        rows.append([name, *shares, "-" if threshold is None else f"{threshold:.3f}"])
    columns = ["images of", "copies, fixed", "copies, calibrated", "innocents above fixed"]
    return markdown([*columns, "threshold"], rows)


def percent(metrics, key):
    """A share in per cent, with its interval where it has one; a dash if it was not measured."""
    if metrics.get(key) is None:
        return "-"
    text = f"{100 * metrics[key]:.1f}"
    if f"{key}_lo" in metrics:
        text += f" ({100 * metrics[f'{key}_lo']:.0f} to {100 * metrics[f'{key}_hi']:.0f})"
    return text


# The command --------------------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--emoji", help="folder of the unpacked npm package (default: fetched with npm)")
    add("--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)")
    add("--images", type=int, default=IMAGES_PER_PROMPT, help="images of a caption")
    add("--seed", type=int, default=0, help="of pictures, training and images")
    add("--out", type=Path, default=Path("runs/few_pictures"), help="output folder")
    args = parser.parse_args(argv)
    with exit_on_user_error("few_pictures"):
        if not (args.out / "captions.json").exists():
            emoji = fetching.emoji_folder(args.emoji, args.out / "npm")
            write_pictures(args.out, emoji, seed=args.seed)
        steps = commands(args.out, seed=args.seed, steps=args.steps, images=args.images)
        running.run_missing(steps)
        draw_sheets(args.out)
        print(f"\nShares in per cent, with 95 % intervals.\n\n{table(args.out)}\n")
        print(f"Look at {args.out / 'tuned.png'} and count the copies by eye.")


if __name__ == "__main__":
    main()
