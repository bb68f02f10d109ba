"""Pairs of images from the same noise, without and with a mitigation."""

from PIL import Image

from utils.files import whole_files
from utils.reports import galleries

PAIRS = 48  # of a grid: as many as one looks at


def compare(plain, mitigated):
    """Write the pairs of two generations with the same noise as one grid into the second's folder.
    Returns: its path."""
    found = [
        {
            row["index"]: row
            for row in whole_files.read_manifest(f.manifest_path, "generation")["images"]
        }
        for f in (plain, mitigated)
    ]
    shown = sorted(found[1])[:PAIRS]
    rows = []
    for index in shown:
        before, after = found[0][index], found[1][index]
        edited = after["prompt"] if after["prompt"] != after["source_prompt"] else ""
        pair = [
            Image.open(f.path / row["file"]) for f, row in ((plain, before), (mitigated, after))
        ]
        rows.append((pair, after["source_prompt"], edited))
    with whole_files.whole_file(mitigated.path / "compare.png") as part:
        galleries.pair_grid(rows, titles=("without", "with")).save(part, format="PNG")
    return mitigated.path / "compare.png"
