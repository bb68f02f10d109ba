"""The published retrieval procedure against diff_retrieval.py in one run: from start to finished
report, every process.

    python benchmarks/retrieval.py                       600 queries, 1,500 training images, a
descriptor that costs nothing
    python benchmarks/retrieval.py --network resnet50    the same, a ResNet-50 with random weights
    python benchmarks/retrieval.py --decoding            reading alone, against bare decoding

Three sides take turns, each turn a process of its own; a first turn of each warms up. Memory is
that of a process and its workers together, what they share counted once. - published: a pass over
each folder for descriptors, whole matrices of similarities (queries with training images, training
  images with each other), all of the first one sorted; the complexity of matched images in a pass
that decodes them again;
  histogram, four scatter plots; gallery pages that search again and open the images again, drawn by
matplotlib at 20 x 20
  inches. Batches of 64.
- ours: diff_retrieval.py on the same folders with an empty cache.
- ours, cached: another folder of queries, with what the turn before kept of the training images.
All take the same TorchScript file, transform, workers and threads, compute in float32, show ten
matches a query and write 20 gallery pages at most, as published. Both of our sides' best scores
must be the published ones, else the status is 1. Inception and CLIP run on no side. The published
script also imports pandas, seaborn and OpenCV: this side does not."""

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

# carried by scikit-image: portraits, things, the sky, tissue; in colour
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
TOLERANCE = 1e-4  # of a score: what another order of sums in float32 may change
PUBLISHED = Path(__file__).with_name("published_retrieval.py")
MATCHES = 10  # of a query, as published


# The images and the networks ----------------------------------------------------------------------


def photographs():
    """The photographs as PIL RGB; scikit-image itself is not imported."""
    from PIL import Image

    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


def view(photograph, rng, side=256):
    """A random square of a photograph, half of them mirrored, scaled to `side` pixels."""
    from PIL import Image

    size = int(min(photograph.size) * rng.uniform(0.3, 1.0))
    left, top = (int(rng.integers(v - size + 1)) for v in photograph.size)
    box = (left, top, left + size, top + size)
    shown = photograph.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else shown


def with_noise(image, rng, scale=8):
    """The image with Gaussian noise of `scale` of 255."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image, float) + rng.normal(0, scale, (image.height, image.width, 3))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def write_images(out, *, queries, training, seed=0):
    """`training` views in out/train; in out/queries0 and out/queries1 `queries` each, every other a
    noisy copy of one."""
    import numpy as np
    from PIL import Image

    rng, sources = np.random.default_rng(seed), photographs()
    for name, count in (("train", training), ("queries0", queries), ("queries1", queries)):
        (out / name).mkdir()
        for i in range(count):
            if name == "train" or i % 2:
                image = view(sources[rng.integers(len(sources))], rng)
            else:
                image = with_noise(
                    Image.open(out / "train" / f"{rng.integers(training):05}.jpg"), rng
                )
            image.save(out / name / f"{i:05}.jpg", quality=90)


def write_network(name, path):
    """A TorchScript file of [B, 3, H, W] -> [B, D]: `free`, cells of an 8 x 8 grid, or `resnet50`,
    random, 512-d."""
    import torch

    torch.manual_seed(0)
    if name == "free":
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten())
    else:
        from torchvision.models import resnet50

        network = resnet50(weights=None, num_classes=512)
    with warnings.catch_warnings():
        # torch deprecates TorchScript, the form that SSCD has
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.trace(network.eval(), torch.rand(2, 3, 224, 224)).save(str(path))


# Measuring ----------------------------------------------------------------------------------------


def held(pid):
    """Bytes that a process and its workers hold; what they share is counted once."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                info = member.memory_full_info()
                total += getattr(info, "pss", info.uss)  # only Linux tells shares of shared pages
    return total


def measured(command, *, threads, log):
    """Run a command to its end. Returns: (seconds, peak bytes); SystemExit with what it said when
    it fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    peak, started = 0, time.perf_counter()
    with open(log, "w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                peak = max(peak, held(process.pid))
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
    """The command line of a turn. queries: the folder; out: a new one; cache: of our sides."""
    folders = [
        "--query_dir",
        str(queries),
        "--val_dir",
        str(data / "train"),
        "--weights",
        str(data / "network.pt"),
        "-j",
        str(args.workers),
    ]
    if side == "published":
        return [sys.executable, str(PUBLISHED), *folders, "--out", str(out)]
    return [
        sys.executable,
        str(ROOT / "diff_retrieval.py"),
        "--pt_style",
        "sscd",
        *folders,
        "--metrics",
        "similarity,background,complexity",
        "--num_matches",
        str(MATCHES),
        "--mixed_precision",
        "no",
        "--report_to",
        "none",
        "--cache_dir",
        str(cache),
        "--output_dir",
        str(out),
    ]


def take_turns(args, data):
    """All rounds. Returns: {side: [(seconds, bytes)]} without the warm-up, and the largest
    difference of a best score.

    The two folders of queries change places every round, so that scores found with a cache have
    published ones to equal, from two rounds on."""
    import numpy as np

    found, scores = {side: [] for side in SIDES}, []
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
            found[side].append(measured(command, threads=args.threads, log=data / "log.txt"))
            scores.append((side, folder, np.load(out / "similarity.npy")))
    expected = {folder: values for side, folder, values in scores if side == "published"}
    comparable = [(values, expected[folder]) for _, folder, values in scores if folder in expected]
    difference = max(float(np.abs(values - wanted).max()) for values, wanted in comparable)
    return {side: turns[args.warm_ups :] for side, turns in found.items()}, difference


def compare(args, data):
    """The table of all sides, ratios and the agreement of scores; SystemExit when they differ."""
    from utils.reports.tables import markdown

    found, difference = take_turns(args, data)
    rows, median = [], {}
    for side, turns in found.items():
        seconds = [s for s, _ in turns]
        median[side] = statistics.median(seconds)
        memory = statistics.median(m for _, m in turns)
        rows.append(
            [
                side,
                f"{median[side]:.2f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                f"{memory / 2**20:.0f}",
            ]
        )
    print(
        f"\n{args.network}, {args.queries} queries, {args.training} training images of 256 px, -j"
        f" {args.workers}, {args.threads} threads, {args.rounds} rounds\n"
    )
    print(markdown(("side", "seconds (median)", "range", "peak MiB (median)"), rows))
    print(f"\npublished / ours: {median['published'] / median['ours']:.2f}")
    print(f"ours / ours, cached: {median['ours'] / median['ours, cached']:.2f}")
    print(f"largest difference of a best score: {difference:.1e}")
    if not difference <= TOLERANCE:
        sys.exit(f"the sides' best scores differ by {difference}; at most {TOLERANCE} was expected")


# Reading alone ------------------------------------------------------------------------------------

READ_BATCH = 128


class Decoded:
    """Item i: image i is decoded by Pillow and dropped."""

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
    """Decode every image in a loader's workers, and nothing else."""
    import torch

    for _ in torch.utils.data.DataLoader(
        Decoded(images), batch_size=READ_BATCH, num_workers=workers
    ):
        pass


def our_passes(network):
    """What diff_retrieval.py does to a folder, nothing kept: up to the network, and with it.
    network: a TorchScript file.

    Returns: two passes as bare_pass.
    """
    import torch

    from utils.retrieval import feature_cache, features
    from utils.retrieval.descriptors import sscd
    from utils.retrieval.descriptors.network import Wanted
    from utils.runtime import launching, parallel

    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))
    wanted = Wanted(
        device=processes.device,
        dtype=torch.float32,
        arch="resnet50",
        preset="dcr",
        weights=str(network),
    )
    extractors = {"descriptor": sscd.build(wanted)}

    def how(workers):
        return features.ReaderSettings(
            READ_BATCH, workers, processes, feature_cache.FeatureCache(None, print)
        )

    def read(images, workers):
        for _ in features.batches(images, range(len(images)), extractors, how(workers)):
            pass

    def extract(images, workers):
        features.extract(images, extractors, how(workers))

    return read, extract


def decoding(args, data):
    """Images a second of both passes over the training images, in turns in this process; the
    ratio."""
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
    found = {name: [] for name in passes}
    for _ in range(args.rounds + 1):
        for name, read in passes.items():
            started = time.perf_counter()
            read(images, args.workers)
            found[name].append(len(images) / (time.perf_counter() - started))
    rates = {name: sorted(turns[1:]) for name, turns in found.items()}
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
    parser.add_argument("--network", choices=("free", "resnet50"), default="free")
    parser.add_argument("--queries", type=int, default=600)
    parser.add_argument("--training", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3, help="that count")
    parser.add_argument("--warm_ups", type=int, default=1, help="rounds before them")
    parser.add_argument("-j", "--workers", type=int, default=2, help="of every side")
    parser.add_argument("--threads", type=int, default=2, help="OMP_NUM_THREADS of every side")
    parser.add_argument("--decoding", action="store_true", help="measure reading alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch)
        write_images(data, queries=args.queries, training=args.training)
        write_network(args.network, data / "network.pt")
        (decoding if args.decoding else compare)(args, data)


if __name__ == "__main__":
    main()
