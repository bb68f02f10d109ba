"""Measure how fast networks turn pictures into features, beside the loops that others use.

    python benchmarks/features.py                          # 1,000 pictures, four networks
    python benchmarks/features.py --images 200 --networks tf_efficientnet_lite0
    python benchmarks/features.py --mixed_precision bf16   # bfloat16 beside float32

The pictures are views of photographs, JPEG of 256 px; weights are random. Each side reads them from
disk, decodes, transforms and computes, in this process and its loader workers; sides take turns.

- ours: what diff_retrieval.py calls, utils.retrieval.features.read_pass;
- before: the same with weights and pixels in torch's usual order and 16 pictures at a time (all of
  a batch for Inception), as this project computed until version 2;
- timm: the loop of timm's own validation script, batches of 128;
- torch-fidelity: its extractor of Inception features, batches of 64.

With --mixed_precision bf16 the sides are ours in float32 and ours in bfloat16. The exit status is 1
if features of float32 differ by more than 1e-4 of their spread."""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

INCEPTION = "inception"
NETWORKS = ("tf_efficientnet_lite0", "resnet50", "vit_small_patch14_dinov2", INCEPTION)
TIMM_BATCH, FIDELITY_BATCH, OUR_BATCH = 128, 64, 128
BEFORE = 16  # pictures at a time
TOLERANCE = 1e-4


def write_pictures(folder, count):
    """Write `count` views of photographs as JPEG of 256 px."""
    import numpy as np

    from benchmarks import retrieval

    rng, sources = np.random.default_rng(0), retrieval.photographs()
    for i in range(count):
        image = retrieval.view(sources[rng.integers(len(sources))], rng)
        image.save(folder / f"{i:05}.jpg", quality=90)


def write_weights(name, folder):
    """Write random weights of a network. Returns: the file."""
    import torch

    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    if name == INCEPTION:
        module = inception_of({})
        for layer in module.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
    else:
        import timm

        module = timm.create_model(name, pretrained=False)
    torch.save(module.state_dict(), path)
    return path


def inception_of(state):
    """torch-fidelity's Inception with the weights of `state`; random ones if it is empty."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Network(FeatureExtractorInceptionV3):
        def load_state_dict(self, given, **options):
            return super().load_state_dict(given, **options) if given else None

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return Network("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)


# Sides --------------------------------------------------------------------------------------------


def extractor_of(name, weights, precision):
    """Our extractor of a network. precision: "no" or "bf16"."""
    import torch

    from utils.retrieval.descriptors import inception, timm_models
    from utils.retrieval.descriptors.network import NetworkChoice, Wanted
    from utils.runtime import devices

    device = torch.device("cpu")
    if name == INCEPTION:
        return inception.build(str(weights), device=device)[0]
    wanted = Wanted(
        device=device,
        dtype=devices.measuring_dtype(precision, device),
        choice=NetworkChoice(arch=name, weights=str(weights)),
    )
    return timm_models.build(wanted)


def ours(name, weights, precision="no"):
    """What diff_retrieval.py computes. Returns: function of (image set, workers) -> [N, D]."""
    from utils.retrieval import feature_cache, features
    from utils.runtime import launching, parallel

    built = extractor_of(name, weights, precision)
    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))

    def run(images, workers):
        cache = feature_cache.FeatureCache(None, print)
        reading = features.ReaderSettings(OUR_BATCH, workers, processes, cache)
        found = features.read_pass(images, range(len(images)), {"": built}, reading)
        return found.features[""]

    return run


def before(name, weights):
    """Ours as it was: weights and pixels in torch's usual order, larger batches."""
    import torch

    from utils.data import transforms
    from utils.retrieval.descriptors import network

    size = OUR_BATCH if name == INCEPTION else BEFORE
    usual = mock.patch.object(
        transforms, "channels_first", lambda p: p.permute(0, 3, 1, 2).contiguous()
    )
    at_a_time = mock.patch.object(network, "CPU_BATCH", size)
    with mock.patch.object(torch, "channels_last", torch.contiguous_format):
        run = ours(name, weights)

    def patched(images, workers):
        with usual, at_a_time:
            return run(images, workers)

    return patched


def timm_loop(name, weights):
    """The loop of timm's validation script: its loader, the model as it is created."""
    import timm
    import torch

    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.reset_classifier(0)
    model.eval()
    config = timm.data.resolve_model_data_config(model)

    def run(images, workers):
        transform = timm.data.create_transform(**config, is_training=False)
        data = Pictures(images, transform)
        with torch.inference_mode():
            loader = DataLoader(data, batch_size=TIMM_BATCH, num_workers=workers)
            return torch.cat([model(batch) for batch in loader])

    return run


def fidelity_loop(name, weights):  # noqa: ARG001  there is one Inception
    """torch-fidelity's own extraction."""
    import torch
    from torch_fidelity import utils as theirs

    network = inception_of(torch.load(weights, weights_only=True)).eval()

    def run(images, workers):
        with mock.patch.object(theirs.os, "cpu_count", return_value=workers):
            data = Pictures(images, theirs.TransformPILtoRGBTensor())
            found = theirs.get_featuresdict_from_dataset(
                data, network, FIDELITY_BATCH, cuda=False, save_cpu_ram=False, verbose=False
            )
        return found["2048"]

    return run


class Pictures(Dataset):
    """The pictures of an image set, opened by Pillow and transformed."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        with Image.open(self.images.path(index)) as image:
            return self.transform(image.convert("RGB"))


# Measuring ----------------------------------------------------------------------------------------


def sides_of(name, weights, precision):
    """{side: what runs it} of a network, ours first."""
    if precision == "bf16":
        return {"ours": ours(name, weights), "ours, bf16": ours(name, weights, "bf16")}
    peer = {"torch-fidelity": fidelity_loop} if name == INCEPTION else {"timm": timm_loop}
    others = {side: build(name, weights) for side, build in peer.items()}
    return {"ours": ours(name, weights), "before": before(name, weights), **others}


def take_turns(sides, images, args):
    """Run all rounds. Returns: {side: seconds of its rounds}, {side: its features}."""
    seconds, found = {side: [] for side in sides}, {}
    for _ in range(args.rounds):
        for side, run in sides.items():
            started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                found[side] = run(images, args.num_workers)
            seconds[side].append(time.perf_counter() - started)
    return seconds, found


def difference(one, other):
    """Largest difference of two sets of features [N, D], by the spread of the first."""
    return ((one - other).abs().max() / one.std()).item()


def row_of(name, side, seconds, found, count):
    """A line of the table: milliseconds a picture, range, ratio of times, difference."""
    each = [1000 * s / count for s in seconds[side]]
    ratio = statistics.median(seconds[side]) / statistics.median(seconds["ours"])
    spread = f"{min(each):.1f} to {max(each):.1f}"
    apart = difference(found["ours"], found[side])
    return [name, side, f"{statistics.median(each):.1f}", spread, f"{ratio:.2f}", f"{apart:.1e}"]


def parsed():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no")
    return parser.parse_args()


def main():
    """Print the table."""
    import torch

    from utils.data import image_sets
    from utils.reports.tables import markdown

    args = parsed()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    rows, wrong = [], False
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = Path(temporary)
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", args.images)
        images = image_sets.list_images("--val_dir", folder / "pictures")
        for name in args.networks.split(","):
            sides = sides_of(name, write_weights(name, folder), args.mixed_precision)
            seconds, found = take_turns(sides, images, args)
            rows += [row_of(name, side, seconds, found, args.images) for side in sides]
            usual = [found[side] for side in sides if side != "ours, bf16"]
            wrong |= any(difference(found["ours"], each) > TOLERANCE for each in usual)
    headings = ("network", "side", "ms a picture", "range", "times ours", "differs by")
    print(f"{args.images} pictures of 256 px, {args.threads} threads, {args.rounds} rounds\n")
    print(markdown(headings, rows))
    if wrong:
        sys.exit(f"features of float32 differ by more than {TOLERANCE} of their spread")


if __name__ == "__main__":
    main()
