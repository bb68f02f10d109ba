"""What checks of copies cost: the share of a run's time that they take.

    python benchmarks/copy_check.py            # 4 minutes on 2 cores

Fine-tunes tiny-sd on 64 scenes, with 32 others held out, and checks it for copies at the default
distance. Training and checks are timed in one run, so that other work on the machine slows both.
Prints what each check found, the seconds of both, and the share of the checks. Exit status 1 if
that is above the limit."""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402
from utils.cli.copy_check_options import COPY_CHECK_STEPS  # noqa: E402

SCENES, HOLDOUT = 96, 32 / 96
STEPS = 1400  # as `make quickstart`
LIMIT = 0.10  # share of a run's time


def command(scenes, run, *, steps, every, guidance, seed):
    """Words after diff_train.py. scenes: folder of the scenes; run: folder of the run; every: steps
    between checks."""
    return flag_strings(
        {
            "--pretrained_model_name_or_path": ROOT / "assets" / "tiny-sd",
            "--instance_data_dir": scenes / "train",
            "--instance_prompt_loc": scenes / "captions.json",
            "--class_prompt": "instancelevel_blip",
            "--resolution": 64,
            "--center_crop": True,
            "--train_batch_size": 16,
            "--max_train_steps": steps,
            "--learning_rate": 1e-3,
            "--lr_scheduler": "constant_with_warmup",
            "--lr_warmup_steps": 50,
            "--save_steps": 10 * steps,
            "--holdout": HOLDOUT,
            "--copy_check_steps": every,
            "--copy_check_guidance": guidance,
            "--num_workers": 2,
            "--seed": seed,
            "--report_to": "none",
            "--output_dir": run,
        }
    )


def share_of(record):
    """The share of a run's time that checks took. record: of its run.json."""
    checks = record["copy_check_seconds"]
    return checks / (checks + record["seconds"])


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, words in (
        ("steps", STEPS, "optimizer steps"),
        ("every", COPY_CHECK_STEPS, "steps between checks"),
        ("seed", 0, "seed of scenes and training"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{words} (default: %(default)s)"
        )
    parser.add_argument(
        "--guidance", type=float, default=3.0, help="scale of guidance (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    import diff_train
    from utils.data import scenes
    from utils.files import run_folder

    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "scenes", Path(folder) / "run"
        scenes.write_scenes(data, count=SCENES, seed=args.seed)
        diff_train.main(command(data, run, **vars(args)))
        record = run_folder.open_run("--run", run).record
        rows = run_folder.NewRun(run).metrics_rows()
    for row in rows:
        if "copy_share" in row:
            print({name: value for name, value in row.items() if name != "round"})
    share = share_of(record)
    print(
        f"training {record['seconds']:.1f} s, checks {record['copy_check_seconds']:.1f} s:"
        f" {100 * share:.1f} % of the run, at most {100 * LIMIT:.0f} %"
    )
    return int(share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
