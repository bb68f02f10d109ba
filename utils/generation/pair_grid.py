"""A grid of image pairs from the same noise, without and with a mitigation, beside the training
pictures of their prompts where these are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from utils.files import whole_files
from utils.files.generation_folder import Generation, ManifestRow
from utils.generation import source_pictures
from utils.reports import galleries

PAIRS = 48  # in a grid: about as many as one looks at
TITLES = ("without", "with")
SOURCE = "training picture"  # title above those of the prompts

Cell = tuple[tuple[Image.Image | None, ...], str, str]  # pictures, lines below them


def _rows_by_index(folder: Generation) -> dict[int, ManifestRow]:
    manifest = whole_files.read_manifest(folder.manifest_path, "generation")
    return {row["index"]: row for row in manifest["images"]}


def compare(
    plain: Generation, mitigated: Generation, *, folders: Sequence[str | Path | None] = ()
) -> Path:
    """Write the first pairs of two generations into `mitigated` as one grid, compare.png: three
    columns with the training picture of each prompt, where one is known; else two.

    Both are finished and were made from the same noise. folders: where training pictures are looked
    for, see `source_pictures.find`. Returns: the path of the grid.
    """
    plain_rows, mitigated_rows = _rows_by_index(plain), _rows_by_index(mitigated)
    shown = [mitigated_rows[index] for index in sorted(mitigated_rows)[:PAIRS]]
    sources = _sources(shown, folders)
    titles = (SOURCE, *TITLES) if any(sources) else TITLES
    cells: list[Cell] = []
    for after, source in zip(shown, sources, strict=True):
        before = plain_rows[after["index"]]
        edited = after["prompt"] if after["prompt"] != after["source_prompt"] else ""
        left = Image.open(plain.path / before["file"])
        right = Image.open(mitigated.path / after["file"])
        pictures = (source, left, right)[-len(titles) :]
        cells.append((pictures, after["source_prompt"], edited))
    grid = mitigated.path / "compare.png"
    with whole_files.whole_file(grid) as part:
        galleries.pair_grid(cells, titles=titles).save(part, format="PNG")
    return grid


def _sources(
    rows: Sequence[ManifestRow], folders: Sequence[str | Path | None]
) -> list[Image.Image | None]:
    """The training picture of each row's prompt, small; None where it is not known."""
    names = [row.get("source_image") for row in rows]
    found = source_pictures.find(names, folders)
    opened = (source_pictures.opened(found, name, galleries.SIDE) for name in names)
    return [None if image is None else galleries.fitted(image, galleries.SIDE) for image in opened]
