"""The files of an evaluation: where they go, numbers, matches, and all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import evaluation_folder, whole_files
from utils.reports import page, tables
from utils.retrieval import evaluation_pictures, metrics, second_look_shown, show_nothing
from utils.retrieval.aligned_columns import aligned_columns, unranked
from utils.retrieval.decided import UNDECIDED, Decided
from utils.retrieval.descriptors import extractors
from utils.retrieval.evaluation_request import EvaluationRequest
from utils.retrieval.evaluation_sets import Query, Sets
from utils.retrieval.measured import Measured
from utils.retrieval.metric_record import Numbers, words_of

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
# of the second look, where it ran
ALIGNED_COLUMNS = (
    "aligned",
    "transformation",
    "box_query",
    "box_match",
    "copied_area",
    "best_aligned",
    "near_duplicates",
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
    "aligned": float,
    "copied_area": float,
    "best_aligned": int,
    "near_duplicates": int,
}
# column of matches.parquet of an index -> column of the index
INDEX_COLUMNS = {
    "match_caption": "caption",
    "match_url": "url",
    "match_width": "width",
    "match_height": "height",
}
LONG_TABLE = 100_000  # rows beyond which a table is Parquet


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
    decided: Decided = UNDECIDED


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
        "generated_that_show_nothing": len(sets.show_nothing),
        "training": len(searched),
        "training_unreadable": len(searched.bad),
        "duplicated": None if duplicated is None else len(duplicated),
        "with_source_image": int((measured.origins.sources >= 0).sum()),
        "images_per_prompt": sets.generation.images_per_prompt,
        "prompts": len(set(measured.origins.prompts)),
        "with_equal_best_matches": equal_best(measured),
        "with_only_flat_overlap": len(second_look_shown.flat_queries(measured)),
    }


def equal_best(measured: Measured) -> int | None:
    """Number of generated images whose two best matches have the same score, as happens with
    identical training images; the first in order is then named. None if one match is kept."""
    scores = measured.matches.scores
    if scores.shape[1] < 2:
        return None
    return int((scores[:, 0] == scores[:, 1]).sum())


def detector_columns(sets: Sets) -> tuple[str, ...]:
    """Columns of matches.csv with the scores of --detect: detect_<name> of every detector that
    scored a generated image; none without --detect."""
    names = dict.fromkeys(name for query in sets.queries for name in query.detections)
    return tuple(f"detect_{name}" for name in names)


def match_rows(
    measured: Measured, sets: Sets, row: Numbers, decided: Decided = UNDECIDED
) -> Iterator[dict[str, Any]]:
    """Rows of matches.csv: the k best training images of every generated image, then the one that
    it agrees with best once aligned, without a rank, if it is none of them.

    `duplicated` and, in the row of the best match, the complexity describe the training image;
    clipscore describes the generated image."""
    scores, indices = measured.matches.scores, measured.matches.indices
    for q, query in enumerate(sets.queries):
        facts = _query_facts(measured, query, q, row)
        pairs = zip(indices[q], scores[q], strict=True)
        ranked = [(n, int(m), float(s)) for n, (m, s) in enumerate(pairs, 1)]
        for rank, match, score in (*ranked, *unranked(measured, q)):
            duplicated = measured.origins.is_duplicated(match)
            columns = {
                "query": query.key,
                "rank": rank,
                "match": sets.training_images.keys[match],
                "score": None if score is None else f"{score:.6f}",
                **facts,
                "duplicated": None if duplicated is None else int(duplicated),
                **aligned_columns(measured, decided, q, match),
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
        **{f"detect_{name}": score for name, score in query.detections.items()},
    }


def write_matches(
    folder: Path,
    measured: Measured,
    sets: Sets,
    row: Numbers,
    decided: Decided = UNDECIDED,
) -> None:
    """Write matches.csv; or matches.parquet beyond LONG_TABLE rows. Of an index always write
    matches.parquet too, with what the index knows of the matches."""
    indexed = sets.indexed
    files = matches_files(measured.matches.scores.size, indexed=indexed is not None)
    detected = detector_columns(sets)
    aligned = ALIGNED_COLUMNS if measured.second_look is not None else ()
    names = (*COLUMNS, *detected, *aligned)
    if "matches.csv" in files:
        tables.write_csv(folder / "matches.csv", names, match_rows(measured, sets, row, decided))
    if "matches.parquet" not in files:
        return
    images = indexed.images if indexed is not None else {}
    more = INDEX_COLUMNS if images else {}
    rows = (
        columns | {name: images[columns["match"]][column] for name, column in more.items()}
        for columns in match_rows(measured, sets, row, decided)
    )
    numbers = NUMBERS | dict.fromkeys(detected, float)
    tables.write_parquet(folder / "matches.parquet", (*names, *more), rows, numbers=numbers)


# All files ----------------------------------------------------------------------------------------


def write(
    folder: Path, evaluated: Evaluated, output: Output, *, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Write all files of an evaluation into a folder, which the caller puts in place whole.

    say: prints a line for the user

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
        show_nothing=list(sets.show_nothing),
        left_out=evaluated.skipped,
    )
    write_matches(folder, measured, sets, row, evaluated.decided)
    if output.save_scores:
        np.save(folder / "similarity.npy", measured.matches.best.astype(np.float32))
    return _write_pictures(folder, evaluated, counts, output.workers, say)


def _write_pictures(
    folder: Path,
    evaluated: Evaluated,
    counts: dict[str, int | None],
    workers: int,
    say: Callable[[str], None],
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Write plots, gallery and page. counts: as `counts_of`. Returns: as `write`."""
    measured, sets, row = evaluated.measured, evaluated.sets, evaluated.row
    unshown: evaluation_pictures.Unshown = {}
    drawn: dict[str, Any] = {"decided": evaluated.decided}
    figures = evaluation_pictures.write_plots(
        folder / "plots", measured=measured, row=row, settings=evaluated.settings, **drawn
    )
    drawn |= {"workers": workers, "unshown": unshown}
    pages = evaluation_pictures.write_gallery(folder / "gallery", measured, sets, **drawn)
    rows, pictures = evaluation_pictures.page_rows(measured, sets, **drawn)
    skipped = evaluated.skipped
    if line := show_nothing.note(sets.show_nothing):
        skipped = skipped | {"images": line}
    if unshown:
        line = evaluation_pictures.unshown_in_words(unshown)
        say(line)
        skipped = skipped | {"pictures": line}
    words = metrics.all_words(counterfactual=sets.known.is_counterfactual)
    report = page.Report(
        metrics=row,
        words={key: words_of(key, words) for key in row},
        settings=evaluated.settings,
        counts=counts,
        left_out=skipped,
        plots=figures,
        pages=pages,
        table=page.MatchTable(rows, pictures, total=len(sets.queries)),
    )
    page.write_report(folder / "report.html", report)
    return rows, pictures
