"""Run the published retrieval procedure, plainly written. benchmarks/retrieval.py runs it in a
process of its own.

It does what the script of the first paper does, without the metrics that need Inception or CLIP:
one pass over each folder for descriptors; the whole matrix of similarities, fully sorted;
complexity of the matched images, which are decoded again; plots; and gallery pages that search
again and open their images again, drawn by matplotlib at 20 x 20 inches. Nothing is slowed down on
purpose."""

import argparse
import io
import json
from pathlib import Path

PAGES, PAGE_ROWS, MATCHES = 20, 10, 10


class Folder:
    """A data set whose item i is image i of a folder, sorted by name, transformed."""

    def __init__(self, root, transform):
        self.paths, self.transform = sorted(Path(root).iterdir()), transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def descriptors(folder, network, device, workers):
    """Compute descriptors in one pass. Returns: [N, D], normalised, on the CPU."""
    import torch

    loader = torch.utils.data.DataLoader(
        folder, batch_size=64, num_workers=workers, pin_memory=device.type == "cuda"
    )
    with torch.no_grad():
        rows = torch.cat([network(pixels.to(device)).float().cpu() for pixels in loader])
    return torch.nn.functional.normalize(rows, dim=1)


def complexity(image):
    """Return the entropy in nats, the JPEG size in KiB and the total variation of a PIL image."""
    import numpy as np
    from skimage.color import rgb2gray
    from skimage.measure import shannon_entropy

    pixels, encoded = np.asarray(image), io.BytesIO()
    image.save(encoded, "JPEG", quality=90)
    grey = (rgb2gray(pixels) * 255).round().astype(np.uint8)
    steps = sum(np.abs(np.diff(pixels.astype(np.int16), axis=axis)).sum() for axis in (0, 1))
    return shannon_entropy(grey, base=np.e), len(encoded.getvalue()) / 1024, steps * 1e-4


def draw_plots(out, best, background, measures):
    """Draw a histogram, and a scatter plot of each measure against the best scores.

    Returns: {measure: (r, p)}."""
    import matplotlib
    from scipy.stats import pearsonr

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.hist(best, 200, range=(0, 1), alpha=0.5, density=True, label="generated, training")
    pyplot.hist(background, 200, range=(0, 1), alpha=0.5, density=True, label="training, training")
    pyplot.legend()
    pyplot.savefig(out / "histogram.png")
    pyplot.close()
    correlations = {}
    for name, values in measures.items():
        correlations[name] = tuple(float(v) for v in pearsonr(values, best))
        pyplot.scatter(values, best)
        pyplot.title("r = {:.3f}, p = {:.3g}".format(*correlations[name]))
        pyplot.savefig(out / f"{name}.png")
        pyplot.close()
    return correlations


def draw_page(path, rows):
    """Draw a gallery page as a PNG file.

    rows: a list per query with the query and its matches, tensors [3, H, W] in [-1, 1]."""
    import numpy as np
    from matplotlib import pyplot

    lines = [
        np.concatenate([image.numpy().transpose(1, 2, 0) for image in row], axis=1) for row in rows
    ]
    pyplot.figure(figsize=(20, 2 * PAGE_ROWS))
    pyplot.imshow((np.concatenate(lines) * 0.5 + 0.5).clip(0, 1))
    pyplot.axis("off")
    pyplot.savefig(path, bbox_inches="tight")
    pyplot.close()


def published(args):
    """Run the published side. It writes its files to the new folder args.out."""
    import numpy as np
    import torch
    from torchvision import transforms

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = torch.jit.load(args.weights, map_location=device).eval()
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    queries, training = Folder(args.query_dir, transform), Folder(args.val_dir, transform)
    generated, known = (
        descriptors(folder, network, device, args.workers) for folder in (queries, training)
    )

    similarity, among = generated @ known.T, known @ known.T
    nearest = similarity.argsort(dim=1, descending=True)[:, 0]
    best = similarity.gather(1, nearest[:, None])[:, 0]
    background = among.topk(2).values[:, 1]  # the first one is the image itself

    out = Path(args.out)
    out.mkdir()
    measures = matched_complexity([training.paths[i] for i in nearest])
    correlations = draw_plots(out, best.numpy(), background.numpy(), measures)
    draw_gallery(out, queries, training, similarity, best)
    np.save(out / "similarity.npy", best.numpy())
    write_metrics(out, best.numpy(), background.numpy(), correlations)


def matched_complexity(paths):
    """Decode the matched images again. Returns: {measure: [Q] values}."""
    import numpy as np
    from PIL import Image
    from torchvision import transforms

    small = transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224)])
    matched = [complexity(small(Image.open(path).convert("RGB"))) for path in paths]
    entropy, size, variation = np.array(matched).T
    mixed = entropy * size**0.5
    return {"entropy": entropy, "size": size, "variation": variation, "mixed": mixed}


def draw_gallery(out, queries, training, similarity, best):
    """Draw the gallery pages, queries with the highest scores first."""
    order = best.argsort(descending=True)[: PAGES * PAGE_ROWS]
    for number, rows in enumerate(order.split(PAGE_ROWS)):
        matches = similarity.topk(min(MATCHES, len(training))).indices
        shown = [[queries[int(q)], *(training[int(m)] for m in matches[q])] for q in rows]
        draw_page(out / f"page{number}.png", shown)


def write_metrics(out, best, background, correlations):
    """Write metrics.json: correlations, and mean, deviation and percentiles of both scores."""
    import numpy as np

    row = {
        f"{name}_{what}": value
        for name, pair in correlations.items()
        for what, value in zip("rp", pair, strict=True)
    }
    for name, scores in (("sim", best), ("bg", background)):
        row |= {f"{name}_mean": float(scores.mean()), f"{name}_std": float(scores.std())}
        row |= {f"{name}_{p}pc": float(np.percentile(scores, p)) for p in (75, 90, 95)}
    (out / "metrics.json").write_text(json.dumps(row, indent=1))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, what in (
        ("query_dir", "folder of generated images"),
        ("val_dir", "folder of training images"),
        ("weights", "TorchScript file of the descriptor network"),
        ("out", "output folder; it may not exist yet"),
    ):
        parser.add_argument(f"--{name}", required=True, help=what)
    parser.add_argument("-j", "--workers", type=int, default=2, help="loader workers")
    published(parser.parse_args(argv))


if __name__ == "__main__":
    main()
