"""Encode images and captions ahead of training: outputs of the frozen networks are computed once
and cached beside the run (--cache_latents auto)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from utils.reports.progress import progress
from utils.training import frozen_outputs

if TYPE_CHECKING:
    from utils.data.transforms import Views
    from utils.runtime.parallel import Processes
    from utils.training.frozen_outputs import CachedLatents, CachedTexts
    from utils.training.training_job import PreparedRun


def gib(size: int) -> str:
    """Bytes as text in GiB."""
    return f"{size / 2**30:.2f} GiB"


def _worth_it(cached, *, entries, draws, promised, what, processes):
    """Whether a cache pays and fits on the disk; all processes get the same answer, and a line says
    why not.

    entries: what the cache would hold; draws: what the run would compute without it; promised:
    bytes that another cache will take."""
    fits, free = cached.rows.fits(promised)
    if draws < entries:
        processes.say(
            f"{what} are computed at every step: the run draws {draws} and a cache would hold"
            f" {entries}"
        )
        return False
    if processes.any(not fits):
        processes.say(
            f"{what} are not cached: {gib(cached.rows.bytes)} are needed in"
            f" {cached.rows.folder.parent}, {gib(free - promised)} are free"
        )
        return False
    return True


def _latents(job, data, folder, processes, *, views, draws, promised, what):
    """The cache of the latents of images, or None where it does not pay. data: CaptionedImages;
    promised: bytes that another cache will take; what: in messages."""
    latents = frozen_outputs.CachedLatents(
        folder,
        data.images,
        job.model.parts,
        resolution=views.resolution,
        flips=views.random_flip,
        dtype=job.model.frozen.vae.dtype,
        buckets=data.buckets,
    )
    worth_it = _worth_it(
        latents,
        entries=len(data.images) * (1 + views.random_flip),
        draws=draws,
        promised=promised,
        what=what,
        processes=processes,
    )
    return latents if worth_it else None


def _embeddings(job, folder, processes, *, draws, promised):
    """The cache of embeddings of captions, or None where captions are not fixed or it does not
    pay."""
    possible = job.model.hooks.prompts
    if job.model.frozen.learns_text or possible is None:
        return None
    prompts = {p for k in job.data.images.keys for p in possible(job.data.prompts[k])}
    for each in job.model.extra_losses.regularisations:
        prompts |= set(each.prompts(prompts))
    prompts = sorted(prompts)
    embeddings = frozen_outputs.CachedTexts(
        folder, prompts, job.model.parts, job.model.family, dtype=job.model.dtype
    )
    worth_it = _worth_it(
        embeddings,
        entries=len(prompts),
        draws=draws,
        promised=promised,
        what="embeddings of captions",
        processes=processes,
    )
    return embeddings if worth_it else None


def _fill(
    cached: CachedLatents | CachedTexts, rows: Iterator[int], label: str, processes: Processes
):
    """Compute the missing rows of a cache, by all processes, and open it."""
    missing = cached.rows.count_missing(processes.index, processes.count)
    for _ in progress(
        rows,
        total=missing,
        label=f"encoding {label}",
        main_process=processes.main and missing > 0,
    ):
        pass
    processes.wait()  # each process writes its own parts and reads all
    cached.rows.open()


def encode_ahead(
    job: PreparedRun, folder: Path, processes: Processes, *, views: Views, workers: int
) -> list[str]:
    """Compute latents and embeddings of captions where that pays, and set them in the model.

    folder: of the caches; workers: processes that read images. Returns: what is kept, of "latents",
    "captions" and names of draws beside the training images.
    """
    model, plan = job.model, job.plan
    frozen = model.frozen
    draws = plan.rounds * plan.steps * plan.splits * job.per_step  # images that the run draws
    share = {"device": model.device, "process": processes.index, "processes": processes.count}
    latents = _all_latents(job, folder, processes, views=views, draws=draws)
    promised = sum(each.rows.bytes for each in latents.values())
    embeddings = _embeddings(job, folder, processes, draws=draws, promised=promised)
    for name, each in latents.items():
        label = "latents" if name is None else f"latents of {name.replace('_', ' ')}"
        _fill(each, each.build(frozen.vae, num_workers=workers, **share), label, processes)
        frozen.keep(name, each)
        for split_draws in job.copies.draws.values():
            drawn = split_draws if name is None else split_draws.beside[name]
            drawn.pixels = False  # they are no longer needed
    kept = ["latents"] if None in latents else []
    if embeddings is not None:
        _fill(embeddings, embeddings.build(frozen.encoders, **share), "captions", processes)
        frozen.cached_text = embeddings
        kept.append("captions")
    frozen.rest()
    return kept + [name for name in latents if name is not None]


def _all_latents(job, folder, processes, *, views, draws):
    """The caches of latents that pay: {None: of the training images, name: of draws beside
    them}."""
    if not views.center_crop:
        processes.say(
            "latents are not cached: without --center_crop every draw has a different crop"
        )
        return {}
    found, promised = {}, 0
    changing = job.model.augmentation is not None
    if changing:
        processes.say("latents are not cached: --agc_augment crops and mirrors images")
    for name, data in {**({} if changing else {None: job.data}), **job.beside}.items():
        cached = _latents(
            job,
            data,
            folder,
            processes,
            views=views,
            draws=draws,
            promised=promised,
            what="latents" if name is None else f"latents of {name.replace('_', ' ')}",
        )
        if cached is not None:
            found[name] = cached
            promised += cached.rows.bytes
    return found
