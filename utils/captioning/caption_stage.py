"""The stage of python -m utils.captioning: from a data source to a captions file."""

from __future__ import annotations

import contextlib
import signal
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.captioning import captioner, image_pixels
from utils.captioning.caption_parts import CaptionParts
from utils.captioning.captioner import Captioner, Sampling
from utils.cli import flags
from utils.data import caption_files, caption_layouts, data_sources, image_sets
from utils.data.caption_files import Captions
from utils.data.image_sets import ImageSet
from utils.files import locks, owned_folders, whole_files
from utils.runtime import devices, launcher_settings, launching, parallel
from utils.runtime.errors import Stopped, UnreadError, UsageError, require_file

if TYPE_CHECKING:
    import torch

    from utils.cli.captioning_options import CaptioningOptions

Bad = list[tuple[str, str]]  # (key, reason) of images that cannot be read


@dataclass(frozen=True)
class Reading:
    """How images are read."""

    batch_size: int  # images that are captioned at once
    workers: int  # processes that read, of each process
    max_bad: float  # share of images that may be unreadable


@dataclass(frozen=True)
class CaptionPlan:
    """What will be captioned, and how."""

    images: ImageSet
    existing: Captions  # {image key: captions that it has already}
    source: str  # --captioner
    sampling: Sampling
    dtype: torch.dtype
    reading: Reading
    settings: Mapping[str, Any]  # all that the sampled captions depend on, as JSON types
    parts: CaptionParts

    def missing(self, captions: Mapping[str, list[str]]) -> list[int]:
        """Numbers of the images that `captions` lacks."""
        return [i for i, key in enumerate(self.images.keys) if key not in captions]


def caption_images(opts: CaptioningOptions, *, progress: Callable[..., Iterable]) -> None:
    """Caption the images of --instance_data_dir and write --out, or continue; with --dry_run only
    print the plan. Every process calls this.

    progress: shows a bar over an iterable.
    UsageError or DataError, before the model loads, for what cannot be used; UsageError at the end
    if too many images cannot be read: the captions of the others are kept. Stopped on Ctrl-C."""
    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))
    processes.planning = opts.dry_run
    for line in launcher_settings.notes(flags.launched(opts)):
        processes.say(line)
    with processes.together():
        plan = _plan(opts, processes)
        done = plan.parts.read(plan.settings)
    if opts.dry_run:
        processes.show(_dry_run(plan, done))
        return
    lock: contextlib.AbstractContextManager[bool] = contextlib.nullcontext(True)
    if processes.main:
        lock = locks.lock_folder_on_this_machine(plan.parts.out)
    try:
        with lock as mine:
            if processes.any(not mine):
                raise locks.in_use("--out", plan.parts.out)
            _caption(plan, done, processes, progress)
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped; run the same command again to continue {opts.out}", signal.SIGINT
        ) from None


# Before -------------------------------------------------------------------------------------------


def _require_new(out: str) -> Path:
    """--out as a path; UsageError if it exists, or cannot be written."""
    path = Path(out)
    if path.exists():
        raise UsageError(f"--out={out!r} exists; give a new file, or remove that one")
    owned_folders.require_writable("--out", path.parent)
    return path


def _existing(
    opts: CaptioningOptions,
    images: ImageSet,
    stored: Captions | None,
    say: Callable[[str], None],
) -> Captions:
    """Captions that images have already: of --instance_prompt_loc, else from beside the images, in
    their tar files or in any layout of a folder."""
    if not opts.instance_prompt_loc:
        return stored or caption_layouts.find_or_say(images, say, opts.columns)
    path = require_file("--instance_prompt_loc", opts.instance_prompt_loc)
    return caption_files.captions_in(path, images, opts.columns)[0]


def _plan(opts: CaptioningOptions, processes: parallel.Processes) -> CaptionPlan:
    """Resolve and check the options; nothing is written and no model is loaded."""
    out = _require_new(opts.out)
    captioner.require_source(opts.captioner)
    dtype = devices.dtype_of(opts.mixed_precision)
    images, stored = data_sources.list_data(
        "--instance_data_dir", opts.instance_data_dir, columns=opts.columns, say=processes.say
    )
    names = ("num_captions", "top_p", "min_length", "max_length", "seed", "mixed_precision")
    return CaptionPlan(
        images=images,
        existing=_existing(opts, images, stored, processes.say),
        source=opts.captioner,
        sampling=Sampling(
            opts.num_captions, opts.top_p, opts.min_length, opts.max_length, opts.seed
        ),
        dtype=dtype,
        reading=Reading(opts.batch_size, opts.num_workers, opts.max_bad_images),
        settings={
            **{name: getattr(opts, name) for name in names},
            "captioner": captioner.identity(opts.captioner),
            "instance_data_dir": {"images": len(images), "fingerprint": images.fingerprint},
        },
        parts=CaptionParts(out, process=processes.index),
    )


def _dry_run(plan: CaptionPlan, done: Captions) -> dict[str, Any]:
    """What --dry_run prints, of JSON types."""
    return {
        "images": len(plan.images),
        "images_with_captions": len(plan.existing),
        "captioned_already": len(done),
        "captions_an_image": plan.sampling.captions,
        "captioner": plan.source,
        "writes": [str(plan.parts.out), f"{plan.parts.first} (until it is finished)"],
    }


# Captioning ---------------------------------------------------------------------------------------


def _caption(
    plan: CaptionPlan,
    done: Captions,
    processes: parallel.Processes,
    progress: Callable[..., Iterable],
) -> None:
    """Caption the images that the parts lack, and finish the file. done: what all parts hold."""
    missing = plan.missing(done)
    if plan.existing:
        processes.say(
            f"{len(plan.existing)} of {len(plan.images)} images have captions already; they stay"
            " first"
        )
    if done:
        processes.say(f"continues: {len(done)} of {len(plan.images)} images are captioned")
    bad: Bad = []
    if missing:
        with processes.together():
            model = captioner.load(
                plan.source, plan.sampling, device=processes.device, dtype=plan.dtype
            )
        processes.wait()  # every process has read the parts
        if processes.main:
            plan.parts.begin(plan.settings, done)
        processes.wait()
        if not processes.main:
            plan.parts.begin(plan.settings, {})
        share = missing[processes.index :: processes.count]
        with processes.together():
            bad = _sample(plan, share, model, processes, progress)
    bad = sorted(pair for each in processes.gather(bad) for pair in each)
    with processes.together():
        if processes.main:
            _finish(plan, bad, processes.say)


def _sample(
    plan: CaptionPlan,
    share: Sequence[int],
    model: Captioner,
    processes: parallel.Processes,
    progress: Callable[..., Iterable],
) -> Bad:
    """Caption this process's share of the images. UnreadError when the disk fails. Returns: its
    images that cannot be read."""
    bad: Bad = []
    loader = image_pixels.batches(
        plan.images,
        share,
        model.prepare,
        batch_size=plan.reading.batch_size,
        workers=plan.reading.workers,
    )
    label = f"captioning, {plan.reading.batch_size} images at once"
    if processes.count > 1:
        label += f", process 1 of {processes.count}"
    shown = progress(loader, total=len(loader), label=label, main_process=processes.main)
    with plan.parts.appending() as part:
        for batch in shown:
            if batch.unread is not None:
                raise UnreadError(batch.unread)
            bad += [(plan.images.keys[i], reason) for i, reason in batch.bad]
            if batch.pixels is not None:
                plan.parts.append(part, _captions_of(plan, batch, model))
    return bad


def _captions_of(plan: CaptionPlan, batch: image_pixels.PixelBatch, model: Captioner) -> Captions:
    """Sample the captions of a batch. Returns: {image key: captions}."""
    import torch

    assert batch.pixels is not None
    keys = [plan.images.keys[i] for i in batch.indices]
    numbers = torch.stack([plan.sampling.numbers(key) for key in keys])
    return dict(zip(keys, model.captions(batch.pixels, numbers, plan.sampling), strict=True))


# After --------------------------------------------------------------------------------------------


def _finish(plan: CaptionPlan, bad: Bad, say: Callable[[str], None]) -> None:
    """Write the captions file from all parts, remove the parts, and print the statistics.
    UsageError if more images than --max_bad_images accepts cannot be read."""
    for key, reason in (*plan.images.bad, *bad):
        say(f"skipped: {key} ({reason.removeprefix(f'{plan.images.root / key}: ')})")
    image_sets.require_readable(
        "--instance_data_dir", plan.images, bad, max_bad=plan.reading.max_bad
    )
    sampled = plan.parts.read(plan.settings)
    captions = {
        key: [*plan.existing.get(key, ()), *sampled[key]]
        for key in plan.images.keys
        if key in sampled
    }
    whole_files.write_json(plan.parts.out, captions)
    plan.parts.remove()
    say(statistics_line(captions))
    say(f"captions: {plan.parts.out}")


def statistics_line(captions: Mapping[str, Sequence[str]]) -> str:
    """How many captions the images have, and how many of them differ, in one line."""
    distinct = {key: len(set(listed)) for key, listed in captions.items()}
    fewest = min(distinct, key=lambda key: distinct[key])
    total = sum(map(len, captions.values()))
    return (
        f"{len(captions)} images have {total} captions; distinct captions an image:"
        f" {statistics.fmean(distinct.values()):.1f} on average, {distinct[fewest]} at least"
        f" ({fewest})"
    )
