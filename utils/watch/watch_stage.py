"""The stage of checks of copies: what the options of diff_train.py ask to watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from utils.data.duplication import DUPLICATIONS
from utils.generation.prompts import drawn_evenly
from utils.models import families
from utils.retrieval.descriptors.extractors import EXTRACTORS
from utils.retrieval.descriptors.network import NetworkChoice, Wanted
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.runtime import devices, parallel
from utils.runtime.errors import UsageError
from utils.training import previews
from utils.watch import fixed_losses
from utils.watch.copy_watch import CopyWatch, Images
from utils.watch.reference import Reference

if TYPE_CHECKING:
    import torch

    from utils.cli.train_options import TrainOptions
    from utils.data.image_sets import ImageSet
    from utils.retrieval.descriptors.network import Extractor
    from utils.runtime.parallel import Processes
    from utils.training.training_job import PreparedRun
    from utils.watch.fixed_losses import Item


def watch_of(opts: TrainOptions, job: PreparedRun, processes: Processes) -> CopyWatch:
    """What checks a run for copies, in the main process alone. UsageError where weights of the
    descriptor are missing."""
    device = job.model.device
    images = _images(opts, job)
    if len(images.prompts) < opts.copy_check_prompts:
        processes.say(
            f"--copy_check_prompts={opts.copy_check_prompts}: there are {len(images.prompts)}"
            " training captions, and a check takes an image of each"
        )
    descriptor = _descriptor(opts.copy_check_descriptor, device)
    alone = parallel.Processes(parallel.Alone(device))

    def reference() -> Reference:
        return Reference(
            job.data.images,
            job.aside,
            descriptor=descriptor,
            name=opts.copy_check_descriptor,
            innocent_dir=opts.innocent_dir,
            seed=opts.generation_seed,
            processes=alone,
            say=processes.say,
        )

    return CopyWatch(images, reference, lambda: _pictures(opts, job))


def _descriptor(name: str, device: torch.device) -> Extractor:
    dtype = devices.measuring_dtype("no", device)
    wanted = Wanted(device=device, dtype=dtype, choice=NetworkChoice(arch="resnet50"))
    try:
        return EXTRACTORS[name](wanted)
    except WeightsMissingError as error:
        where = str(error).split(";")[0]
        raise UsageError(
            f"--copy_check_descriptor={name!r}: {where}; put the file there, or use"
            " --copy_check_descriptor pixel"
        ) from None


def _images(opts: TrainOptions, job: PreparedRun) -> Images:
    captions = {key: texts[0] for key, texts in job.data.prompts.items()}
    duplicates = DUPLICATIONS[opts.duplication].duplicates
    drawn = drawn_evenly(
        captions,
        job.duplicated if duplicates else (),
        most=opts.copy_check_prompts,
        seed=opts.generation_seed,
    )
    return Images(
        prompts=[previews.prompt_of(job.model, each.text, each.source_image) for each in drawn],
        seed=opts.generation_seed,
        side=opts.resolution,
        guidance=_guidance(opts, job),
        batch_size=max(opts.train_batch_size, opts.sample_batch_size),
    )


def _guidance(opts: TrainOptions, job: PreparedRun) -> float:
    if opts.copy_check_guidance is not None:
        return opts.copy_check_guidance
    _, scale = families.default_sampling(type(job.model.parts.pipeline).__name__)
    return scale


def _pictures(opts: TrainOptions, job: PreparedRun) -> dict[str, list[Item]]:
    """{key of a row: pictures whose loss it holds}: as many training pictures as are held out."""
    images, aside = job.data.images, job.aside
    most = min(fixed_losses.MOST_PICTURES, len(aside) or len(images))
    found = {"loss_training": _some(images, job.data.prompts, most, opts)}
    if len(aside):
        found["loss_holdout"] = _some(aside, job.held_out, most, opts)
    return found


def _some(
    images: ImageSet, prompts: Mapping[str, Sequence[str]], most: int, opts: TrainOptions
) -> list[Item]:
    taken = images.take(fixed_losses.chosen(len(images), most, seed=opts.generation_seed))
    return fixed_losses.read(taken, prompts, side=opts.resolution)
