"""Measure every mitigation at inference on a fine-tuned model: the tables of docs/mitigations.md.

    python benchmarks/mitigations.py --model assets/tiny-sd3

Draws the quickstart's scenes, fine-tunes the model's full weights on them with a quarter of them
duplicated, generates two images of each caption without and with each mitigation, from the same
noise, and compares them with the training scenes. Every command is printed before it runs;
finished results are reused."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import quickstart  # noqa: E402
from benchmarks.commands import flag_words  # noqa: E402
from benchmarks.study import running  # noqa: E402
from utils.files.whole_files import read_json, write_text  # noqa: E402
from utils.models import families  # noqa: E402
from utils.reports.tables import markdown  # noqa: E402

MITIGATION, INFERENCE = "sd_mitigation.py", "diff_inference.py"
# {name of the folder: (row of the table, script, flags)}
ARMS = {
    "base": ("*the base model, before*", INFERENCE, {}),
    "none": ("none", INFERENCE, {}),
    "noise01": ("GNI, 0.1", MITIGATION, {"--rand_noise_lam": "0.1"}),
    "noise06": ("GNI, 0.6", MITIGATION, {"--rand_noise_lam": "0.6"}),
    "words": ("RT, 4 words", MITIGATION, {"--rand_augs": "rand_word_add"}),
    "repeats": ("CWR, 4 words", MITIGATION, {"--rand_augs": "rand_word_repeat"}),
    "numbers": ("RNA, 4 numbers", MITIGATION, {"--rand_augs": "rand_numb_add"}),
    "late800": ("static, `--cfg_start 800`", MITIGATION, {"--cfg_start": "800"}),
    "late500": ("static, `--cfg_start 500`", MITIGATION, {"--cfg_start": "500"}),
    "opposite": (
        "static, `--cfg_start 650 --cfg_before -2`",
        MITIGATION,
        {"--cfg_start": "650", "--cfg_before": "-2"},
    ),
    "dynamic": ("dynamic, as published", MITIGATION, {"--cfg_start": "auto"}),
    "dynamic0": (
        "dynamic, `--cfg_before 0`",
        MITIGATION,
        {"--cfg_start": "auto", "--cfg_before": "0"},
    ),
}
COLUMNS = ("mitigation", "copied, duplicated prompts", "copied, others", "Fréchet distance")


def sampling_of(model):
    """The quickstart's flags of sampling, with the scheduler that the model's class accepts."""
    name, _ = families.read("--model", model)
    flow = families.FAMILIES[name].flow
    return quickstart.SAMPLING | ({"--scheduler": "FlowMatchEulerDiscrete"} if flow else {})


def commands(args, out):
    """Yield (file written last, command) for every step, in order."""
    data, run = out / "scenes", out / "train"
    draw = {"--out": data, "--count": args.scenes, "--seed": args.seed}
    yield data / "captions.json", ["-m", "utils.data.scenes", *flag_words(draw)]
    yield (
        run / "checkpoint",
        quickstart.training_command(
            data,
            run,
            seed=args.seed,
            steps=args.steps,
            model=args.model,
            learning_rate=args.learning_rate,
        ),
    )
    sampling = sampling_of(args.model)
    for name in args.only:
        _, script, flags = ARMS[name]
        generation = {
            "--modelpath": args.model if name == "base" else run,
            **flags,
            "--prompts": data / "captions.json",
            "-imb": args.images,
            "--resolution": "64",
            **sampling,
            "--seed": args.seed,
            "--savepath": out / "images" / name,
        }
        evaluation = {
            "--query_dir": out / "images" / name,
            "--val_dir": data / "train",
            "--pt_style": "pixel",
            "--run": run,
            "--metrics": ",".join(quickstart.METRICS),
            "--num_workers": "2",
            "--report_to": "none",
            "--no_align": True,
            "--output_dir": out / "reports" / name,
        }
        yield out / "images" / name / "manifest.json", [script, *flag_words(generation)]
        yield (
            out / "reports" / name / "metrics.json",
            ["diff_retrieval.py", *flag_words(evaluation)],
        )


def table(names, out):
    """The rows of the mitigations with these names, as Markdown; shares in per cent."""
    rows = []
    for name in names:
        metrics = read_json(out / "reports" / name / "metrics.json")
        shares = [f"{100 * metrics[f'copy_share_{k}']:.1f}" for k in ("dup", "nodup")]
        distance = metrics.get(quickstart.FD)
        rows.append([ARMS[name][0], *shares, "-" if distance is None else f"{distance:.1f}"])
    return markdown(COLUMNS, rows)


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="assets/tiny-sd3", help="base model (default: %(default)s)"
    )
    parser.add_argument("--out", help="output folder (default: runs/mitigations-<name of --model>)")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes, training and images")
    parser.add_argument(
        "--steps", type=int, default=quickstart.STEPS, help="steps (default: %(default)s)"
    )
    parser.add_argument(
        "--learning_rate", type=float, default=quickstart.LEARNING_RATE, help="(%(default)s)"
    )
    parser.add_argument(
        "--scenes", type=int, default=quickstart.SCENES, help="scenes (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=quickstart.IMAGES_PER_PROMPT, help="images of a caption"
    )
    parser.add_argument(
        "--only", nargs="+", choices=ARMS, default=list(ARMS), help="these rows alone"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    out = Path(args.out or f"runs/mitigations-{Path(args.model).name}")
    choice = {name: value for name, value in vars(args).items() if name not in ("out", "only")}
    quickstart.require_same(out, choice)
    running.run_missing(commands(args, out))
    shown = table(args.only, out)
    write_text(out / "table.md", shown + "\n")
    print(f"\nShares of copies in per cent; {args.model}, seed {args.seed}.\n\n{shown}")


if __name__ == "__main__":
    main()
