"""Measure the published retrieval procedure beside diff_retrieval.py, from the start of each
command to the finished report.

    python benchmarks/retrieval.py                     # 600 queries, 1,500 training images, a
                                                       # descriptor that costs nothing
    python benchmarks/retrieval.py --network resnet50  # the same, a ResNet-50 with random weights
    python benchmarks/retrieval.py --decoding          # reading images, beside bare decoding

Three sides take turns. Each turn is a process of its own, and the first turn of each side is a
warm-up. Memory is that of the process and its workers together; shared pages count once.

- published: one pass over each folder for descriptors; whole matrices of similarities (queries with
  training images, training images with each other), the first one fully sorted; complexity of the
  matched images, which are decoded again; a histogram and four scatter plots; gallery pages that
  search again and open the images again, drawn by matplotlib at 20 x 20 inches. Batches of 64.
- ours: diff_retrieval.py on the same folders, with an empty cache.
- ours, cached: the same with another folder of queries and the features of the training images that
  the turn before has cached.

All sides use the same TorchScript file, transform, workers and threads, compute in float32, show
ten matches per query and write at most 20 gallery pages, as published. The exit status is 1 unless
the best scores of both of our sides equal the published ones. No side runs Inception or CLIP. The
published script also imports pandas, seaborn and OpenCV; the side measured here does not."""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.commands import flag_strings  # noqa: E402

# colour photographs that come with scikit-image: portraits, objects, the sky, tissue
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SIDES = ("published", "ours", "ours, cached")
TOLERANCE = 1e-4  # of a score: float32 sums in another order differ by less
PUBLISHED = Path(__file__).with_name("published_retrieval.py")
MATCHES = 10  # per query, as published


# The images and the networks ----------------------------------------------------------------------


def photographs():
    """Return the photographs as PIL RGB images, without importing scikit-image itself."""
    from PIL import Image

    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


def view(photograph, rng, side=256):
    """Return a random square of a photograph, scaled to `side` pixels; half of them mirrored."""
    from PIL import Image

    size = int(min(photograph.size) * rng.uniform(0.3, 1.0))
    left, top = (int(rng.integers(v - size + 1)) for v in photograph.size)
    box = (left, top, left + size, top + size)
    shown = photograph.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else shown


def with_noise(image, rng, scale=8):
    """Return the image plus Gaussian noise with a standard deviation of `scale` (of 255)."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image, float) + rng.normal(0, scale, (image.height, image.width, 3))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def write_images(out, *, queries, training, seed=0):
    """Write `training` views to out/train, and `queries` images each to out/queries0 and
    out/queries1. Every other query is a noisy copy of a training image."""
    import numpy as np
    from PIL import Image

    rng, sources = np.random.default_rng(seed), photographs()
    for name, count in (("train", training), ("queries0", queries), ("queries1", queries)):
        (out / name).mkdir()
        for i in range(count):
            if name == "train" or i % 2:
                image = view(sources[rng.integers(len(sources))], rng)
            else:
                original = out / "train" / f"{rng.integers(training):05}.jpg"
                image = with_noise(Image.open(original), rng)
            image.save(out / name / f"{i:05}.jpg", quality=90)


def write_network(name, path):
    """Write a TorchScript file that maps [B, 3, H, W] to [B, D]: `free` gives the means of an 8 x 8
    grid, `resnet50` the 512 outputs of a network with random weights."""
    import torch

    torch.manual_seed(0)
    if name == "free":
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten())
    else:
        from torchvision.models import resnet50

        network = resnet50(weights=None, num_classes=512)
    with warnings.catch_warnings():
        # torch deprecates TorchScript, but SSCD is published in this format
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(network.eval(), torch.rand(2, 3, 224, 224)).save(str(path))


# Measuring ----------------------------------------------------------------------------------------


def held_bytes(pid):
    """Return the memory of a process and its workers, in bytes; shared pages count once."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                info = member.memory_full_info()
                total += getattr(info, "pss", info.uss)  # pss: Linux only
    return total


def measured(command, *, threads, log):
    """Run a command to its end. Returns: (seconds, peak bytes).

    Raises SystemExit with the end of its output if the command fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    peak, started = 0, time.perf_counter()
    with open(log, "w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                peak = max(peak, held_bytes(process.pid))
        finally:
            process.kill()
    seconds = time.perf_counter() - started
    if process.wait():
        sys.exit(
            f"{' '.join(command)}\nended with status"
            f" {process.returncode}:\n{log.read_text()[-3000:]}"
        )
    return seconds, peak


def command_of(side, *, queries, out, cache, args, data):
    """Return the command line of a turn.

    queries: folder of queries; out: new output folder; cache: cache folder of our sides."""
    folders = {
        "--query_dir": queries,
        "--val_dir": data / "train",
        "--weights": data / "network.pt",
        "-j": args.workers,
    }
    if side == "published":
        return [sys.executable, str(PUBLISHED), *flag_strings(folders | {"--out": out})]
    flags = {
        "--pt_style": "sscd",
        **folders,
        "--metrics": "similarity,background,complexity",
        "--num_matches": MATCHES,
        "--mixed_precision": "no",
        "--report_to": "none",
        "--cache_dir": cache,
        "--output_dir": out,
    }
    return [sys.executable, str(ROOT / "diff_retrieval.py"), *flag_strings(flags)]


def take_turns(args, data):
    """Run all rounds.

    Returns: ({side: [(seconds, bytes)]} without the warm-up, largest difference of a best score).

    The two folders of queries swap every round. So from two rounds on, the scores that our side
    computes with a cache have published scores of the same folder to compare with."""
    import numpy as np

    turns, scores = {side: [] for side in SIDES}, []
    for number in range(args.rounds + args.warm_ups):
        for side in SIDES:
            folder, out = (number + (side == "ours, cached")) % 2, data / f"{side}-{number}"
            command = command_of(
                side,
                queries=data / f"queries{folder}",
                out=out,
                cache=data / f"cache{number}",
                args=args,
                data=data,
            )
            turns[side].append(measured(command, threads=args.threads, log=data / "log.txt"))
            scores.append((side, folder, np.load(out / "similarity.npy")))
    expected = {folder: values for side, folder, values in scores if side == "published"}
    comparable = [(values, expected[folder]) for _, folder, values in scores if folder in expected]
    difference = max(float(np.abs(values - wanted).max()) for values, wanted in comparable)
    return {side: each[args.warm_ups :] for side, each in turns.items()}, difference


def compare(args, data):
    """Print the table of all sides, their ratios and the largest difference of a best score.

    Raises SystemExit if best scores differ by more than TOLERANCE."""
    from utils.reports.tables import markdown

    measurements, difference = take_turns(args, data)
    rows, median = [], {}
    for side, turns in measurements.items():
        seconds = [s for s, _ in turns]
        median[side] = statistics.median(seconds)
        memory = statistics.median(m for _, m in turns)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        rows.append([side, f"{median[side]:.2f}", spread, f"{memory / 2**20:.0f}"])
    print(
        f"\n{args.network}, {args.queries} queries, {args.training} training images of 256 px, -j"
        f" {args.workers}, {args.threads} threads, {args.rounds} rounds\n"
    )
    print(markdown(("side", "seconds (median)", "range", "peak MiB (median)"), rows))
    print(f"\npublished / ours: {median['published'] / median['ours']:.2f}")
    print(f"ours / ours, cached: {median['ours'] / median['ours, cached']:.2f}")
    print(f"largest difference of a best score: {difference:.1e}")
    if not difference <= TOLERANCE:
        sys.exit(
            f"best scores differ by {difference} between the sides; at most {TOLERANCE} is accepted"
        )


# Reading images alone -----------------------------------------------------------------------------

READ_BATCH = 128


class Decoded:
    """A data set whose item i decodes image i with Pillow and drops the pixels."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        with Image.open(self.images.path(index)) as image:
            image.convert("RGB")
        return index


def bare_pass(images, workers):
    """Decode every image in the workers of a loader, and do nothing else."""
    import torch

    data = Decoded(images)
    for _ in torch.utils.data.DataLoader(data, batch_size=READ_BATCH, num_workers=workers):
        pass


def our_passes(network):
    """Return two functions like bare_pass that read a folder as diff_retrieval.py does, without a
    cache: up to the network, and through the network.

    network: a TorchScript file."""
    import torch

    from utils.retrieval import feature_cache, features
    from utils.retrieval.descriptors import sscd
    from utils.retrieval.descriptors.network import NetworkChoice, Wanted
    from utils.runtime import launching, parallel

    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))
    wanted = Wanted(
        device=processes.device,
        dtype=torch.float32,
        choice=NetworkChoice(arch="resnet50", preset="dcr", weights=str(network)),
    )
    extractors = {"descriptor": sscd.build(wanted)}

    def settings(workers):
        return features.ReaderSettings(
            READ_BATCH, workers, processes, feature_cache.FeatureCache(None, print)
        )

    def read(images, workers):
        for _ in features.batches(images, range(len(images)), extractors, settings(workers)):
            pass

    def extract(images, workers):
        features.extract(images, extractors, settings(workers))

    return read, extract


def decoding(args, data):
    """Print images per second of three passes over the training images, which take turns in this
    process, and the ratios."""
    import torch

    from utils.data import image_sets
    from utils.reports.tables import markdown

    torch.set_num_threads(args.threads)
    images = image_sets.list_images("--val_dir", data / "train")
    reading, extracting = our_passes(data / "network.pt")
    passes = {
        "bare decoding": bare_pass,
        "ours, to the network": reading,
        "ours, through it": extracting,
    }
    turns = {name: [] for name in passes}
    for _ in range(args.rounds + 1):
        for name, read in passes.items():
            started = time.perf_counter()
            read(images, args.workers)
            turns[name].append(len(images) / (time.perf_counter() - started))
    rates = {name: sorted(each[1:]) for name, each in turns.items()}
    rows = [
        [name, f"{statistics.median(r):.0f}", f"{r[0]:.0f} to {r[-1]:.0f}"]
        for name, r in rates.items()
    ]
    print(
        f"\n{len(images)} images of 256 px, -j {args.workers}, {args.threads} threads,"
        f" {args.rounds} rounds\n"
    )
    print(markdown(("pass", "images/s (median)", "range"), rows))
    bare, *ours = (statistics.median(rates[name]) for name in passes)
    print(
        "\nours / bare decoding: {:.2f} to the network, {:.2f} through it".format(
            *(rate / bare for rate in ours)
        )
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--network",
        choices=("free", "resnet50"),
        default="free",
        help="free: costs nothing; resnet50: random weights (default: %(default)s)",
    )
    parser.add_argument("--queries", type=int, default=600, help="generated images")
    parser.add_argument("--training", type=int, default=1500, help="training images")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up")
    parser.add_argument("--warm_ups", type=int, default=1, help="warm-up rounds")
    parser.add_argument("-j", "--workers", type=int, default=2, help="loader workers of each side")
    parser.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS of each side")
    parser.add_argument(
        "--decoding", action="store_true", help="measure only the reading of images"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        write_images(data, queries=args.queries, training=args.training)
        write_network(args.network, data / "network.pt")
        if args.decoding:
            decoding(args, data)
        else:
            compare(args, data)


if __name__ == "__main__":
    main()
