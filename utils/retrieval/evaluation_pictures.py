"""The pictures of an evaluation: gallery, plots, and the rows of the page's table with their small
pictures."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.data.image_sets import ImageSet
from utils.reports import galleries, plots
from utils.retrieval import metrics
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.measured import Measured
from utils.retrieval.metric_record import Numbers
from utils.runtime.errors import DataError

# columns: of matches; matches.csv has all
GALLERY_ROWS, GALLERY_COLUMNS, GALLERY_PAGES = 10, 10, 20
# the page's table holds the pictures of that many queries and their matches: some 10 MB
PAGE_ROWS, PICTURE_SIDE = 500, 160
# most letters of a prompt or a caption in the page's table: captions of strangers may be very long
PAGE_LETTERS = 500
GREY = (200, 200, 200)  # stands for a picture that cannot be read
PAGE_GALLERY = 5  # pages of the gallery that the page holds; the others are files beside it
AXES = {
    "ent": "entropy of the matched image (nats)",
    "comp": "its size as JPEG (KiB)",
    "tvl": "its total variation (sum of differences × 1e-4)",
    "mixed": "entropy × √JPEG size",
}

Unshown = dict[str, str]  # key of an image whose picture could not be read -> why


def to_look_at(images: ImageSet, index: int, side: int, unshown: Unshown) -> Image.Image:
    """A picture of an image that was read before, at least `side` pixels wide and high, PIL RGB.

    It is grey if the image, or the tar file that held it, is gone or has changed since: the numbers
    are worth more than a picture. unshown: is then extended by {key: why}."""
    try:
        return images.open(index, at_least=side)
    except (DataError, OSError) as error:
        why = str(error).removeprefix(f"{images.root / images.keys[index]}: ")
        unshown[images.keys[index]] = why
        return Image.new("RGB", (side, side), GREY)


def unshown_in_words(unshown: Unshown) -> str:
    """A line that counts the grey pictures. unshown: holds at least one."""
    key, why = next(iter(unshown.items()))
    return f"pictures that cannot be read now are grey: {len(unshown)}, first {key!r} ({why})"


def write_gallery(
    folder: Path, measured: Measured, sets: Sets, *, workers: int, unshown: Unshown
) -> list[bytes]:
    """Write the gallery as PNG: pages of ten queries with their matches, ten at most, the most
    similar queries first, 20 pages at most.

    unshown: as `to_look_at`

    Returns: the first PAGE_GALLERY pages as JPEG, for report.html."""
    matches = measured.matches
    order = np.argsort(-matches.best, kind="stable")[: GALLERY_ROWS * GALLERY_PAGES]
    pages = [order[start : start + GALLERY_ROWS] for start in range(0, len(order), GALLERY_ROWS)]

    @functools.lru_cache(2000)  # many queries may have one training image; 50 KB each
    def picture_of(training: bool, index: int) -> Image.Image:
        images = sets.training_images if training else sets.generated
        return galleries.fitted(to_look_at(images, index, galleries.SIDE, unshown), galleries.SIDE)

    columns = min(GALLERY_COLUMNS, matches.scores.shape[1])

    def draw(queries: np.ndarray) -> Image.Image:
        rows = []
        for q in queries:
            best = zip(matches.indices[q, :columns], matches.scores[q, :columns], strict=True)
            shown = [(picture_of(True, int(m)), s, sets.training_images.keys[m]) for m, s in best]
            label = sets.queries[q].key.rpartition("/")[2]
            rows.append((picture_of(False, int(q)), label, shown))
        return galleries.match_page(rows, threshold=matches.threshold, columns=columns)

    return galleries.write_pages(
        folder, pages, draw, workers=workers, keep=_jpeg, first=PAGE_GALLERY
    )


def write_plots(
    folder: Path, *, measured: Measured, row: Numbers, settings: Mapping[str, Any]
) -> list[tuple[Path, str]]:
    """Draw the histogram, and the scatter plots and bars for which there are numbers.

    Returns: [(PNG, words for those who cannot see it)]."""
    histogram = folder / "similarity.png"
    plots.similarity_histogram(
        histogram,
        measured.matches.best,
        measured.background if "bg_mean" in row else None,
        threshold=measured.matches.threshold,
        descriptor=settings["pt_style"],
    )
    return [
        (histogram, "histogram of similarities to the nearest training image"),
        *_copy_share_plot(folder, row),
        *_complexity_plots(folder, measured, row),
    ]


def _copy_share_plot(folder: Path, row: Numbers) -> Iterator[tuple[Path, str]]:
    """Draw bars of the shares of copies, in per cent, if there are any."""
    shares = {
        "copy_share": "all",
        "copy_share_dup": "prompts of\nduplicated images",
        "copy_share_nodup": "other prompts",
    }
    bars = [
        (words, 100 * row[key], 100 * row[f"{key}_lo"], 100 * row[f"{key}_hi"])
        for key, words in shares.items()
        if key in row
    ]
    if bars:
        path = folder / "copy_share.png"
        plots.bars(path, bars, ylabel="images that count as copies, %", limit=100)
        yield path, "share of copies with 95 % intervals"


def _complexity_plots(folder: Path, measured: Measured, row: Numbers) -> Iterator[tuple[Path, str]]:
    """Draw the similarity against each complexity that has a correlation."""
    for name, attribute in metrics.CORRELATED.items():
        if f"cc_{name}" in row:
            path = folder / f"complexity_{name}.png"
            plots.scatter(
                path,
                getattr(measured.complexity, attribute),
                measured.matches.best,
                xlabel=AXES[name],
                ylabel="similarity",
                r=row[f"cc_{name}"],
                p=row[f"pval_{name}"],
            )
            yield path, f"similarity against {AXES[name]}"


# Page ---------------------------------------------------------------------------------------------


def _jpeg(image: Image.Image) -> bytes:
    """A PIL RGB image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _picture(images: ImageSet, index: int, unshown: Unshown) -> bytes:
    """A small picture of an image as JPEG."""
    image = to_look_at(images, index, PICTURE_SIDE, unshown)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return _jpeg(image)


def _beginning(text: str | None) -> str | None:
    """The first PAGE_LETTERS letters of a text; the tables of matches keep all."""
    if text is None or len(text) <= PAGE_LETTERS:
        return text
    return text[: PAGE_LETTERS - 1] + "…"


def page_rows(
    measured: Measured, sets: Sets, *, workers: int, unshown: Unshown
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Rows of the page's table, the most similar first, and the pictures that they name.

    unshown: as `to_look_at`

    Returns: rows, {name: JPEG}."""
    order = [int(q) for q in np.argsort(-measured.matches.best, kind="stable")[:PAGE_ROWS]]
    rows = [_page_row(measured, sets, q) for q in order]
    # name of a picture -> where its image is
    places = {r["query_picture"]: (sets.generated, q) for r, q in zip(rows, order, strict=True)}
    places |= {
        r["match_picture"]: (sets.training_images, int(measured.matches.indices[q, 0]))
        for r, q in zip(rows, order, strict=True)
    }
    with ThreadPoolExecutor(max(1, workers)) as pool:
        pictures = pool.map(lambda place: _picture(place[0], place[1], unshown), places.values())
        return rows, dict(zip(places, pictures, strict=True))


def _page_row(measured: Measured, sets: Sets, q: int) -> dict[str, Any]:
    """The row of the page's table for the q-th generated image and its best match."""
    match, query = int(measured.matches.indices[q, 0]), sets.queries[q]
    key = sets.training_images.keys[match]
    source_score = None
    if measured.origins.sources[q] >= 0:
        source_score = round(float(measured.origins.source_scores[q]), 6)
    clipscores = measured.networks.cosines.get("clipscore")
    clipscore = None
    if clipscores is not None and not np.isnan(clipscores[q]):
        clipscore = round(float(clipscores[q]), 6)
    return {
        "query": query.key,
        "match": key,
        "score": round(float(measured.matches.best[q]), 6),
        "prompt": _beginning(query.source_prompt),
        "caption": _beginning(sets.known.captions.get(key)),
        "source_image": query.source_image,
        "seed": query.seed,
        "source_score": source_score,
        "duplicated": measured.origins.is_duplicated(match),
        "clipscore": clipscore,
        "query_picture": f"generated/{query.key}",
        "match_picture": f"training/{key}",
    }
