"""What diff_retrieval.py leaves on disk: numbers, matches, plots, gallery and page, of what was
measured."""

import functools
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from utils.files import evaluation_folder, whole_files
from utils.reports import galleries, page, plots, tables
from utils.retrieval.descriptors import extractors
from utils.retrieval.metrics import CORRELATED
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
# further columns of matches.parquet, and those of the index that they come from
OF_INDEX = (
    ("match_caption", "caption"),
    ("match_url", "url"),
    ("match_width", "width"),
    ("match_height", "height"),
)
LONG_TABLE = 100_000  # rows beyond which a table is Parquet
# columns: of matches; matches.csv has all
GALLERY_ROWS, GALLERY_COLUMNS, GALLERY_PAGES = 10, 10, 20
# of the page's table: pictures of that many queries and their matches are some 10 MB
PAGE_ROWS, PICTURE_SIDE = 500, 160
# of a prompt or a caption in the page's table: strangers' captions are as long as they like
PAGE_LETTERS = 500
GREY = (200, 200, 200)  # in the place of a picture that cannot be read
PAGE_GALLERY = 5  # pages of the gallery that the page carries; the others lie beside it
AXES = {
    "ent": "entropy of the matched image (nats)",
    "comp": "its size as JPEG (KiB)",
    "tvl": "its total variation (sum of differences × 1e-4)",
    "mixed": "entropy × √JPEG size",
}


def folder_for(opts, sets):
    """Where the evaluation goes: --output_dir, or below the generations under a name that says what
    was measured."""
    files = planned_files(opts, sets)
    if opts.output_dir:
        return evaluation_folder.Evaluation(opts.output_dir, files).require_ours()
    name = evaluation_folder.evaluation_name(
        pt_style=opts.pt_style,
        arch=opts.arch if opts.pt_style in extractors.USES_ARCH else None,
        preset=opts.preset if opts.pt_style in extractors.USES_PRESET else None,
        similarity_metric=opts.chunked,
        search="ann" if opts.ann else None,
        fingerprint=sets.training.fingerprint,
    )
    return evaluation_folder.Evaluation(
        Path(opts.query_dir) / "evaluations" / name, files
    ).require_ours()


def planned_files(opts, sets):
    """Names of what an evaluation leaves, as far as that is known before an image is read. Returns:
    [str]."""
    matches = len(sets.generated) * min(opts.num_matches, len(sets.training))
    tables = matches_files(matches, of_index=sets.index is not None)
    array = [] if opts.dontsave else ["similarity.npy"]
    return ["metrics.json", *tables, *array, "plots", "gallery", "report.html"]


def matches_files(count, *, of_index):
    """Names of the tables of `count` matches: CSV up to LONG_TABLE rows, Parquet beyond and for an
    index. Returns: [str]."""
    short = count <= LONG_TABLE
    return ["matches.csv"] * short + ["matches.parquet"] * (of_index or not short)


def counts_of(measured, sets):
    """How many images, and of what kind. Returns: flat dict."""
    searched = sets.training if sets.index is None else sets.index
    return {
        "generated": len(sets.generated),
        "generated_unreadable": len(sets.generated.bad),
        "training": len(searched),
        "training_unreadable": len(searched.bad),
        "duplicated": None if measured.duplicated is None else len(sets.duplicated),
        "with_source_image": int((measured.sources >= 0).sum()),
        "images_per_prompt": sets.images_per_prompt,
        "prompts": len(set(measured.prompts)),
        "with_equal_best_matches": equal_best(measured),
    }


def equal_best(measured):
    """Generations whose two best matches have the same score, as identical training images give:
    the first in order is named."""
    if measured.scores.shape[1] < 2:
        return None
    return int((measured.scores[:, 0] == measured.scores[:, 1]).sum())


def match_rows(measured, sets, row):
    """Rows of matches.csv: every generation's k best training images. `duplicated` and the
    complexity, of the best alone, speak of the match; clipscore of the generation."""
    clipscores = measured.alignment.get("clipscore") if "clipscore" in row else None
    for q, query in enumerate(sets.queries):
        for rank, (score, match) in enumerate(
            zip(measured.scores[q], measured.matches[q], strict=True), 1
        ):
            known = measured.sources[q] >= 0
            found = {
                "query": query.key,
                "rank": rank,
                "match": sets.training.keys[match],
                "score": f"{score:.6f}",
                "prompt": query.source_prompt,
                "source_image": query.source_image,
                "source_score": f"{measured.source_scores[q]:.6f}" if known else None,
                "seed": query.seed,
                "duplicated": (
                    None if measured.duplicated is None else int(measured.duplicated[match])
                ),
                "clipscore": (
                    f"{clipscores[q]:.6f}"
                    if clipscores is not None and not np.isnan(clipscores[q])
                    else None
                ),
            }
            if measured.has_complexity and rank == 1:
                of = measured.complexity
                found |= {
                    n: f"{getattr(of, n)[q]:.6f}"
                    for n in ("entropy", "jpeg_kib", "total_variation")
                }
            yield found


def write_matches(folder, measured, sets, row):
    """matches.csv, or matches.parquet beyond LONG_TABLE rows; of an index that always, with what it
    knows of the match."""
    files = matches_files(measured.scores.size, of_index=sets.index is not None)
    if "matches.csv" in files:
        tables.write_csv(folder / "matches.csv", COLUMNS, match_rows(measured, sets, row))
    if "matches.parquet" not in files:
        return
    more = OF_INDEX if sets.known else ()
    rows = (
        {**found, **{n: sets.known[found["match"]][c] for n, c in more}}
        for found in match_rows(measured, sets, row)
    )
    tables.write_parquet(
        folder / "matches.parquet", (*COLUMNS, *(name for name, _ in more)), rows, numbers=NUMBERS
    )


def to_look_at(images, index, side, unshown):
    """An image of an ImageSet that was read before, `side` pixels at least; grey if it, or the tar
    that held it, is gone or another one meanwhile: the numbers are worth more than a picture.
    unshown: {key: why}, to which it is then added. Returns: PIL RGB."""
    try:
        return images.open(index, at_least=side)
    except (DataError, OSError) as error:
        unshown[images.keys[index]] = str(error).removeprefix(
            f"{images.root / images.keys[index]}: "
        )
        return Image.new("RGB", (side, side), GREY)


def unshown_in_words(unshown):
    """A line on pictures that are grey. unshown: {key: why}, at least one."""
    key, why = next(iter(unshown.items()))
    return f"pictures that cannot be read now are grey: {len(unshown)}, first {key!r} ({why})"


def write_gallery(folder, measured, sets, *, workers, unshown):
    """Pages of ten queries and their matches, ten at most, the most similar queries first, 20 pages
    at most, as PNG.

    unshown: as `to_look_at`. Returns: the first PAGE_GALLERY of them as JPEG, in bytes: what
    report.html can carry."""
    order = np.argsort(-measured.best, kind="stable")[: GALLERY_ROWS * GALLERY_PAGES]
    pages = [order[start : start + GALLERY_ROWS] for start in range(0, len(order), GALLERY_ROWS)]

    @functools.lru_cache(2000)  # a training image is the match of many; 50 KB each
    def picture_of(of_training, index):
        images = sets.training if of_training else sets.generated
        return galleries.fitted(to_look_at(images, index, galleries.SIDE, unshown), galleries.SIDE)

    columns = min(GALLERY_COLUMNS, measured.scores.shape[1])

    def draw(queries):
        rows = []
        for q in queries:
            found = zip(measured.matches[q, :columns], measured.scores[q, :columns], strict=True)
            shown = [(picture_of(True, int(m)), s, sets.training.keys[m]) for m, s in found]
            rows.append((picture_of(False, int(q)), sets.queries[q].key.rpartition("/")[2], shown))
        return galleries.match_page(rows, threshold=measured.threshold, columns=columns)

    return galleries.write_pages(
        folder, pages, draw, workers=workers, keep=_jpeg, first=PAGE_GALLERY
    )


def write_plots(folder, *, measured, row, settings):
    """The histogram, the scatter plots and the bars that there are numbers for. Returns: [(PNG
    path, words)]."""
    made = [(folder / "similarity.png", "histogram of similarities to the nearest training image")]
    plots.similarity_histogram(
        made[0][0],
        measured.best,
        measured.background if "bg_mean" in row else None,
        threshold=measured.threshold,
        descriptor=settings["pt_style"],
    )
    shares = [
        (f"copy_share{end}", words)
        for end, words in (
            ("", "all"),
            ("_dup", "prompts of\nduplicated images"),
            ("_nodup", "other prompts"),
        )
    ]
    bars = [
        (words, *(100 * row[k + end] for end in ("", "_lo", "_hi")))
        for k, words in shares
        if k in row
    ]
    if bars:
        path = folder / "copy_share.png"
        plots.bars(path, bars, ylabel="images that count as copies, %", limit=100)
        made.append((path, "share of copies with 95 % intervals"))
    for name, attribute in CORRELATED.items():
        if f"cc_{name}" in row:
            path = folder / f"complexity_{name}.png"
            plots.scatter(
                path,
                getattr(measured.complexity, attribute),
                measured.best,
                xlabel=AXES[name],
                ylabel="similarity",
                r=row[f"cc_{name}"],
                p=row[f"pval_{name}"],
            )
            made.append((path, f"similarity against {AXES[name]}"))
    return made


def _jpeg(image):
    """A PIL RGB image as JPEG, in bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _picture(images, index, unshown):
    """A small JPEG of an image, in bytes."""
    image = to_look_at(images, index, PICTURE_SIDE, unshown)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return _jpeg(image)


def _beginning(text):
    """The first PAGE_LETTERS letters of a text, or None of None; matches.csv and matches.parquet
    keep all."""
    return text if text is None or len(text) <= PAGE_LETTERS else text[: PAGE_LETTERS - 1] + "…"


def page_rows(measured, sets, *, workers, unshown):
    """Rows of the page's table, the most similar first, and the pictures that they name. unshown:
    as `to_look_at`. Returns: ([dict], {name: JPEG})."""
    order = np.argsort(-measured.best, kind="stable")[:PAGE_ROWS]
    clipscores = measured.alignment.get("clipscore", np.full(len(measured.best), np.nan))
    rows = []
    for q in order:
        match = int(measured.matches[q, 0])
        key, query = sets.training.keys[match], sets.queries[q]
        rows.append(
            {
                "query": query.key,
                "match": key,
                "score": round(float(measured.best[q]), 6),
                "prompt": _beginning(query.source_prompt),
                "caption": _beginning(sets.captions.get(key)),
                "source_image": query.source_image,
                "seed": query.seed,
                "source_score": (
                    round(float(measured.source_scores[q]), 6) if measured.sources[q] >= 0 else None
                ),
                "duplicated": (
                    None if measured.duplicated is None else bool(measured.duplicated[match])
                ),
                "clipscore": None if np.isnan(clipscores[q]) else round(float(clipscores[q]), 6),
                "query_picture": f"generated/{query.key}",
                "match_picture": f"training/{key}",
            }
        )
    opened = {
        r["query_picture"]: (sets.generated, int(q)) for r, q in zip(rows, order, strict=True)
    }
    opened |= {
        r["match_picture"]: (sets.training, int(measured.matches[q, 0]))
        for r, q in zip(rows, order, strict=True)
    }
    with ThreadPoolExecutor(max(1, workers)) as pool:
        pictures = pool.map(lambda item: _picture(*item, unshown), opened.values())
        return rows, dict(zip(opened, pictures, strict=True))


def write(folder, *, measured, sets, row, left_out, settings, opts, say):
    """Everything an evaluation leaves; `folder` is taken whole into place by its caller. say: takes
    a line for the user. Returns: rows of the page's table, their pictures."""
    counts = counts_of(measured, sets)
    extras = {
        "unreadable": [list(b) for b in (*sets.generated.bad, *sets.training.bad)],
        "left_out": left_out,
    }
    whole_files.write_manifest(
        folder / "metrics.json", "evaluation", **row, settings=settings, counts=counts, **extras
    )
    write_matches(folder, measured, sets, row)
    if not opts.dontsave:
        np.save(folder / "similarity.npy", measured.best.astype(np.float32))
    figures = write_plots(folder / "plots", measured=measured, row=row, settings=settings)
    unshown = {}
    pages = write_gallery(
        folder / "gallery", measured, sets, workers=opts.num_workers, unshown=unshown
    )
    rows, pictures = page_rows(measured, sets, workers=opts.num_workers, unshown=unshown)
    if unshown:
        say(unshown_in_words(unshown))
        left_out = left_out | {"pictures": unshown_in_words(unshown)}
    page.write_report(
        folder / "report.html",
        metrics=row,
        settings=settings,
        counts=counts,
        left_out=left_out,
        plots=figures,
        pages=pages,
        rows=rows,
        pictures=pictures,
        total=len(sets.queries),
    )
    return rows, pictures
