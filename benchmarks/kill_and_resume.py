"""Kill a training run at ten moments, resume it each time, and compare the final weights with those
of a run left alone.

    python benchmarks/kill_and_resume.py

An ensemble of three copies with anti-gradient control, two rounds, on scenes with the model that
the repository carries. Four kills come at a random moment from a random step on, two each while the
copies are averaged, while a state is written, and while a checkpoint is. SIGKILL every time. Prints
a checksum a row; ends with status 1 unless all are equal."""

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

# children are forked: no thread pool may be alive before
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MOMENTS = (
    "any",
    "any",
    "any",
    "any",
    "average",
    "average",
    "state",
    "state",
    "checkpoint",
    "checkpoint",
)


def command(model, data, out, side):
    """A run of three shards: 2 rounds of 6 steps a copy."""
    return [
        "--pretrained_model_name_or_path",
        str(model),
        "--instance_data_dir",
        str(data / "train"),
        "--instance_prompt_loc",
        str(data / "captions.json"),
        "--class_prompt",
        "instancelevel_blip",
        "--resolution",
        str(side),
        "--center_crop",
        "--random_flip",
        "--train_batch_size",
        "2",
        "--max_train_steps",
        "6",
        "--clients_num",
        "3",
        "--total_round",
        "2",
        "--modelsaverounds",
        "1",
        "--state_steps",
        "4",
        "--mem_ratio",
        "1.25",
        "--use_ema",
        "--learning_rate",
        "1e-3",
        "--lr_warmup_steps",
        "0",
        "--log_steps",
        "3",
        "--sample_batch_size",
        "1",
        "--save_steps",
        "99",
        "--seed",
        "5",
        "--num_workers",
        "0",
        "--report_to",
        "none",
        "--output_dir",
        str(out),
    ]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment, count, share):
    """Let this process kill itself inside the `count`-th call of what the moment names.

    "any" is counted in steps, and dies `share` of a step's time later, wherever the process then
    is: a time on the clock would miss a run that is faster than the one it was chosen from."""
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
        if moment == "state":  # half a file
            Path(args[1]).write_bytes(b"half of it")
        elif moment == "checkpoint":  # half a folder
            (args[1].parent / f".{args[1].name}.{os.getpid()}.part" / "unet").mkdir(parents=True)
        return die()

    setattr(owner, name, dying)


def child(arguments, log, prepare=None):
    """Run diff_train.py in a forked process that prints into a file. Returns: its exit status,
    negative for a signal's."""
    from benchmarks.forked import run_forked

    def work():
        if prepare:
            prepare()
        import diff_train

        diff_train.main(arguments)

    return run_forked(work, log)


def checksum(run):
    """SHA-256 over the weights of a run's final checkpoint, its metrics without times, and
    skips.csv; 16 digits."""
    import json

    digest = hashlib.sha256(
        (run / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    digest.update(
        json.dumps(
            [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
        ).encode()
    )
    return hashlib.sha256(digest.digest() + (run / "skips.csv").read_bytes()).hexdigest()[:16]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", default=str(ROOT / "assets" / "tiny-sd"))
    parser.add_argument("--side", type=int, default=64, help="resolution that the model takes")
    parser.add_argument(
        "--moments", default=",".join(MOMENTS), help="of any, average, state, checkpoint"
    )
    args = parser.parse_args(argv)
    # before the forks, and by name, for the libraries import lazily: children then start at once
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import utils.training.training_job
    import utils.training.training_loop  # noqa: F401
    from utils.data import scenes

    rng, out = random.Random(args.seed), Path(tempfile.mkdtemp())
    try:
        scenes.write_scenes(out / "scenes", count=12, seed=1, size=args.side)
        started = time.perf_counter()
        log = out / "log.txt"
        status = child(command(args.model, out / "scenes", out / "whole" / "run", args.side), log)
        seconds = time.perf_counter() - started
        if status:
            sys.exit(f"the run that is left alone ended with {status}: {log.read_text()[-600:]}")
        whole = checksum(out / "whole" / "run")
        print(f"left alone{'':40} {whole}   {seconds:.1f} s")
        same = 0
        moments = args.moments.split(",")
        for number, moment in enumerate(moments):
            # each in a folder of its own, so that each builds its own cache of latents and may die
            # doing it
            run, share = out / f"{number}" / "run", rng.random()
            # 36 steps, of which the last always leaves a step undone; 400 tensors a round; six
            # states; three checkpoints
            count = {
                "any": rng.randrange(2, 36),
                "average": rng.randrange(1, 400),
                "state": rng.randrange(2, 7),
                "checkpoint": rng.randrange(1, 4),
            }[moment]
            arguments = command(args.model, out / "scenes", run, args.side)
            killed = child(arguments, log, lambda m=moment, c=count, s=share: arm(m, c, s))
            from utils.files import resume_states

            at = [s.path.name for s in resume_states.list_states(run)] if run.exists() else []
            status = child([*arguments, "--resume_from_checkpoint", "latest"], log)
            found = (
                checksum(run) if status == 0 else f"ended with {status}: {log.read_text()[-600:]}"
            )
            where = f"{'after' if moment == 'any' else 'in'} call {count}"
            print(
                f"killed ({killed}) {moment:10} {where:14} {at[-1] if at else 'no state':12}"
                f" {found}",
                flush=True,
            )
            same += found == whole and killed == -signal.SIGKILL
        print(f"{same} of {len(moments)} equal")
        sys.exit(same != len(moments))
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
