"""From the options to what extra losses need: the class images, their draws, and the checks of
captions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data import caption_edits, prompt_styles, training_data
from utils.runtime import seeding
from utils.runtime.errors import UsageError
from utils.training import class_images, regularisation
from utils.training.class_images import ClassPlan, ClassRequest

if TYPE_CHECKING:
    import numpy as np

    from utils.cli.train_options import TrainOptions
    from utils.data.training_data import CaptionedImages, Draws
    from utils.data.transforms import Views
    from utils.models.pipeline_files import Configs, FileChoice
    from utils.runtime.parallel import Processes
    from utils.training.training_inputs import TrainingInputs


@dataclass(frozen=True)
class ClassData:
    """The class images of a run."""

    data: CaptionedImages  # with their prompt
    record: dict[str, Any]  # of run.json

    def draws(
        self,
        *,
        seed: int,
        split: int,
        global_batch: int,
        views: Views,
    ) -> Draws:
        """The draws beside those of a split, as many in each micro-batch; arguments as those of
        Draws. Their random numbers are their own, so the draws of training images stay the same."""
        return training_data.Draws(
            self.data,
            seed=seeding.derive_seed(seed, "class-draws"),
            split=split,
            global_batch=global_batch,
            views=views,
            choose_caption=_only_caption,
        )


def _only_caption(captions: list, duplicated: bool, rng: np.random.Generator) -> str:
    return captions[0]


def regularisations_of(opts: TrainOptions) -> tuple[regularisation.Regularisation, ...]:
    """The extra losses that the options turn on."""
    return regularisation.chosen(
        {name: getattr(opts, name) for name in regularisation.flag_names()}
    )


def _request(opts: TrainOptions) -> ClassRequest:
    assert opts.class_data_dir is not None  # see TrainOptions.check
    assert opts.class_data_prompt is not None
    return ClassRequest(
        opts.class_data_dir, opts.class_data_prompt, opts.num_class_images, opts.resolution
    )


def class_plan(
    opts: TrainOptions, name: str, configs: Configs, choice: FileChoice, *, process: int
) -> ClassPlan | None:
    """What there is of the class images and what the base model adds; None without prior
    preservation.

    name, configs, choice: of the base model, as families.read takes and gives them; process: number
    of this process."""
    if not opts.with_prior_preservation:
        return None
    request = _request(opts)
    others = [("--output_dir", opts.output_dir)]
    if Path(opts.instance_data_dir).exists():  # else a pattern of files
        others.append(("--instance_data_dir", opts.instance_data_dir))
    class_images.require_apart(request.folder, others)
    base = class_images.Base(
        opts.pretrained_model_name_or_path, choice, name, configs, opts.mixed_precision
    )
    return class_images.plan(
        request,
        base,
        batch=opts.sample_batch_size,
        threads=max(1, opts.num_workers),
        process=process,
    )


def class_data(
    opts: TrainOptions, plan: ClassPlan | None, processes: Processes
) -> ClassData | None:
    """The class images, after the base model has added those that are missing."""
    if plan is None:
        return None
    class_images.complete(plan, processes)
    images = class_images.class_set(
        plan.request, max_bad=opts.max_bad_images, workers=opts.num_workers
    )
    for key, reason in images.bad:
        processes.say(f"skipped: {opts.class_data_dir}/{key} ({reason})")
    prompts = {key: [plan.request.prompt] for key in images.keys}
    data, _ = training_data.captioned_images(
        images, prompts, style="nodup", share=0.0, weight=1.0, seed=0
    )
    return ClassData(data, class_images.record_of(plan.request, images))


def require_trigger(opts: TrainOptions, inputs: TrainingInputs) -> None:
    """Raise UsageError if no prompt of the images has the trigger word of the options."""
    word = opts.trigger_word
    if word is None:
        return
    prompts = prompt_styles.resolve_prompts(
        opts.class_prompt,
        inputs.images,
        captions=inputs.texts,
        tokenizer=None,  # of styles whose prompts are words: see TrainOptions.check
        seed=0,
        template=opts.caption_template,
    )
    every = itertools.chain.from_iterable(prompts.values())
    if not any(caption_edits.has_word(prompt, word) for prompt in every):
        raise UsageError(
            f"--trigger_word={word!r} stands in no caption, so --trigger_class would have no"
            " effect; use a word of the captions, or --caption_template with the word in it"
        )
