"""The parts of diff_retrieval.py: what to measure, the features, the numbers and the files."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils import evaluations, generations, manifest, runs
from utils.data import captions, image_sets, transforms
from utils.errors import DataError, UsageError
from utils.evaluation import extractors, features, metrics
from utils.evaluation import similarity as sim
from utils.records import Query
from utils.reports import galleries, page, plots, tables

COLUMNS = ("query", "rank", "match", "score", "prompt", "source_image", "source_score", "seed", "duplicated")
GALLERY_ROWS, GALLERY_PAGES = 10, 20


@dataclass(frozen=True)
class Sets:
    """What is compared. queries: [Query] as `generated` lists them; duplicated: keys of training images, or None."""

    generated: image_sets.ImageSet
    queries: list
    training: image_sets.ImageSet
    duplicated: list | None
    manifest: dict | None
    sources: dict  # source_image as the manifest names it -> key of a training image


def _published_prompts(folder, count, say):
    """Prompts of a folder as the published script wrote it: a line of prompts.txt a *prompt*, k images of each."""
    path = Path(folder) / "prompts.txt"
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    if not lines or count % len(lines):
        say(f"prompts.txt has {len(lines)} lines for {count} images; prompt metrics are left out")
        return None
    return [lines[i // (count // len(lines))] for i in range(count)]


def read_queries(folder, *, say):
    """The images to measure and what is known of them. Returns: (ImageSet, [Query], manifest or None)."""
    images = image_sets.list_images("--query_dir", folder, measured=True)
    data = generations.read_queries_manifest(folder)
    if data is None:
        prompts = _published_prompts(folder, len(images), say) or [None] * len(images)
        queries = [Query(key, prompt, prompt) for key, prompt in zip(images.keys, prompts, strict=True)]
        return images, queries, None
    rows = {row["file"]: row for row in data["images"]}
    there = frozenset(images.keys)
    absent = [f for f in rows if f not in there]
    if absent:
        raise DataError(
            f"--query_dir={str(folder)!r}: its manifest lists {len(absent)} images that are absent, first {absent[0]!r}"
        )
    listed = images.take([i for i, k in enumerate(images.keys) if k in rows])
    queries = [
        Query(k, r["prompt"], r["source_prompt"], r.get("source_image"), r["seed"], r["index"])
        for k, r in ((k, rows[k]) for k in listed.keys)
    ]
    return listed, queries, data


def _duplicated_keys(opts, data, training, say):
    """Keys of duplicated training images, from --run or from the run that the manifest names; None if neither is."""
    if opts.run:
        run = runs.open_run("--run", opts.run)
        if run is None:
            raise UsageError(f"--run={opts.run!r} holds no run.json; takes a folder that diff_train.py wrote")
    elif data and data.get("run"):
        folder = Path(opts.query_dir) / data["run"]
        run = runs.open_run("--query_dir", folder) if folder.is_dir() else None
        if run is not None and data["settings"].get("modelpath") != run.record.get("id"):
            say(f"{folder} is not the run that the images were made with; name that one with --run")
            run = None
    else:
        run = None
    if run is None:
        return None
    record = run.path / "run.json"
    found, _ = captions.match_keys(record, run.record["duplicated"], training.root, training.keys, anywhere=True)
    if len(found) < len(run.record["duplicated"]):
        absent = len(run.record["duplicated"]) - len(found)
        say(f"{absent} duplicated images of {record} are not in --val_dir; duplication is left out")
        return None
    return list(found)


def read_sets(opts, *, say):
    """Both folders, checked before any network loads. say: takes a line for the user."""
    generated, queries, data = read_queries(opts.query_dir, say=say)
    training = image_sets.list_images("--val_dir", opts.val_dir, measured=True)
    duplicated = _duplicated_keys(opts, data, training, say)
    if duplicated is None and "duplication" in (opts.metrics or ()):
        raise UsageError(f"--metrics='duplication' cannot be computed: {metrics.NO_RUN}")
    return Sets(generated, queries, training, duplicated, data, source_keys(opts.query_dir, queries, training))


def evaluation_folder(opts, sets):
    """Where the evaluation goes: --output_dir, or below the generations under a name that says what was measured."""
    if opts.output_dir:
        return evaluations.Evaluation(opts.output_dir).require_ours()
    name = evaluations.evaluation_name(
        pt_style=opts.pt_style, arch=opts.arch if opts.pt_style in extractors.USES_ARCH else None,
        preset=opts.preset if opts.pt_style in extractors.USES_PRESET else None,
        similarity_metric=opts.similarity_metric, fingerprint=sets.training.fingerprint,
    )  # fmt: skip
    return evaluations.Evaluation(Path(opts.query_dir) / "evaluations" / name).require_ours()


def build_extractors(opts, *, device, dtype):
    """The descriptor and, where it is wanted and can be had, the network of the Frechet distance.

    Returns: ({"descriptor": Extractor, "fd"?: Extractor}, {metric: why its input is missing}).
    """
    common = {"device": device, "dtype": dtype}
    built = {"descriptor": extractors.EXTRACTORS[opts.pt_style](
        flag="--arch", arch=opts.arch, preset=opts.preset, weights=opts.weights, **common
    )}  # fmt: skip
    missing = {}
    if opts.metrics is None or "fd" in opts.metrics:
        try:
            built["fd"] = extractors.EXTRACTORS["timm"](
                flag="--fd_extractor", arch=opts.fd_extractor, preset=None, weights=None, **common
            )
        except extractors.WeightsMissingError as error:
            if opts.metrics is not None:
                raise
            missing["fd"] = str(error)
    return built, missing


def measure(opts, sets, built, missing, *, wrap):
    """Features of both sets in one pass each, and what the metrics read. Returns: (Measured, Sets of what was read)."""
    options = {"batch_size": opts.batch_size, "num_workers": opts.num_workers, "wrap": wrap}
    generated, kept, bad = features.extract(sets.generated, built, **options)
    image_sets.require_readable("--query_dir", sets.generated, bad, max_bad=opts.max_bad_images)
    side = min(image_sets.open_image(sets.generated.path(kept[0])).size)
    # the distance compares like with like: a training image as a generation of this size would show it
    prepare = {"fd": _AsGenerated(side)} if "fd" in built else {}
    training, kept_training, bad_training = features.extract(sets.training, built, prepare=prepare, **options)
    image_sets.require_readable("--val_dir", sets.training, bad_training, max_bad=opts.max_bad_images)
    queries = [sets.queries[i] for i in kept]
    read = replace(
        sets, queries=queries, generated=replace(sets.generated.take(kept), bad=tuple(bad)),
        training=replace(sets.training.take(kept_training), bad=tuple(bad_training)),
    )  # fmt: skip
    query, train = (sim.normalised(f["descriptor"]) for f in (generated, training))
    compare = sim.SIMILARITIES[opts.similarity_metric]
    scores, matches = compare(query, train, k=opts.num_matches)
    sources = source_indices(read)
    known = sources >= 0
    source_scores = np.full(len(queries), np.nan)
    source_scores[known] = (query[known] * train[sources[known]]).sum(1).numpy()
    threshold = opts.copy_threshold if opts.copy_threshold is not None else built["descriptor"].copy_threshold
    marked = None if sets.duplicated is None else np.isin(read.training.keys, sets.duplicated)
    return metrics.Measured(
        scores=scores.numpy(), matches=matches.numpy(), train=train, similarity=compare, sources=sources,
        source_scores=source_scores, duplicated=marked, threshold=threshold, seed=opts.seed, missing=missing,
        prompts=[q.source_prompt if q.source_prompt is not None else q.key for q in queries],
        fd=(generated["fd"], training["fd"]) if "fd" in built else None, fd_key=f"fd_{opts.fd_extractor}",
    ), read  # fmt: skip


class _AsGenerated:
    """transforms.as_generated with its side; a class, so that spawned workers can unpickle it."""

    def __init__(self, side):
        self.side = side

    def __call__(self, image):
        return transforms.as_generated(image, self.side)


def source_keys(folder, queries, training):
    """Training images that the prompts belong to. Returns: {source_image as named in the manifest: training key}."""
    named = list(dict.fromkeys(q.source_image for q in queries if q.source_image))
    found, _ = captions.match_keys(Path(folder) / "manifest.json", named, training.root, training.keys, anywhere=True)
    return {given: key for key, given in found.items()}


def source_indices(sets):
    """Index of every generation's own training image; -1 where it has none. Returns: [Q] int64."""
    index = {key: i for i, key in enumerate(sets.training.keys)}
    return np.array([index.get(sets.sources.get(q.source_image), -1) for q in sets.queries], np.int64)


def compute(opts, measured):
    """Every metric that was asked for or can run. Returns: (flat dict, {metric: why it was left out})."""
    row, left_out = {}, {}
    for name in opts.metrics or metrics.METRICS:
        try:
            row |= metrics.METRICS[name](measured)
        except metrics.CannotMeasureError as error:
            if opts.metrics is not None:
                raise UsageError(f"--metrics={name!r} cannot be computed: {error}") from None
            left_out[name] = str(error)
    return row, left_out


def match_rows(measured, sets):
    """Rows of matches.csv: every generation's k best training images. `duplicated` speaks of the match."""
    for q, query in enumerate(sets.queries):
        for rank, (score, match) in enumerate(zip(measured.scores[q], measured.matches[q], strict=True), 1):
            known = measured.sources[q] >= 0
            yield {
                "query": query.key, "rank": rank, "match": sets.training.keys[match], "score": f"{score:.6f}",
                "prompt": query.source_prompt, "source_image": query.source_image,
                "source_score": f"{measured.source_scores[q]:.6f}" if known else None, "seed": query.seed,
                "duplicated": None if measured.duplicated is None else int(measured.duplicated[match]),
            }  # fmt: skip


def write_gallery(folder, measured, sets):
    """Pages of ten queries and their matches, the most similar queries first, 20 pages at most. Returns: PNG paths."""
    order = np.argsort(-measured.best, kind="stable")[: GALLERY_ROWS * GALLERY_PAGES]
    folder.mkdir(parents=True)
    paths = []
    for start in range(0, len(order), GALLERY_ROWS):
        rows = []
        for q in order[start : start + GALLERY_ROWS]:
            found = zip(measured.matches[q], measured.scores[q], strict=True)
            shown = [(image_sets.open_image(sets.training.path(m)), s, sets.training.keys[m]) for m, s in found]
            rows.append((image_sets.open_image(sets.generated.path(q)), sets.queries[q].key.rpartition("/")[2], shown))
        page = galleries.match_page(rows, threshold=measured.threshold, columns=measured.scores.shape[1])
        paths.append(folder / f"page_{len(paths) + 1:02d}.png")
        page.save(paths[-1])
    return paths


def write(folder, *, measured, sets, row, left_out, settings, opts):
    """Everything an evaluation leaves; `folder` is taken whole into place by its caller."""

    counts = {
        "generated": len(sets.generated), "generated_unreadable": len(sets.generated.bad),
        "training": len(sets.training), "training_unreadable": len(sets.training.bad),
        "duplicated": None if measured.duplicated is None else int(measured.duplicated.sum()),
        "with_source_image": int((measured.sources >= 0).sum()),
    }  # fmt: skip
    extras = {"unreadable": [list(b) for b in (*sets.generated.bad, *sets.training.bad)], "left_out": left_out}
    manifest.write_manifest(folder / "metrics.json", "evaluation", **row, settings=settings, counts=counts, **extras)
    tables.write_csv(folder / "matches.csv", COLUMNS, match_rows(measured, sets))
    if not opts.dontsave:
        np.save(folder / "similarity.npy", measured.best.astype(np.float32))
    histogram = folder / "plots" / "similarity.png"
    background = measured.background if "bg_mean" in row else None
    plots.similarity_histogram(
        histogram, measured.best, background, threshold=measured.threshold, descriptor=settings["pt_style"]
    )
    pages = write_gallery(folder / "gallery", measured, sets)
    page.write_report(
        folder / "report.html", metrics=row, settings=settings, counts=counts, histogram=histogram, pages=pages
    )
