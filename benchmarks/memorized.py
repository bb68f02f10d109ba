"""Measure the search for nearest neighbours in pixels, on which the memorized quantity and nL2
stand: seconds and memory.

    python benchmarks/memorized.py              # 65,536 generated and 50,000 training images, 32 px
    python benchmarks/memorized.py --flip       # the same with mirrored training images
    python benchmarks/memorized.py --generated 2000 --training 5000

Images are synthetic: sums of a few smooth waves with noise, from a seed; one generated image in a
hundred is a training image with a little noise. Pixels are float16, as an evaluation holds them.

Seconds are of the search alone. Memory is the largest resident size of the process, with libraries
and both sets of pixels. The exit status is 1 if it exceeds --most_gib, or if the first --checked
images do not have the ratios that come of all their distances in float64."""

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.retrieval.formulas import memorized, pixel_neighbours  # noqa: E402

WAVES, NOISE, COPY_NOISE = 8, 0.05, 0.01


def images(count, side, seed):
    """Return float16 [count, 3 side side] in [0, 1]: smooth waves with noise."""
    rng = np.random.default_rng(seed)
    at = np.arange(side) / side
    rows = torch.empty(count, 3 * side * side, dtype=torch.float16)
    for first in range(0, count, 1000):
        few = min(1000, count - first)
        frequency = rng.uniform(-3, 3, (few, WAVES, 2))
        height = rng.standard_normal((few, 3, WAVES))
        across, down = (np.exp(2j * np.pi * frequency[..., [d]] * at) for d in (0, 1))
        waves = np.einsum("nkx,nky->nkxy", across, down).real.reshape(few, WAVES, -1)
        pixels = 0.5 + 0.1 * height @ waves + NOISE * rng.standard_normal((few, 3, side * side))
        rows[first : first + few] = torch.from_numpy(pixels.clip(0, 1)).flatten(1).half()
    return rows


def with_copies(generated, training, seed):
    """Make every hundredth generated image a noisy training image, in place."""
    for row in range(0, len(generated), 100):
        noise = torch.randn(training.shape[1], generator=torch.Generator().manual_seed(seed + row))
        copy = training[row % len(training)].float() + COPY_NOISE * noise
        generated[row] = copy.clamp(0, 1).half()


def agrees(generated, training, nearest, checked, flip):
    """Return whether the first images have the ratios of the definition."""
    seen = [training.double()]
    if flip:
        seen.append(pixel_neighbours.mirrored(seen[0]))
    for row in range(min(checked, len(generated))):
        distances = [(each - generated[row].double()).square().sum(1) for each in seen]
        smallest = torch.stack(distances).amin(0).sort().values[: memorized.NEIGHBOURS]
        ratio = memorized.ratios(nearest[row : row + 1])[0]
        if not np.isclose(ratio, float(smallest[0] / smallest.mean()), rtol=1e-9):
            return False
    return True


def main(argv=None):
    """Run the benchmark. argv: its arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generated", type=int, default=65_536)
    parser.add_argument("--training", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--most_gib", type=float, default=2.0)
    parser.add_argument("--checked", type=int, default=5)
    args = parser.parse_args(argv)
    training = images(args.training, args.side, seed=1)
    generated = images(args.generated, args.side, seed=2)
    with_copies(generated, training, seed=3)
    started = time.perf_counter()
    nearest = pixel_neighbours.nearest(
        generated, training, memorized.NEIGHBOURS, flip=args.flip, device=args.device
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rates = memorized.below(memorized.ratios(nearest)).mean(0)
    print(
        f"{args.generated} x {args.training} images of {args.side} px, {torch.get_num_threads()}"
        f" threads, {args.device}: {seconds:.1f} s, {peak:.2f} GiB"
    )
    for name, rate in zip(memorized.threshold_names(), rates, strict=True):
        print(f"mq_rate_{name} {rate:.4f}")
    right = agrees(generated, training, nearest, args.checked, args.flip)
    if not right:
        print("ratios differ from those of all distances in float64")
    if peak > args.most_gib:
        print(f"more than {args.most_gib:g} GiB")
    sys.exit(not right or peak > args.most_gib)


if __name__ == "__main__":
    main()
