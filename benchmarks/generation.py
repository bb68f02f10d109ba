"""Measure how many images per second diff_inference.py generates, beside the published loop, which
generates one prompt at a time.

    python benchmarks/generation.py                  # tiny-sd on this machine
    python benchmarks/generation.py --shape sd21     # on a GPU: Stable Diffusion 2.1's shape at
                                                     # 768 px, random weights
    python benchmarks/generation.py --memory         # memory of the process up to 5,000 images

Each side ("published" and "ours") runs in a process of its own, so that each has its own peak of
memory. The sides take turns: one works while the other sleeps. In a turn a side generates the same
prompts, from embedding to PNG files on disk. Loading the model does not count, and the first turn
of each side is a warm-up."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # the sleeping side must not use the CPU
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402

WORDS = ("red", "blue", "green", "circle", "square", "star", "field", "small", "striped", "two")


def prompts_of(count):
    """Return `count` prompts, all different up to 1,000."""
    return [f"a {WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100 % 10]}" for i in range(count)]


def ours(args, progress=lambda items, **_: items):
    """Load the stage of diff_inference.py.

    Returns: a function that generates the images of one turn into a folder."""
    from utils.generation import generation_plan, generation_stage
    from utils.runtime import launching, parallel

    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))

    def planned(folder):
        return generation_plan.plan(
            options_of(args, folder),
            default_prompts=(),
            default_root=folder,
            beside_run=False,
            process=0,
            say=lambda line: None,
        )

    pipeline = generation_stage.load(planned(Path("unused")), processes.device, processes.say)

    def turn(folder):
        plan = planned(folder)
        generation_stage.make(
            plan, [], pipeline, processes=processes, progress=progress, say=lambda line: None
        )

    return turn


def options_of(args, folder):
    """Return the GenerationOptions of a turn into a folder."""
    from utils.cli import flags, generation_options

    words = flag_strings(
        {
            "--modelpath": args.model,
            "--resolution": args.side,
            "-nb": args.images,
            "--savepath": folder,
            "--num_inference_steps": args.steps,
            "--batch_size": args.batch,
            "--mixed_precision": args.mixed_precision,
            "--compile": args.compile,
        }
    )
    words += [word for prompt in prompts_of(args.images) for word in ("--prompt", prompt)]
    return flags.parse(generation_options.GenerationOptions, words, description="")


def published(args):
    """Load the published recipe: one call of the pipeline per prompt, in float32, each image saved
    before the next call. Returns: a function as `ours` returns it."""
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
    """Run one side as a process: for each folder on a line of standard input it takes a turn and
    prints a line of JSON."""
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
        print(
            json.dumps({"seconds": seconds, "where": where(), **devices.peak_memory(device)}),
            flush=True,
        )


def where():
    """Name the GPU, or the number of threads on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads"


class Side:
    """One side: a process that runs `work`, and the requests to it."""

    def __init__(self, name, argv, images):
        command = [sys.executable, __file__, "--work", name, "--images", str(images), *argv]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def turn(self, folder):
        """Take a turn into a new folder. Returns: {"seconds", "where" and the peaks of memory}."""
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a side exited with status {self.process.wait()}")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def speed(args, argv, out):
    """Let both sides take turns, and print the table and the ratio."""
    from utils.reports.tables import markdown

    sides = {name: Side(name, argv, args.images) for name in ("published", "ours")}
    turns = {name: [] for name in sides}
    for number in range(args.rounds + 1):
        for name, side in sides.items():
            turns[name].append(side.turn(out / f"{name}{number}"))
    for side in sides.values():
        side.end()
    rows, median = [], {}
    for name, answers in turns.items():
        seconds, last = sorted(a["seconds"] for a in answers[1:]), answers[-1]
        median[name] = statistics.median(seconds)
        middle, slowest, fastest = (
            f"{args.images / s:.2f}" for s in (median[name], seconds[-1], seconds[0])
        )
        memory = [
            "-" if size is None else f"{size / 2**30:.2f}"
            for size in (last["host"], last["device"])
        ]
        rows.append([name, middle, f"{slowest} to {fastest}", *memory])
    print(
        f"\n{args.shape}, {args.side} px, {args.steps} steps, {args.images} images a turn, batch"
        f" {args.batch} and 1, {last['where']}, ours in {args.mixed_precision}, {args.rounds}"
        " rounds\n"
    )
    columns = ("side", "images/s (median)", "range", "peak host GiB", "peak device GiB")
    print(markdown(columns, rows))
    print(f"\nours / published: {median['published'] / median['ours']:.2f}")


def memory(args, out):
    """Print the memory of our side after some of the generated images, and at the end."""
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
    print(f"manifest written: {process.memory_info().rss / 2**20:.0f} MiB")


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=("tiny-sd", "sd21"), default="tiny-sd", help="the model")
    parser.add_argument("--images", type=int, default=32, help="images per turn")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps per image")
    parser.add_argument("--batch", type=int, default=16, help="batch size of our side")
    parser.add_argument("--rounds", type=int, default=5, help="rounds after the warm-up")
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "fp16", "bf16"),
        default="no",
        help="precision of our side",
    )
    parser.add_argument("--compile", action="store_true", help="compile the U-Net of our side")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument("--many", type=int, default=5000, help="number of images with --memory")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=("ours", "published"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
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
        if args.memory:
            memory(args, out)
            return
        shared = {
            "--model": args.model,
            "--side": args.side,
            "--steps": args.steps,
            "--batch": args.batch,
            "--mixed_precision": args.mixed_precision,
            "--compile": args.compile,
        }
        speed(args, flag_strings(shared), out)


if __name__ == "__main__":
    main()
