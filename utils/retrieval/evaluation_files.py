"""The files of an evaluation: numbers, matches, plots, gallery and page."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.data.image_sets import ImageSet
from utils.files import evaluation_folder, whole_files
from utils.reports import galleries, page, plots, tables
from utils.retrieval import metrics
from utils.retrieval.descriptors import extractors
from utils.retrieval.evaluation_inputs import Query, Sets
from utils.retrieval.evaluation_request import EvaluationRequest
from utils.retrieval.measured import Measured
from utils.retrieval.metric_record import Numbers, words_of
from utils.runtime.errors import DataError

COLUMNS = (
    "query",
    "rank",
    "match",
    "score",
    "prompt",
    "source_image",
    "source_score",
    "seed",
    "duplicated",
    "clipscore",
    "entropy",
    "jpeg_kib",
    "total_variation",
)
NUMBERS = {
    "rank": int,
    "seed": int,
    "duplicated": int,
    "score": float,
    "source_score": float,
    "clipscore": float,
    "entropy": float,
    "jpeg_kib": float,
    "total_variation": float,
    "match_width": int,
    "match_height": int,
}
# column of matches.parquet of an index -> column of the index
INDEX_COLUMNS = {
    "match_caption": "caption",
    "match_url": "url",
    "match_width": "width",
    "match_height": "height",
}
LONG_TABLE = 100_000  # rows beyond which a table is Parquet
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


@dataclass(frozen=True)
class Output:
    """What is written, and where."""

    folder: str | None  # --output_dir; None: below the generated images
    save_scores: bool  # whether similarity.npy is written
    workers: int  # threads that read and draw pictures


@dataclass(frozen=True)
class Evaluated:
    """All that is known when an evaluation is written."""

    measured: Measured
    sets: Sets  # without the images that could not be read
    row: Numbers  # of metrics.json
    skipped: dict[str, str]  # metric -> why it was skipped
    settings: dict[str, Any]


# Where it goes ------------------------------------------------------------------------------------


def folder_for(
    request: EvaluationRequest, output: Output, sets: Sets
) -> evaluation_folder.Evaluation:
    """The folder of the evaluation: --output_dir, or a folder below the generated images whose name
    says what is measured. UsageError if it holds anything but an evaluation."""
    files = planned_files(request, output, sets)
    if output.folder:
        return evaluation_folder.Evaluation(output.folder, files).require_ours()
    choice = request.descriptor
    name = evaluation_folder.evaluation_name(
        pt_style=choice.pt_style,
        arch=choice.arch if choice.pt_style in extractors.USES_ARCH else None,
        preset=choice.preset if choice.pt_style in extractors.USES_PRESET else None,
        similarity_metric=request.comparison.similarity,
        search="ann" if request.comparison.ann else None,
        fingerprint=sets.training.fingerprint,
    )
    path = Path(request.inputs.query_dir) / "evaluations" / name
    return evaluation_folder.Evaluation(path, files).require_ours()


def planned_files(request: EvaluationRequest, output: Output, sets: Sets) -> list[str]:
    """Names of the files and folders of an evaluation, as far as they are known before an image is
    read."""
    matches = len(sets.generated) * min(request.comparison.num_matches, len(sets.training))
    names = ["metrics.json", *matches_files(matches, indexed=sets.indexed is not None)]
    if output.save_scores:
        names.append("similarity.npy")
    return [*names, "plots", "gallery", "report.html"]


def matches_files(count: int, *, indexed: bool) -> list[str]:
    """Names of the tables of `count` matches: CSV up to LONG_TABLE rows; Parquet beyond, and always
    for an index."""
    if count > LONG_TABLE:
        return ["matches.parquet"]
    return ["matches.csv", "matches.parquet"] if indexed else ["matches.csv"]


# Numbers ------------------------------------------------------------------------------------------


def counts_of(measured: Measured, sets: Sets) -> dict[str, int | None]:
    """How many images there are, and of what kind; None where it is not known."""
    searched, duplicated = sets.searched, sets.known.duplicated
    if measured.origins.duplicated is None:
        duplicated = None
    return {
        "generated": len(sets.generated),
        "generated_unreadable": len(sets.generated.bad),
        "training": len(searched),
        "training_unreadable": len(searched.bad),
        "duplicated": None if duplicated is None else len(duplicated),
        "with_source_image": int((measured.origins.sources >= 0).sum()),
        "images_per_prompt": sets.made.images_per_prompt,
        "prompts": len(set(measured.origins.prompts)),
        "with_equal_best_matches": equal_best(measured),
    }


def equal_best(measured: Measured) -> int | None:
    """Number of generated images whose two best matches have the same score, as identical training
    images give; the first in order is then named. None if one match is kept."""
    scores = measured.matches.scores
    if scores.shape[1] < 2:
        return None
    return int((scores[:, 0] == scores[:, 1]).sum())


def match_rows(measured: Measured, sets: Sets, row: Numbers) -> Iterator[dict[str, Any]]:
    """Rows of matches.csv: the k best training images of every generated image.

    `duplicated` and, in the row of the best match, the complexity describe the training image;
    clipscore describes the generated image."""
    scores, indices = measured.matches.scores, measured.matches.indices
    for q, query in enumerate(sets.queries):
        facts = _query_facts(measured, query, q, row)
        for rank, (score, match) in enumerate(zip(scores[q], indices[q], strict=True), 1):
            columns = {
                "query": query.key,
                "rank": rank,
                "match": sets.training.keys[match],
                "score": f"{score:.6f}",
                **facts,
                "duplicated": _duplicated(measured, match, int),
            }
            if measured.has_complexity and rank == 1:
                columns |= {
                    name: f"{getattr(measured.complexity, name)[q]:.6f}"
                    for name in ("entropy", "jpeg_kib", "total_variation")
                }
            yield columns


def _query_facts(measured: Measured, query: Query, q: int, row: Numbers) -> dict[str, Any]:
    """Columns of matches.csv that describe the q-th generated image."""
    source_score = None
    if measured.origins.sources[q] >= 0:
        source_score = f"{measured.origins.source_scores[q]:.6f}"
    clipscores = measured.networks.cosines.get("clipscore") if "clipscore" in row else None
    clipscore = None
    if clipscores is not None and not np.isnan(clipscores[q]):
        clipscore = f"{clipscores[q]:.6f}"
    return {
        "prompt": query.source_prompt,
        "source_image": query.source_image,
        "source_score": source_score,
        "seed": query.seed,
        "clipscore": clipscore,
    }


def _duplicated(measured: Measured, match: int, kind: type) -> Any:
    """Whether a training image was drawn more often, as int or bool; None if that is not known."""
    duplicated = measured.origins.duplicated
    return None if duplicated is None else kind(duplicated[match])


def write_matches(folder: Path, measured: Measured, sets: Sets, row: Numbers) -> None:
    """Write matches.csv; or matches.parquet beyond LONG_TABLE rows. Of an index always write
    matches.parquet too, with what the index knows of the matches."""
    indexed = sets.indexed
    files = matches_files(measured.matches.scores.size, indexed=indexed is not None)
    if "matches.csv" in files:
        tables.write_csv(folder / "matches.csv", COLUMNS, match_rows(measured, sets, row))
    if "matches.parquet" not in files:
        return
    images = indexed.images if indexed is not None else {}
    more = INDEX_COLUMNS if images else {}
    rows = (
        columns | {name: images[columns["match"]][column] for name, column in more.items()}
        for columns in match_rows(measured, sets, row)
    )
    tables.write_parquet(folder / "matches.parquet", (*COLUMNS, *more), rows, numbers=NUMBERS)


# Pictures -----------------------------------------------------------------------------------------


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
    """A line on the pictures that are grey. unshown: holds at least one."""
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
        images = sets.training if training else sets.generated
        return galleries.fitted(to_look_at(images, index, galleries.SIDE, unshown), galleries.SIDE)

    columns = min(GALLERY_COLUMNS, matches.scores.shape[1])

    def draw(queries: np.ndarray) -> Image.Image:
        rows = []
        for q in queries:
            best = zip(matches.indices[q, :columns], matches.scores[q, :columns], strict=True)
            shown = [(picture_of(True, int(m)), s, sets.training.keys[m]) for m, s in best]
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
        (words, *(100 * row[key + end] for end in ("", "_lo", "_hi")))
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
        r["match_picture"]: (sets.training, int(measured.matches.indices[q, 0]))
        for r, q in zip(rows, order, strict=True)
    }
    with ThreadPoolExecutor(max(1, workers)) as pool:
        pictures = pool.map(lambda place: _picture(place[0], place[1], unshown), places.values())
        return rows, dict(zip(places, pictures, strict=True))


def _page_row(measured: Measured, sets: Sets, q: int) -> dict[str, Any]:
    """The row of the page's table for the q-th generated image and its best match."""
    match, query = int(measured.matches.indices[q, 0]), sets.queries[q]
    key = sets.training.keys[match]
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
        "duplicated": _duplicated(measured, match, bool),
        "clipscore": clipscore,
        "query_picture": f"generated/{query.key}",
        "match_picture": f"training/{key}",
    }


# All of it ----------------------------------------------------------------------------------------


def write(
    folder: Path, evaluated: Evaluated, output: Output, *, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Write all files of an evaluation into a folder, which the caller puts in place whole.

    say: takes a line for the user

    Returns: rows of the page's table, {name: picture as JPEG}."""
    measured, sets, row = evaluated.measured, evaluated.sets, evaluated.row
    counts = counts_of(measured, sets)
    whole_files.write_manifest(
        folder / "metrics.json",
        "evaluation",
        **row,
        settings=evaluated.settings,
        counts=counts,
        unreadable=[list(bad) for bad in (*sets.generated.bad, *sets.training.bad)],
        left_out=evaluated.skipped,
    )
    write_matches(folder, measured, sets, row)
    if output.save_scores:
        np.save(folder / "similarity.npy", measured.matches.best.astype(np.float32))
    figures = write_plots(folder / "plots", measured=measured, row=row, settings=evaluated.settings)
    unshown: Unshown = {}
    workers = output.workers
    pages = write_gallery(folder / "gallery", measured, sets, workers=workers, unshown=unshown)
    rows, pictures = page_rows(measured, sets, workers=workers, unshown=unshown)
    skipped = evaluated.skipped
    if unshown:
        say(unshown_in_words(unshown))
        skipped = skipped | {"pictures": unshown_in_words(unshown)}
    words = metrics.all_words()
    page.write_report(
        folder / "report.html",
        metrics=row,
        words={key: words_of(key, words) for key in row},
        settings=evaluated.settings,
        counts=counts,
        left_out=skipped,
        plots=figures,
        pages=pages,
        rows=rows,
        pictures=pictures,
        total=len(sets.queries),
    )
    return rows, pictures
