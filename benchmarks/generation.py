"""Images a second of diff_inference.py against the published loop, which makes one prompt at a
time.

    python benchmarks/generation.py                  tiny-sd on this machine
    python benchmarks/generation.py --shape sd21     on a GPU: Stable Diffusion 2.1's shape at 768
px, random weights
    python benchmarks/generation.py --memory         memory held at 200 images and at 5,000

Each side lives in a process of its own, so that it has a peak memory of its own; they take turns,
one works while the other sleeps. A turn makes the same prompts, from embedding to PNG on disk;
loading the model is not counted, a first turn of each warms up."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # the side that sleeps must not spin
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WORDS = ("red", "blue", "green", "circle", "square", "star", "field", "small", "striped", "two")


def prompts_of(count):
    return [f"a {WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100 % 10]}" for i in range(count)]


def ours(args, progress=lambda items, **_: items):
    """The stage of diff_inference.py itself. Returns: a function that makes a turn's images into a
    folder."""
    from utils.cli import flags, generation_options
    from utils.generation import generation_plan, generation_stage
    from utils.runtime import launching, parallel

    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))

    def parsed(folder):
        side = [
            "--modelpath",
            args.model,
            "--resolution",
            str(args.side),
            "-nb",
            str(args.images),
            "--savepath",
            str(folder),
        ]
        how = [
            "--num_inference_steps",
            str(args.steps),
            "--batch_size",
            str(args.batch),
            "--mixed_precision",
            args.mixed_precision,
        ]
        prompts = [word for p in prompts_of(args.images) for word in ("--prompt", p)]
        return flags.parse(
            generation_options.GenerationOptions,
            [*side, *how, *prompts, *(["--compile"] if args.compile else [])],
            description="",
        )

    def planned(folder):
        return generation_plan.plan(
            parsed(folder),
            default_prompts=(),
            default_root=folder,
            beside_run=False,
            process=0,
            say=lambda line: None,
        )

    pipeline = generation_stage.load(planned(Path("unused")), processes.device)

    def turn(folder):
        plan = planned(folder)
        generation_stage.make(
            plan, [], pipeline, processes=processes, progress=progress, say=lambda line: None
        )

    return turn


def published(args):
    """The published recipe: a call of the pipeline a prompt, in float32, saved before the next.
    Returns: the same."""
    import torch
    from diffusers import StableDiffusionPipeline

    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = StableDiffusionPipeline.from_pretrained(
        args.model, dtype=torch.float32, safety_checker=None
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)

    def turn(folder):
        folder.mkdir(parents=True)
        generator = torch.Generator(device).manual_seed(42)
        for number, prompt in enumerate(prompts_of(args.images)):
            image = pipeline(
                prompt=prompt,
                height=args.side,
                width=args.side,
                num_inference_steps=args.steps,
                guidance_scale=7.5,
                num_images_per_prompt=1,
                generator=generator,
            ).images[0]
            image.save(folder / f"{number}.png")

    return turn


def work(args):
    """A side's process: a turn for each line on standard input, an answer in JSON for each."""
    import torch

    from utils.runtime import devices

    turn = {"ours": ours, "published": published}[args.work](args)
    device = devices.default_device()
    for folder in sys.stdin:
        started = time.perf_counter()
        turn(Path(folder.strip()))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        where = (
            torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        print(
            json.dumps({"seconds": seconds, "where": where, **devices.peak_memory(device)}),
            flush=True,
        )


class Side:
    """A process of `work`, and the turns it is asked for."""

    def __init__(self, name, argv, images):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", name, "--images", str(images), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self, folder):
        """Seconds and memory of a turn into a new folder."""
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a side ended with status {self.process.wait()}")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def speed(args, argv, out):
    """Both sides in turns; prints the table and the ratio."""
    from utils.reports.tables import markdown

    sides = {name: Side(name, argv, args.images) for name in ("published", "ours")}
    found = {name: [] for name in sides}
    for number in range(args.rounds + 1):
        for name, side in sides.items():
            found[name].append(side.turn(out / f"{name}{number}"))
    for side in sides.values():
        side.end()
    rows, median = [], {}
    for name, turns in found.items():
        seconds = sorted(t["seconds"] for t in turns[1:])
        median[name] = statistics.median(seconds)
        middle, slowest, fastest = (
            f"{args.images / s:.2f}" for s in (median[name], seconds[-1], seconds[0])
        )
        device = turns[-1]["device"]
        rows.append(
            [
                name,
                middle,
                f"{slowest} to {fastest}",
                f"{turns[-1]['host'] / 2**30:.2f}",
                "-" if device is None else f"{device / 2**30:.2f}",
            ]
        )
    print(
        f"\n{args.shape}, {args.side} px, {args.steps} steps, {args.images} images a turn, batch"
        f" {args.batch} and 1, {turns[-1]['where']}, ours in {args.mixed_precision}, {args.rounds}"
        " rounds\n"
    )
    print(
        markdown(("side", "images/s (median)", "range", "peak host GiB", "peak device GiB"), rows)
    )
    print(f"\nours / published: {median['published'] / median['ours']:.2f}")


def memory(args, out):
    """Memory that our side holds while it makes many images, read at a few of them and at the
    end."""
    import psutil

    process, marks = psutil.Process(), {200, args.many // 4, args.many // 2, args.many}

    def read(number):
        print(f"{number:6} images: {process.memory_info().rss / 2**20:.0f} MiB", flush=True)

    def watched(items, **_):
        for number, item in enumerate(items, 1):
            if number in marks:
                read(number)
            yield item

    args.images = args.many
    ours(args, progress=watched)(out / "many")
    print(f"when the manifest is written: {process.memory_info().rss / 2**20:.0f} MiB")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("tiny-sd", "sd21"), default="tiny-sd")
    parser.add_argument("--images", type=int, default=32, help="of a turn")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16, help="of ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="of ours"
    )
    parser.add_argument("--compile", action="store_true", help="ours compiled")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument("--many", type=int, default=5000, help="images of --memory")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=("ours", "published"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work:
        work(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if args.shape == "sd21":
            from benchmarks.train_step import sd21_folder

            args.model, args.side = str(sd21_folder(out / "sd21")), args.side or 768
        else:
            args.model, args.side = args.model or str(ROOT / "assets" / "tiny-sd"), args.side or 64
        shared = {
            "model": args.model,
            "side": args.side,
            "steps": args.steps,
            "batch": args.batch,
            "mixed_precision": args.mixed_precision,
        }
        argv = [word for name, value in shared.items() for word in (f"--{name}", str(value))]
        argv += ["--compile"] if args.compile else []
        if args.memory:
            memory(args, out)
        else:
            speed(args, argv, out)


if __name__ == "__main__":
    main()
