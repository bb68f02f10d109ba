"""A grid of image pairs from the same noise, without and with a mitigation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from utils.files import whole_files
from utils.files.generation_folder import Generation
from utils.reports import galleries

PAIRS = 48  # in a grid: about as many as one looks at


def _rows_by_index(folder: Generation) -> dict[int, dict]:
    manifest = whole_files.read_manifest(folder.manifest_path, "generation")
    return {row["index"]: row for row in manifest["images"]}


def compare(plain: Generation, mitigated: Generation) -> Path:
    """Write the first pairs of two generations into `mitigated` as one grid, compare.png.

    Both are finished and were made from the same noise. Returns: the path of the grid.
    """
    plain_rows, mitigated_rows = _rows_by_index(plain), _rows_by_index(mitigated)
    cells: list[tuple[tuple[Image.Image, Image.Image], str, str]] = []
    for index in sorted(mitigated_rows)[:PAIRS]:
        before, after = plain_rows[index], mitigated_rows[index]
        edited = after["prompt"] if after["prompt"] != after["source_prompt"] else ""
        left = Image.open(plain.path / before["file"])
        right = Image.open(mitigated.path / after["file"])
        cells.append(((left, right), after["source_prompt"], edited))
    grid = mitigated.path / "compare.png"
    with whole_files.whole_file(grid) as part:
        galleries.pair_grid(cells, titles=("without", "with")).save(part, format="PNG")
    return grid
