"""Read both image sets of an evaluation, with what is known of each image: prompts, sources,
captions, duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import (
    caption_files,
    caption_layouts,
    data_sources,
    image_sets,
    key_matching,
    picture_prompts,
)
from utils.data.field_names import USUAL, Columns
from utils.files import generation_folder, run_folder, text_files, whole_files
from utils.retrieval import caption_sources
from utils.retrieval.evaluation_request import EvaluationInputs
from utils.retrieval.evaluation_sets import GenerationFacts, Query, Sets, TrainingFacts
from utils.runtime.errors import DataError, UsageError, require_file

if TYPE_CHECKING:
    from utils.runtime.parallel import Say

# Generated images ---------------------------------------------------------------------------------


def _prompt_lines(folder: str | Path) -> list[str] | None:
    """Lines of a folder's prompts.txt, or None if it has none."""
    path = Path(folder) / "prompts.txt"
    if not path.is_file() or not path.stat().st_size:
        return None
    return text_files.read_lines(path)


def _published_lines(folder: str | Path, count: int) -> list[str] | None:
    """Lines of the prompts.txt of a folder that the published script wrote, which has a line for
    each prompt and as many images for every prompt; None for another folder. count: images."""
    lines = _prompt_lines(folder)
    return None if lines is None or count % len(lines) else lines


def _published_prompts(folder: str | Path, count: int, say: Say) -> list[str] | None:
    """Prompts of the images of a folder that the published script wrote, see
    `_published_lines`."""
    lines = _published_lines(folder, count)
    if lines is None:
        unfit = _prompt_lines(folder)
        if unfit is not None:
            say(f"prompts.txt has {len(unfit)} lines for {count} images; it is not used")
        return None
    return [lines[i // (count // len(lines))] for i in range(count)]


def _picture_queries(images: image_sets.ImageSet, say: Say) -> list[Query]:
    """The pictures of a folder without prompts of its own, with the prompts and seeds that the
    programs that made them wrote into them."""
    prompts = picture_prompts.read_prompts(images)
    if prompts:
        say(picture_prompts.summary(prompts.values(), len(images)))
    found = ((key, prompts.get(key)) for key in images.keys)
    return [
        Query(key) if each is None else Query(key, each.prompt, each.prompt, seed=each.seed)
        for key, each in found
    ]


def read_queries(
    folder: str | Path, *, say: Say
) -> tuple[image_sets.ImageSet, list[Query], dict[str, Any] | None]:
    """List the generated images with what is known of each. Returns: images, queries in the same
    order, the manifest or None. DataError if the manifest lists images that are absent."""
    images = image_sets.list_images("--query_dir", folder, measured=True)
    data = generation_folder.read_queries_manifest(folder)
    if data is None:
        image_sets.say_left_out("--query_dir", images, say)
        prompts = _published_prompts(folder, len(images), say)
        if prompts is None:
            return images, _picture_queries(images, say), None
        pairs = zip(images.keys, prompts, strict=True)
        return images, [Query(key, prompt, prompt) for key, prompt in pairs], None
    rows = {row["file"]: row for row in data["images"]}
    present = frozenset(images.keys)
    absent = [file for file in rows if file not in present]
    if absent:
        raise DataError(
            f"--query_dir={str(folder)!r}: its manifest lists {len(absent)} images that are"
            f" missing, first {absent[0]!r}"
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
            shows_nothing=generation_folder.DEGENERATE in r,
        )
        for k, r in ((k, rows[k]) for k in listed.keys)
    ]
    return listed, queries, data


def generation_facts(
    folder: str | Path, queries: list[Query], manifest: Mapping[str, Any] | None
) -> GenerationFacts:
    """What a folder of generated images records about its generation. queries, manifest: as
    `read_queries` returns them."""
    if manifest is not None:
        return GenerationFacts(run=manifest.get("run"))
    lines = _published_lines(folder, len(queries))
    return GenerationFacts(images_per_prompt=len(queries) // len(lines) if lines else None)


# Training images ----------------------------------------------------------------------------------


def training_run(
    inputs: EvaluationInputs, manifest: Mapping[str, Any] | None, say: Say
) -> run_folder.Run | None:
    """The training run of --run, else the one that the manifest names, if it made the images; else
    None. UsageError if --run is no run."""
    if inputs.run:
        run = run_folder.open_run("--run", inputs.run)
        if run is None:
            raise UsageError(
                f"--run={inputs.run!r} holds no run.json; give a folder that diff_train.py wrote"
            )
        return run
    if not manifest or not manifest.get("run"):
        return None
    folder = Path(inputs.query_dir) / manifest["run"]
    run = run_folder.open_run("--query_dir", folder) if folder.is_dir() else None
    if run is not None and manifest["settings"].get("modelpath") != run.record.get("id"):
        say(f"{folder} is not the run that made the images; name that run with --run")
        return None
    return run


def _duplicated_keys(
    run: run_folder.Run | None, training: image_sets.ImageSet, say: Say
) -> list[str] | None:
    """Keys of the training images that a run drew more often; None without a run, or if some of
    them are not in --val_dir."""
    if run is None:
        return None
    record, names = run.path / "run.json", run.record["duplicated"]
    matched, _ = key_matching.match_keys(record, names, training.root, training.keys, anywhere=True)
    if len(matched) < len(names):
        absent = len(names) - len(matched)
        say(f"{absent} duplicated images of {record} are not in --val_dir; duplication is skipped")
        return None
    return list(matched)


def is_counterfactual(run: run_folder.Run | None) -> bool:
    """Whether a run drew no image more often, and recorded those that its seed would have
    duplicated."""
    return run is not None and bool(run.record.get("counterfactual"))


def _held_out_keys(run: run_folder.Run | None, training: image_sets.ImageSet) -> list[str] | None:
    """Keys of the images in --val_dir that a run set aside; None without a run.

    All images of the run are matched at once, so that none of them takes the name of another."""
    if run is None or not run.holdout:
        return None if run is None else []
    record, held = run.path / "run.json", frozenset(run.holdout)
    names = [*run.captions(), *run.holdout]
    matched, _ = key_matching.match_keys(record, names, training.root, training.keys, anywhere=True)
    return [key for key in training.keys if matched.get(key) in held]


def say_held_out(held: int, count: int, val_dir: str, say: Say) -> None:
    """Say how many of `count` images a run set aside; UsageError if none is left."""
    if held == count:
        raise UsageError(
            f"--val_dir={val_dir!r}: all {held} images were held out by the run; give the folder"
            " with the images that it was trained on"
        )
    if held:
        say(
            f"{held} of {count} images in --val_dir were held out; they are innocents, not training"
            " images"
        )


def _without(
    listed: image_sets.ImageSet, held: Sequence[str], val_dir: str, say: Say
) -> tuple[image_sets.ImageSet, image_sets.ImageSet | None]:
    """Take the images that a run set aside out of the training images, and say so. UsageError if
    none is left. Returns: training images, those set aside or None."""
    if not held:
        return listed, None
    say_held_out(len(held), len(listed), val_dir, say)
    aside = np.isin(listed.keys, held)
    return listed.take(np.flatnonzero(~aside)), listed.take(np.flatnonzero(aside))


def list_training(
    source: str, *, columns: Columns = USUAL, say: Callable[[str], None] = lambda line: None
) -> tuple[image_sets.ImageSet, dict[str, list[str]]]:
    """List the training images of --val_dir, see `data_sources.list_data`.

    columns: of captions; say: prints a line of what was recognised.
    Returns: images, {key: captions} of those that have captions in the file that holds them.
    """
    images, captions = data_sources.list_data(
        "--val_dir", source, measured=True, columns=columns, say=say
    )
    return images, captions or {}


def _captions(
    inputs: EvaluationInputs,
    run: run_folder.Run | None,
    training: image_sets.ImageSet,
    beside: Mapping[str, list[str]],
    say: Say,
) -> Mapping[str, list[str]]:
    """Captions of every training image: from --val_captions, else from beside the image in its
    shard, else from the run, which may have been trained on another folder with the same images,
    else from beside the images in their folder.

    beside: {key: captions} in the shards

    Returns: {key: captions}."""
    if inputs.val_captions:
        path = require_file("--val_captions", inputs.val_captions)
        return caption_files.read_captions(path, training, inputs.columns)[0]
    if beside:
        return beside
    recorded = None if run is None else run.path / "captions.json"
    if recorded is None or not recorded.is_file():
        return caption_layouts.find_or_say(training, say, inputs.columns)
    data = whole_files.read_json(recorded)
    matched, _ = key_matching.match_keys(
        recorded, data, training.root, training.keys, anywhere=True
    )
    return {key: data[name] for key, name in matched.items()}


def _warn_of_overlap(
    val_dir: str, generated: image_sets.ImageSet, training: image_sets.ImageSet, say: Say
) -> None:
    """Print a line if generated images are among the training images: each is then its own best
    match."""
    shared = len(_resolved_paths(generated) & _resolved_paths(training))
    if shared:
        say(
            f"--val_dir={val_dir!r} contains {shared} images of --query_dir, each of which will"
            " match itself"
        )


def _resolved_paths(images: image_sets.ImageSet) -> set[Path]:
    """Paths of the images with all links of their folder followed; none at an https address."""
    if not isinstance(images.root, Path):
        return set()
    root = images.root.resolve()
    return {root / key for key in images.keys}


def read_sets(inputs: EvaluationInputs, *, say: Say) -> Sets:
    """List both sets of images with what is known of them, before any network loads."""
    generated, queries, manifest = read_queries(inputs.query_dir, say=say)
    listed, beside = list_training(inputs.val_dir, columns=inputs.columns, say=say)
    _warn_of_overlap(inputs.val_dir, generated, listed, say)
    run = training_run(inputs, manifest, say)
    holdout = _held_out_keys(run, listed)
    training, held_out = _without(listed, holdout or (), inputs.val_dir, say)
    duplicated = _duplicated_keys(run, training, say)
    captions = _captions(inputs, run, training, beside, say)
    if manifest is None and not _published_lines(inputs.query_dir, len(queries)):
        queries = caption_sources.with_sources(queries, captions, say)
    # a prompt may be the caption of an image that was held out: then it has no training image
    sources = _sources(inputs, queries, listed, say)
    sources = {name: key for name, key in sources.items() if key not in (holdout or ())}
    return Sets(
        generated,
        queries,
        training,
        TrainingFacts(
            duplicated,
            sources,
            {key: texts[0] for key, texts in captions.items()},
            holdout,
            counterfactual=is_counterfactual(run),
        ),
        generation_facts(inputs.query_dir, queries, manifest),
        held_out=held_out,
    )


def _sources(
    inputs: EvaluationInputs, queries: Iterable[Query], training: image_sets.ImageSet, say: Say
) -> dict[str, str]:
    """`source_keys`, or an empty dict and a printed line if a name fits several training images. A
    line is also printed if no name fits."""
    try:
        matched = source_keys(inputs.query_dir, queries, training)
    except DataError as error:
        say(f"the training images of the prompts are not used: {error}")
        return {}
    named = {q.source_image for q in queries if q.source_image}
    if named and not matched:
        say(
            f"none of the {len(named)} training images that the manifest names is in"
            f" --val_dir={inputs.val_dir!r}: is that the folder that was trained on?"
        )
    return matched


def source_keys(
    folder: str | Path, queries: Iterable[Query], training: image_sets.ImageSet
) -> dict[str, str]:
    """The training images that the prompts belong to. Returns: {source_image as the manifest names
    it: key of the training image}."""
    named = list(dict.fromkeys(q.source_image for q in queries if q.source_image))
    matched, _ = key_matching.match_keys(
        Path(folder) / "manifest.json", named, training.root, training.keys, anywhere=True
    )
    return {name: key for key, name in matched.items()}
