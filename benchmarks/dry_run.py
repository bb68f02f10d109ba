"""Measure how long --dry_run of each script takes on 100 pictures.

    python benchmarks/dry_run.py --images 100 --rounds 3

Each command runs in a process of its own, in turns with a process that imports torch and ends:
no plan is made without that. The script prints the seconds of each, and the ratio to torch alone.
Nothing else should run on the machine."""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = str(ROOT / "assets" / "tiny-sd")


def commands(folder):
    """{name: words after the interpreter} of what is timed. folder: of the scenes."""
    pictures = str(folder / "train")
    return {
        "import torch": ["-c", "import torch"],
        "diff_train.py": [
            "diff_train.py",
            *("--pretrained_model_name_or_path", MODEL, "--instance_data_dir", pictures),
            *("--instance_prompt_loc", str(folder / "captions.json")),
            *("--class_prompt", "instancelevel_blip", "--resolution", "64"),
            *("--output_dir", str(folder / "run"), "--dry_run"),
        ],
        "diff_inference.py": [
            "diff_inference.py",
            *("--modelpath", MODEL, "--prompts", str(folder / "captions.json")),
            *("--savepath", str(folder / "generation"), "--dry_run"),
        ],
        "sd_mitigation.py": [
            "sd_mitigation.py",
            *("--modelpath", MODEL, "--rand_noise_lam", "0.1"),
            *("--savepath", str(folder / "mitigated"), "--dry_run"),
        ],
        "diff_retrieval.py": [
            "diff_retrieval.py",
            *("--query_dir", pictures, "--val_dir", pictures, "--pt_style", "pixel", "--dry_run"),
        ],
    }


def main():
    """Print the seconds of each command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw = ["-m", "utils.data.scenes", "--count", str(given.images), "--out", temporary]
        subprocess.run([sys.executable, *draw], cwd=ROOT, check=True, capture_output=True)
        timed = commands(folder)
        seconds = {name: [] for name in timed}
        for round_ in range(given.rounds + 1):
            for name, words in timed.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
                if round_:  # round 0 reads the files into memory
                    seconds[name].append(time.perf_counter() - started)
    torch_alone = statistics.median(seconds["import torch"])
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(
            f"{name}: {middle:.2f} s ({min(found):.2f} to {max(found):.2f}),"
            f" {middle / torch_alone:.2f} x torch alone"
        )


if __name__ == "__main__":
    main()
