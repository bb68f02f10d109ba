"""The two sets of images that diff_retrieval.py compares, and what is known of each image: prompts,
sources, duplicates."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.data import captions, image_sets, tar_shards
from utils.files import generation_folder, run_folder, whole_files
from utils.retrieval import metrics
from utils.runtime.errors import DataError, UsageError, require_file


@dataclass(frozen=True)
class Query:
    """A generated image to measure. Fields that its folder does not tell are None."""

    key: str
    prompt: str | None = None
    source_prompt: str | None = None
    source_image: str | None = None
    seed: int | None = None
    index: int | None = None
    # {detector: score} of --detect, empty without it
    detections: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sets:
    """What is compared. queries: [Query] as `generated` lists them; duplicated: keys of training
    images, or None.

    sources: source_image as the manifest names it -> key of a training image; captions: key of a
    training image -> its first caption, where known; images_per_prompt: of a published folder, else
    None. Where --val_dir is an index: index; index_rows: key -> row of images that the manifest or
    the run names; known: key -> what the index says of those in `training`; search: how they were
    found, for the record."""

    generated: image_sets.ImageSet
    queries: list
    training: image_sets.ImageSet
    duplicated: list | None
    manifest: dict | None
    sources: dict
    captions: dict = field(default_factory=dict)
    images_per_prompt: int | None = None
    index: object = None
    index_rows: dict = field(default_factory=dict)
    known: dict = field(default_factory=dict)
    search: dict = field(default_factory=dict)


def _prompt_lines(folder):
    """Lines of a folder's prompts.txt, or None."""
    path = Path(folder) / "prompts.txt"
    if not path.is_file() or not path.stat().st_size:
        return None
    return path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")


def _published_prompts(folder, count, say):
    """Prompts of a folder as the published script wrote it: a line of prompts.txt a *prompt*, k
    images of each."""
    lines = _prompt_lines(folder)
    if lines is None:
        return None
    if count % len(lines):
        say(f"prompts.txt has {len(lines)} lines for {count} images; prompt metrics are left out")
        return None
    return [lines[i // (count // len(lines))] for i in range(count)]


def read_queries(folder, *, say):
    """The images to measure and what is known of them. Returns: (ImageSet, [Query], manifest or
    None)."""
    images = image_sets.list_images("--query_dir", folder, measured=True)
    data = generation_folder.read_queries_manifest(folder)
    if data is None:
        prompts = _published_prompts(folder, len(images), say) or [None] * len(images)
        queries = [
            Query(key, prompt, prompt) for key, prompt in zip(images.keys, prompts, strict=True)
        ]
        return images, queries, None
    rows = {row["file"]: row for row in data["images"]}
    there = frozenset(images.keys)
    absent = [f for f in rows if f not in there]
    if absent:
        raise DataError(
            f"--query_dir={str(folder)!r}: its manifest lists {len(absent)} images that are absent,"
            f" first {absent[0]!r}"
        )
    listed = images.take([i for i, k in enumerate(images.keys) if k in rows])
    queries = [
        Query(
            k,
            r["prompt"],
            r["source_prompt"],
            r.get("source_image"),
            r.get("seed"),
            r.get("index"),
            r.get("detections", {}),
        )
        for k, r in ((k, rows[k]) for k in listed.keys)
    ]
    return listed, queries, data


def training_run(opts, data, say):
    """The run of --run, or the one that the manifest names and that made the images; None if
    neither is."""
    if opts.run:
        run = run_folder.open_run("--run", opts.run)
        if run is None:
            raise UsageError(
                f"--run={opts.run!r} holds no run.json; takes a folder that diff_train.py wrote"
            )
        return run
    run = None
    if data and data.get("run"):
        folder = Path(opts.query_dir) / data["run"]
        run = run_folder.open_run("--query_dir", folder) if folder.is_dir() else None
        if run is not None and data["settings"].get("modelpath") != run.record.get("id"):
            say(f"{folder} is not the run that the images were made with; name that one with --run")
            run = None
    return run


def _duplicated_keys(run, training, say):
    """Keys of the training images that a run drew more often; None without a run, or when they are
    not in --val_dir."""
    if run is None:
        return None
    record = run.path / "run.json"
    found, _ = captions.match_keys(
        record, run.record["duplicated"], training.root, training.keys, anywhere=True
    )
    if len(found) < len(run.record["duplicated"]):
        absent = len(run.record["duplicated"]) - len(found)
        say(f"{absent} duplicated images of {record} are not in --val_dir; duplication is left out")
        return None
    return list(found)


def list_training(source):
    """The training images of --val_dir: of a folder, or of tar shards, read in place.

    Returns: (ImageSet, {key: [caption]} of captions that lie beside the images).
    """
    if tar_shards.is_shards(source):
        return tar_shards.list_shards("--val_dir", source)
    return image_sets.list_images("--val_dir", source, measured=True), {}


def _captions(opts, run, training, beside):
    """First caption of every training image: of --val_captions, else as it lies beside the image in
    its shard, else of the run, whose captions may be of another folder that holds these images too.
    Returns: {key: str}."""
    if opts.val_captions:
        found, _ = captions.read_captions(
            require_file("--val_captions", opts.val_captions), training
        )
        return {key: texts[0] for key, texts in found.items()}
    if beside:
        return {key: texts[0] for key, texts in beside.items()}
    path = run.path / "captions.json" if run else None
    if path is None or not path.is_file():
        return {}
    data = whole_files.read_json(path)
    found, _ = captions.match_keys(path, data, training.root, training.keys, anywhere=True)
    return {key: data[given][0] for key, given in found.items()}


def _warn_of_overlap(opts, generated, training, say):
    """Say it when generated images are among the training images: each is then its own best
    match."""
    own = {generated.root.resolve() / k for k in generated.keys}
    shared = sum((training.root.resolve() / k) in own for k in training.keys)
    if shared:
        say(
            f"--val_dir={opts.val_dir!r} contains {shared} images of --query_dir, each of which"
            " will match itself"
        )


def read_sets(opts, *, say):
    """Both folders, checked before any network loads. say: takes a line for the user."""
    generated, queries, data = read_queries(opts.query_dir, say=say)
    training, beside = list_training(opts.val_dir)
    _warn_of_overlap(opts, generated, training, say)
    run = training_run(opts, data, say)
    duplicated = _duplicated_keys(run, training, say)
    require_duplicated(opts, duplicated)
    sources = _sources(opts, queries, training, say)
    return Sets(
        generated,
        queries,
        training,
        duplicated,
        data,
        sources,
        _captions(opts, run, training, beside),
        images_per_prompt(opts.query_dir, queries, data),
    )


def require_duplicated(opts, duplicated):
    """UsageError when metrics of duplication were asked for and the duplicated images are not
    known."""
    if duplicated is None and "duplication" in (opts.metrics or ()):
        raise UsageError(f"--metrics='duplication' cannot be computed: {metrics.NO_RUN}")


def images_per_prompt(folder, queries, data):
    """Images of a prompt of a published folder, which has no manifest `data`; None for others."""
    return (
        len(queries) // len(_prompt_lines(folder))
        if data is None and queries[0].prompt is not None
        else None
    )


def _sources(opts, queries, training, say):
    """`source_keys`, none of them if names fit several training images; said, as it is when none is
    found."""
    try:
        found = source_keys(opts.query_dir, queries, training)
    except DataError as error:
        say(f"training images of prompts are left out: {error}")
        return {}
    named = {q.source_image for q in queries if q.source_image}
    if named and not found:
        say(
            f"none of the {len(named)} training images that the manifest names is in"
            f" --val_dir={opts.val_dir!r}: is that the folder that was trained on?"
        )
    return found


def source_keys(folder, queries, training):
    """Training images that the prompts belong to. Returns: {source_image as named in the manifest:
    training key}."""
    named = list(dict.fromkeys(q.source_image for q in queries if q.source_image))
    found, _ = captions.match_keys(
        Path(folder) / "manifest.json", named, training.root, training.keys, anywhere=True
    )
    return {given: key for key, given in found.items()}


def source_indices(sets):
    """Index of every generation's own training image; -1 where it has none. Returns: [Q] int64."""
    index = {key: i for i, key in enumerate(sets.training.keys)}
    return np.array(
        [index.get(sets.sources.get(q.source_image), -1) for q in sets.queries], np.int64
    )
