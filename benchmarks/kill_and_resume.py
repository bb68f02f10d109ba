"""Kill a training run ten times, resume it each time, and compare the final weights with those of
an uninterrupted run.

    python benchmarks/kill_and_resume.py

Each run trains an ensemble of three copies with anti-gradient control, for two rounds, on scenes,
with the model of this repository. Every kill is a SIGKILL. Four kills come at a random moment of a
random step, two while the copies are averaged, two while a state is written, and two while a
checkpoint is written. The script prints one row with a checksum per run, and exits with status 1
unless all checksums are equal."""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

# the children are forked, so no thread pool may exist before
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402

MOMENTS = ("any",) * 4 + ("average",) * 2 + ("state",) * 2 + ("checkpoint",) * 2


def command(model, data, out, side):
    """Return the arguments of diff_train.py: three shards, 2 rounds of 6 steps per copy."""
    return flag_strings(
        {
            "--pretrained_model_name_or_path": model,
            "--instance_data_dir": data / "train",
            "--instance_prompt_loc": data / "captions.json",
            "--class_prompt": "instancelevel_blip",
            "--resolution": side,
            "--center_crop": True,
            "--random_flip": True,
            "--train_batch_size": 2,
            "--max_train_steps": 6,
            "--clients_num": 3,
            "--total_round": 2,
            "--modelsaverounds": 1,
            "--state_steps": 4,
            "--mem_ratio": 1.25,
            "--use_ema": True,
            "--learning_rate": "1e-3",
            "--lr_warmup_steps": 0,
            "--log_steps": 3,
            "--sample_batch_size": 1,
            "--save_steps": 99,
            "--seed": 5,
            "--num_workers": 0,
            "--report_to": "none",
            "--output_dir": out,
        }
    )


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment, count, share):
    """Make this process kill itself inside the `count`-th call of the function that the moment
    names.

    "any" counts training steps, and kills `share` of a step's time later, wherever the process then
    is. A fixed delay in seconds would miss a run that is faster than the one it was measured on."""
    from safetensors import torch as files

    from utils.files import run_folder
    from utils.training import ensemble, trainer

    calls, times = iter(range(1, 10**6)), [time.perf_counter()]
    owner, name = {
        "any": (trainer.Trainer, "step"),
        "average": (ensemble.parallel, "sum_over_processes"),
        "state": (files, "save_file"),
        "checkpoint": (run_folder, "save_folder"),
    }[moment]
    real = getattr(owner, name)

    def dying(*args, **kwargs):
        times.append(time.perf_counter())
        if next(calls) != count:
            return real(*args, **kwargs)
        if moment == "any":
            threading.Timer(share * (times[-1] - times[-2]), die).start()
            return real(*args, **kwargs)
        if moment == "state":  # leave half a file
            Path(args[1]).write_bytes(b"half of it")
        elif moment == "checkpoint":  # leave half a folder
            (args[1].parent / f".{args[1].name}.{os.getpid()}.part" / "unet").mkdir(parents=True)
        return die()

    setattr(owner, name, dying)


def child(arguments, log, prepare=None):
    """Run diff_train.py in a forked process whose output goes to the file `log`.

    Returns: its exit status, negative if a signal ended it."""
    from benchmarks.forked import run_forked

    def work():
        if prepare:
            prepare()
        import diff_train

        diff_train.main(arguments)

    return run_forked(work, log)


def checksum(run):
    """Return 16 digits of the SHA-256 of a run's final weights, metrics (without times) and
    skips.csv."""
    import json

    weights = run / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
    digest.update(json.dumps(timeless).encode())
    return hashlib.sha256(digest.digest() + (run / "skips.csv").read_bytes()).hexdigest()[:16]


def uninterrupted(args, out, log):
    """Train without a kill and print its row. Returns: its checksum."""
    run, started = out / "whole" / "run", time.perf_counter()
    status = child(command(args.model, out / "scenes", run, args.side), log)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"the uninterrupted run ended with status {status}: {log.read_text()[-600:]}")
    expected = checksum(run)
    print(f"uninterrupted{'':37} {expected}   {seconds:.1f} s")
    return expected


def killed_and_resumed(args, run, log, moment, rng):
    """Train, kill at a moment, resume, and print the row. run: the new run folder.

    Returns: (exit status of the killed process, checksum of the resumed run or why there is
    none)."""
    from utils.files import resume_states

    share = rng.random()
    # upper limits: 36 steps, the last of which would leave no step to resume; 400 tensors per
    # round; six states; three checkpoints
    count = {
        "any": rng.randrange(2, 36),
        "average": rng.randrange(1, 400),
        "state": rng.randrange(2, 7),
        "checkpoint": rng.randrange(1, 4),
    }[moment]
    arguments = command(args.model, run.parents[1] / "scenes", run, args.side)
    killed = child(arguments, log, lambda: arm(moment, count, share))
    states = [s.path.name for s in resume_states.list_states(run)] if run.exists() else []
    status = child([*arguments, "--resume_from_checkpoint", "latest"], log)
    result = f"ended with status {status}: {log.read_text()[-600:]}" if status else checksum(run)
    where = f"{'after' if moment == 'any' else 'in'} call {count}"
    state = states[-1] if states else "no state"
    print(f"killed ({killed}) {moment:10} {where:14} {state:12} {result}", flush=True)
    return killed, result


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--model", default=str(ROOT / "assets" / "tiny-sd"), help="pipeline folder")
    parser.add_argument("--side", type=int, default=64, help="resolution of the model, in pixels")
    parser.add_argument(
        "--moments",
        default=",".join(MOMENTS),
        help="one kill per entry: any, average, state or checkpoint, separated by commas",
    )
    args = parser.parse_args(argv)
    # imported before the forks, so that the children start at once; by name, because the libraries
    # import their parts lazily
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import utils.training.training_job
    import utils.training.training_loop  # noqa: F401
    from utils.data import scenes

    rng, out = random.Random(args.seed), Path(tempfile.mkdtemp())
    log, moments, equal = out / "log.txt", args.moments.split(","), 0
    try:
        scenes.write_scenes(out / "scenes", count=12, seed=1, size=args.side)
        expected = uninterrupted(args, out, log)
        for number, moment in enumerate(moments):
            # a folder for each run: each builds its own latent cache, and may be killed while it
            # does
            run = out / f"{number}" / "run"
            killed, result = killed_and_resumed(args, run, log, moment, rng)
            equal += result == expected and killed == -signal.SIGKILL
        print(f"{equal} of {len(moments)} equal")
        sys.exit(equal != len(moments))
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
