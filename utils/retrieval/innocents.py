"""The innocents of an evaluation: pictures that nobody copied, whose likeness to the training
images says from which score on a generated image is a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import image_sets
from utils.data.image_sets import ImageSet
from utils.files import folder_kinds, generation_folder, generation_models, run_folder
from utils.retrieval.evaluation_sets import Index, Sets
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.verdict import LEAST_INNOCENTS, SOURCES
from utils.runtime.errors import UsageError
from utils.runtime.seeding import numpy_rng

if TYPE_CHECKING:
    import torch

    from utils.runtime.parallel import Say

MOST_INNOCENTS = 500  # that are compared: aligning each with its candidates takes time


@dataclass(frozen=True)
class InnocentSet:
    """N pictures that nobody copied."""

    images: ImageSet
    source: str  # a key of verdict.SOURCES
    # of training images that stand in for innocents: [N] int64, their places among the training
    # images, and the labels of their groups of near-duplicates; else None
    rows: np.ndarray | None = None
    own_group: np.ndarray | None = None


# Which pictures -----------------------------------------------------------------------------------


def listed_innocents(
    sets: Sets, *, innocent_dir: str | None, base_dir: str | None, seed: int, say: Say
) -> InnocentSet | None:
    """The innocents that are pictures of their own, before any network loads: of --innocent_dir,
    else what the run held out, else images of the base model (--base_dir).

    A folder that is named with --innocent_dir is used whatever it holds; of the others, one of
    fewer than LEAST_INNOCENTS is passed over with a line. Copies of training images, byte for byte,
    are left out with a line.

    seed: of the choice of MOST_INNOCENTS; say: prints a line. UsageError for a folder without
    pictures, or of images that a fine-tuned run made. Returns: None where training images must
    stand in, see `training_innocents`."""
    if innocent_dir:
        return innocents_of_folder(innocent_dir, sets.training, seed=seed, say=say)
    # both folders are checked, also where the first is enough
    base = base_images(base_dir) if base_dir else None
    for source, images in (("holdout", sets.held_out), ("base_dir", base)):
        enough = images and enough_innocents(images, sets.training, source, seed=seed, say=say)
        if enough:
            return enough
    return None


def innocents_of_folder(
    folder: str, training: ImageSet | Index, *, seed: int, say: Say
) -> InnocentSet:
    """The pictures of --innocent_dir, whatever it holds, without copies of training images. seed,
    say: as in `listed_innocents`. UsageError for a folder without pictures."""
    listed = image_sets.list_images("--innocent_dir", folder, measured=True)
    image_sets.say_left_out("--innocent_dir", listed, say)
    return _chosen(_without_copies(listed, training, say), "innocent_dir", seed, say)


def enough_innocents(
    images: ImageSet, training: ImageSet | Index, source: str, *, seed: int, say: Say
) -> InnocentSet | None:
    """Pictures as innocents, without copies of training images; None, with a line, of fewer than
    LEAST_INNOCENTS. source, seed, say: as in `listed_innocents`."""
    images = _without_copies(images, training, say)
    if len(images) >= LEAST_INNOCENTS:
        return _chosen(images, source, seed, say)
    say(
        f"{len(images)} innocents are too few to set a threshold ({SOURCES[source]}); at least"
        f" {LEAST_INNOCENTS} are needed"
    )
    return None


def require_other_model(innocent_dir: str, *, query_dir: str, run: str | None) -> None:
    """Raise UsageError if --innocent_dir holds images of the model that is measured: those of
    --query_dir, or of a generation of the same model or run.

    run: folder of the training run (--run), or None. A generation of another model, such as the
    base model, is accepted, and so is a folder that no generation records."""
    folder_kinds.require_pictures("--innocent_dir", innocent_dir)
    measured = generation_models.made_by(query_dir)
    known = run_folder.open_run("--run", run) if run else None
    of_run = None if known is None else known.record.get("id")
    made = "the images of --query_dir" if _same_place(innocent_dir, query_dir) else None
    for each in generation_models.all_made_by(innocent_dir):
        if (measured and each.is_model_of(measured)) or (of_run and each.model == of_run):
            made = made or f"images of the model that is measured, {each.words}"
    if made:
        raise UsageError(
            f"--innocent_dir={innocent_dir!r} holds {made}; give pictures that nobody copied, or"
            " images that its base model generated"
        )


def _same_place(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def base_images(folder: str) -> ImageSet:
    """The images of a generation of the base model (--base_dir), or any folder of images without a
    manifest. UsageError if a fine-tuned run made them."""
    images = image_sets.list_images("--base_dir", folder, measured=True)
    for made in generation_models.all_made_by(folder):
        if made.run:
            raise UsageError(
                f"--base_dir={folder!r} holds images of the fine-tuned run {made.run}; give"
                " images that its base model generated"
            )
    if not (Path(folder) / "manifest.json").is_file():
        return images
    manifest = generation_folder.read_queries_manifest(folder)
    assert manifest is not None  # the file is there
    listed = {row["file"] for row in manifest["images"]}
    return images.take([i for i, key in enumerate(images.keys) if key in listed])


def training_innocents(
    training: ImageSet, groups: np.ndarray, *, seed: int, say: Say
) -> InnocentSet:
    """Training images that stand in for innocents: each is compared with the images of other groups
    than its own, see `matches_of_others`.

    training: M images, as they were measured; groups: [M], of `formulas.groups.group_labels`."""
    rows = evenly(len(training), MOST_INNOCENTS, seed)
    _say_choice(len(rows), len(training), "training", say)
    return InnocentSet(training.take(rows), "training", rows, groups[rows])


def evenly(count: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of `count` places, evenly spaced from a random start, so that every folder is
    represented by its size. Returns: [min(count, most)] int64, ascending."""
    if count <= most:
        return np.arange(count)
    start = numpy_rng(seed, "innocents").random()
    return np.floor((np.arange(most) + start) * (count / most)).astype(np.int64)


def _chosen(images: ImageSet, source: str, seed: int, say: Say) -> InnocentSet:
    rows = evenly(len(images), MOST_INNOCENTS, seed)
    _say_choice(len(rows), len(images), source, say)
    return InnocentSet(images.take(rows), source)


def _say_choice(taken: int, count: int, source: str, say: Say) -> None:
    of = f" of {count}" if taken < count else ""
    say(f"innocents: {taken}{of} {SOURCES[source]}")


def _without_copies(images: ImageSet, training: ImageSet | Index, say: Say) -> ImageSet:
    """Leave out images whose file is, byte for byte, that of a training image. Images inside tar
    files, or an index, are not looked into."""
    if not isinstance(training, ImageSet) or training.places or images.places:
        return images
    sizes = frozenset(images.sizes)
    known = _digests(training, (i for i, size in enumerate(training.sizes) if size in sizes))
    sizes = frozenset(training.sizes)
    own = _digests(images, (i for i, size in enumerate(images.sizes) if size in sizes))
    copies = {i for i, digest in own.items() if digest in known.values()}
    if copies:
        say(f"{len(copies)} of {len(images)} innocents are training images; they are left out")
    return images.take([i for i in range(len(images)) if i not in copies])


def _digests(images: ImageSet, indices: Iterable[int]) -> dict[int, bytes]:
    """{index: SHA-256 of the file} of images that are files of their own; one that cannot be read
    has none."""
    digests = {}
    for i in indices:
        try:
            digests[i] = hashlib.sha256(Path(str(images.path(i))).read_bytes()).digest()
        except OSError:
            continue  # reading the images says so
    return digests


# Matches ------------------------------------------------------------------------------------------


def matches_of_others(
    query: torch.Tensor,
    train: torch.Tensor,
    *,
    own_group: np.ndarray,
    groups: np.ndarray,
    k: int,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best matches of training images among those of other groups.

    query: [N, D], train: [M, D], both normalised; own_group: [N] and groups: [M], labels of groups;
    options: of `similarity.top_matches` (scores, block_rows, device).

    Returns: scores [N, k] float32, -inf for an empty place; indices [N, k] int64, -1 for one. An
    image whose group is all there is has empty places alone."""
    values, sizes = np.unique(groups, return_counts=True)
    largest = int(sizes[np.isin(values, own_group)].max(initial=0))
    best, found = (part.numpy() for part in sim.top_matches(query, train, k=k + largest, **options))
    own = groups[found] == np.asarray(own_group)[:, None]
    best, found = np.where(own, -np.inf, best).astype(np.float32), np.where(own, -1, found)
    # those of other groups first, in their order
    order = np.argsort(own, axis=1, kind="stable")[:, :k]
    best, found = np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
    missing = ((0, 0), (0, k - best.shape[1]))
    return (
        np.pad(best, missing, constant_values=-np.inf),
        np.pad(found, missing, constant_values=-1),
    )
