"""The pictures of an evaluation: gallery, plots, and the rows of the page's table with their small
pictures."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.data.image_sets import ImageSet
from utils.reports import aligned_pictures, galleries, page, plots
from utils.reports.page_words import COUNTERFACTUAL
from utils.retrieval import gallery_pages, metrics, second_look_shown
from utils.retrieval.aligning.aligned_pair import AlignedPair
from utils.retrieval.decided import ALIGNED, UNDECIDED, Decided, best_aligned, order_shown
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.measured import Measured
from utils.retrieval.metric_record import Numbers
from utils.runtime.errors import DataError

# columns: of matches; matches.csv has all
GALLERY_ROWS, GALLERY_COLUMNS, GALLERY_PAGES = 10, 10, 20
# the page's table holds the pictures of that many queries and their matches: some 10 MB, twice as
# many with maps of agreement
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

Pictures = dict[str, bytes]  # {name: JPEG}
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
    folder: Path,
    measured: Measured,
    sets: Sets,
    *,
    workers: int,
    unshown: Unshown,
    decided: Decided = UNDECIDED,
) -> list[bytes]:
    """Write the gallery as PNG: pages of ten queries with their matches, ten at most, in the order
    of `order_shown`, 20 pages at most. Where the second look ran, each row begins with the best
    aligned pair.

    unshown: as `to_look_at`

    Returns: the first PAGE_GALLERY pages as JPEG, for report.html."""
    order = order_shown(measured)[: GALLERY_ROWS * GALLERY_PAGES]
    pages = [order[start : start + GALLERY_ROWS] for start in range(0, len(order), GALLERY_ROWS)]

    @functools.lru_cache(2000)  # many queries may have one training image; 50 KB each
    def fitted(training: bool, index: int) -> gallery_pages.Fitted:
        images = sets.training_images if training else sets.generated
        image = to_look_at(images, index, galleries.SIDE, unshown)
        return galleries.fitted(image, galleries.SIDE), image.size

    columns = min(GALLERY_COLUMNS, measured.matches.scores.shape[1])
    drawing = gallery_pages.GalleryPages(measured, sets, decided, fitted, columns)
    draw = drawing.plain if measured.second_look is None else drawing.aligned
    return galleries.write_pages(
        folder, pages, draw, workers=workers, keep=_jpeg, first=PAGE_GALLERY
    )


def write_plots(
    folder: Path,
    *,
    measured: Measured,
    row: Numbers,
    settings: Mapping[str, Any],
    decided: Decided = UNDECIDED,
) -> list[tuple[Path, str]]:
    """Draw the histograms, and the scatter plots and bars for which there are numbers.

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
        *_verdict_plot(folder, measured, decided),
        *_copy_share_plot(folder, row, counterfactual=bool(settings.get(COUNTERFACTUAL))),
        *_complexity_plots(folder, measured, row),
    ]


def _verdict_plot(folder: Path, measured: Measured, decided: Decided) -> Iterator[tuple[Path, str]]:
    """Draw the histogram of the scores that decide, where the second look ran or a threshold was
    calibrated."""
    verdict, innocents = decided.verdict, decided.innocents
    if measured.second_look is None and verdict is None:
        return
    score = ALIGNED if verdict is None else verdict.threshold_of
    scores = best_aligned(measured) if score == ALIGNED else measured.matches.best
    scores = scores[~np.isnan(scores)]
    if len(scores):
        path = folder / page.VERDICT_PLOT
        plots.verdict_histogram(
            path,
            scores,
            None if innocents is None else innocents.scores,
            threshold=None if verdict is None else verdict.threshold,
            interval=None if verdict is None else (verdict.threshold_lo, verdict.threshold_hi),
            score=score,
        )
        yield path, f"histogram of the scores that decide ({score}), of generations and innocents"


def _copy_share_plot(
    folder: Path, row: Numbers, *, counterfactual: bool
) -> Iterator[tuple[Path, str]]:
    """Draw bars of the shares of copies, in per cent, if there are any. counterfactual: whether
    the run duplicated no image."""
    of_duplicated = (
        "images that the seed\nwould duplicate" if counterfactual else "duplicated images"
    )
    shares = {
        "copy_share_calibrated": "all",
        "copy_share": "all, fixed\nthreshold" if "copy_share_calibrated" in row else "all",
        "copy_share_dup": f"prompts of\n{of_duplicated}",
        "copy_share_nodup": "other prompts",
        "part_copied_share": "a part\ncopied",
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


def _small(images: ImageSet, index: int, unshown: Unshown) -> Image.Image:
    """An image as the page shows it, PIL RGB."""
    image = to_look_at(images, index, PICTURE_SIDE, unshown)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return image


def _beginning(text: str | None) -> str | None:
    """The first PAGE_LETTERS letters of a text; the tables of matches keep all."""
    if text is None or len(text) <= PAGE_LETTERS:
        return text
    return text[: PAGE_LETTERS - 1] + "…"


def page_rows(
    measured: Measured,
    sets: Sets,
    *,
    workers: int,
    unshown: Unshown,
    decided: Decided = UNDECIDED,
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Rows of the page's table in the order of `order_shown`, and the pictures that they name.

    unshown: as `to_look_at`

    Returns: rows, {name: JPEG}."""
    order = [int(q) for q in order_shown(measured)[:PAGE_ROWS]]
    rows = [_page_row(measured, sets, q) for q in order]
    if measured.second_look is not None or decided.is_known:
        copies = decided.copies(measured)
        for q, row in zip(order, rows, strict=True):
            row |= second_look_shown.page_columns(measured, sets, decided, q)
            row["aligned_caption"] = _beginning(row["aligned_caption"])
            row["copy"] = None if copies is None else bool(copies[q])
            row["part"] = decided.is_part(q)
    draws: dict[str, Callable[[], Pictures]] = {}  # name of a picture -> what draws it
    for q, row in zip(order, rows, strict=True):
        draws |= _drawn_for(row, measured, sets, q, unshown)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        drawn = pool.map(lambda draw: draw(), draws.values())
        return rows, {name: data for pictures in drawn for name, data in pictures.items()}


def _drawn_for(
    row: dict[str, Any], measured: Measured, sets: Sets, q: int, unshown: Unshown
) -> dict[str, Callable[[], Pictures]]:
    """What draws the pictures that a row names, each by the name of a picture."""
    match, training = int(measured.matches.indices[q, 0]), sets.training_images
    places = {row["query_picture"]: (sets.generated, q), row["match_picture"]: (training, match)}
    pair = second_look_shown.pair_of(measured, q)
    if pair is not None:
        places[row["aligned_picture"]] = (training, pair.match)
    draws: dict[str, Callable[[], Pictures]] = {
        name: functools.partial(_picture, name, *place, unshown) for name, place in places.items()
    }
    if pair is not None:
        draws[row["agreement_picture"]] = functools.partial(_maps, row, pair, sets, q, unshown)
    return draws


def _picture(name: str, images: ImageSet, index: int, unshown: Unshown) -> Pictures:
    """A small picture of an image."""
    return {name: _jpeg(_small(images, index, unshown))}


def _maps(row: dict[str, Any], pair: AlignedPair, sets: Sets, q: int, unshown: Unshown) -> Pictures:
    """Both images of a pair with the map of agreement."""
    query = _small(sets.generated, q, unshown)
    match = _small(sets.training_images, pair.match, unshown)
    in_query = aligned_pictures.agreement_in_query(
        pair.agreement, (pair.box_query, query.size), (pair.box_match, match.size)
    )
    return {
        row["agreement_picture"]: _jpeg(aligned_pictures.agreement_over(match, pair.agreement)),
        row["query_agreement_picture"]: _jpeg(aligned_pictures.agreement_over(query, in_query)),
    }


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
