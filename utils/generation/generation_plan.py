"""The plan of a generation: its options, resolved and checked before the model loads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli.kinds import MOST_IMAGES
from utils.files import run_folder
from utils.files.generation_folder import Generation, generation_name
from utils.generation import detectors, mitigations, unprompted
from utils.generation.detectors import Detector
from utils.generation.mitigations import Mitigation
from utils.generation.model_source import ModelSource, find_model, require_class
from utils.generation.prompts import PromptRequest, choose_prompts
from utils.generation.sampling import Prompt, SampleSettings
from utils.models import ddpm, families, fingerprints, lora, schedulers
from utils.models.pipeline_files import Configs, FileChoice
from utils.runtime import devices
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.cli.generation_options import GenerationOptions

DEFAULT_RESOLUTION = 256  # pixels, if no run records one, as published


@dataclass(frozen=True)
class PipelinePlan:
    """How the pipeline is loaded."""

    model: ModelSource
    class_name: str  # of the pipeline, a key of families.FAMILIES
    scheduler: str  # without the word Scheduler
    mixed_precision: str  # "no", "fp16" or "bf16"
    lora: str | None = None  # place of LoRA weights
    compiled: bool = False  # whether the denoiser is compiled


@dataclass(frozen=True)
class ImagesPlan:
    """Which images are generated."""

    prompts: list[Prompt]
    per_prompt: int  # images of each prompt
    seed: int
    side: int  # pixels of the finished images
    sample: SampleSettings  # of the denoising loop
    mitigations: tuple[Mitigation, ...] = ()
    detectors: Mapping[str, Detector] = dataclasses.field(default_factory=dict)
    classes: ddpm.Classes | None = None  # of a model that is conditioned on them

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.prompts) * self.per_prompt


@dataclass(frozen=True)
class GenerationPlan:
    """Everything that determines a generation, and where it is written."""

    pipeline: PipelinePlan
    images: ImagesPlan
    settings: dict  # {flag: value} of what decides the images; a folder with others is refused
    folder: Generation
    batch_size: int  # images per call of the pipeline
    save_threads: int
    label: str | None = None  # --dataset, for the record
    prompts_file: str | None = None  # --prompts, for the record


@dataclass(frozen=True)
class _Resolved:
    """What the options mean for the model that they name."""

    model: ModelSource
    class_name: str
    configs: Configs
    scheduler: schedulers.ScheduledSteps
    sample: SampleSettings
    side: int  # pixels of the finished images
    side_known: bool  # False if neither the options nor the run nor the model say which
    guided: bool  # whether the pipeline runs an unconditional branch
    classes: ddpm.Classes | None = None  # of a model that is conditioned on them

    @property
    def family(self) -> families.Family:
        """What differs between classes of pipelines."""
        return families.FAMILIES[self.class_name]


def _given(**values: Any) -> dict[str, Any]:
    # settings of flags that are younger than some folders, which record them only where given
    return {name: value for name, value in values.items() if value is not None}


def _read_by_model(prompt: Prompt) -> list:
    """What the hash of prompts is made of."""
    return [prompt.text, prompt.source_image] if prompt.label is None else [prompt.label]


def _settings(
    pipeline: PipelinePlan,
    images: ImagesPlan,
    values: Mapping[str, Any],
    *,
    style: str | None,
    iternum: int | None,
) -> dict:
    """The settings that determine the images, by flag. A run is named by its id, and prompts and
    LoRA weights by their hash, so that a moved folder is the same.

    values: the flags of mitigations and detectors.
    style: of the prompts that were drawn, or None.
    iternum: --iternum, the checkpoint of the run.
    """
    texts = json.dumps([_read_by_model(prompt) for prompt in images.prompts])
    model = pipeline.model
    return {
        "modelpath": model.identity,
        "iternum": iternum,
        "capstyle": style,
        "nbatches": len(images.prompts),
        "im_batch": images.per_prompt,
        "resolution": images.side,
        "num_inference_steps": images.sample.steps,
        "guidance_scale": images.sample.guidance,
        "scheduler": pipeline.scheduler,
        **_given(eta=images.sample.eta or None),
        "negative_prompt": images.sample.negative_prompt,
        "lora": lora.lora_id(pipeline.lora) if pipeline.lora else None,
        **_given(max_sequence_length=images.sample.text_length),
        **model.chosen,  # nothing where no such flag is given, as before there were such flags
        **mitigations.settings(values),
        **detectors.settings(tuple(images.detectors), values),
        "seed": images.seed,
        "mixed_precision": pipeline.mixed_precision,
        # last: prompts may differ because one of the above does, which then is the one reported
        "prompts": hashlib.sha256(texts.encode()).hexdigest(),
    }


def _sample_settings(
    opts: GenerationOptions, model: ModelSource, class_name: str, index: Mapping, side: int
) -> SampleSettings:
    steps, scale = families.default_sampling(class_name)
    return SampleSettings(
        steps=opts.num_inference_steps or steps,
        guidance=scale if opts.guidance_scale is None else opts.guidance_scale,
        side=None if model.native else side,
        negative_prompt=opts.negative_prompt,
        text_length=_text_length(opts, model, class_name, index),
        eta=opts.eta,
    )


def _text_length(
    opts: GenerationOptions, model: ModelSource, class_name: str, index: Mapping
) -> int | None:
    """Tokens of T5: of --max_sequence_length, else what the run was trained with; None is the
    pipeline's own number. index: model_index.json."""
    families.require_text_length(model.source, class_name, opts.max_sequence_length)
    recorded = model.run.options.get("max_sequence_length") if model.run else None
    length = opts.max_sequence_length or recorded
    own = families.FAMILIES[class_name].own_text_length(index)
    return None if length == own else length


def _require_eta(opts: GenerationOptions, scheduler: str) -> None:
    if opts.eta and scheduler != "DDIM":
        raise UsageError(
            f"--eta={opts.eta:g} is the noise in the steps of DDIM, and the scheduler is"
            f" {scheduler}; give --scheduler DDIM"
        )


def _side(opts: GenerationOptions, recorded: int | None, configs: Configs, *, text: bool) -> int:
    """Side of the finished images in pixels."""
    own = None if text else configs.side
    return opts.resolution or recorded or own or DEFAULT_RESOLUTION


def _model(opts: GenerationOptions) -> ModelSource:
    """The model that the options name."""
    return find_model(
        opts.modelpath,
        iternum=opts.iternum,
        checkpoint=opts.checkpoint,
        base_model=opts.pretrained_model_name_or_path,
        default_model=opts.default_model,
        choice=FileChoice(variant=opts.variant, config=opts.config, unet=opts.unet),
    )


def _resolve(opts: GenerationOptions) -> _Resolved:
    """Resolve what depends on the model; UsageError for a value that it does not accept."""
    devices.dtype_of(opts.mixed_precision)
    model = _model(opts)
    class_name, configs = families.read(model.flag, model.source, choice=model.choice)
    require_class(model, class_name)
    recorded, family = model.recorded("resolution"), families.FAMILIES[class_name]
    unprompted.require_fitting(opts, model.source, text=family.text)
    side = _side(opts, recorded, configs, text=family.text)
    if not model.native:
        families.require_resolution(model.source, class_name, configs, side)
    if opts.lora:
        lora.require_lora(opts.lora)
    sample = _sample_settings(opts, model, class_name, configs.index, side)
    scheduler = opts.scheduler or family.scheduler_of(native=model.native)
    resolved = _Resolved(
        model=model,
        class_name=class_name,
        configs=configs,
        scheduler=schedulers.plan_scheduler(class_name, scheduler, configs, sample.steps),
        sample=sample,
        side=side,
        side_known=bool(opts.resolution or recorded or model.native or not family.text),
        guided=families.require_guidance(
            class_name,
            configs.denoiser,
            sample.guidance,
            sample.negative_prompt,
            scale_given=opts.guidance_scale is not None,
        ),
    )
    _require_eta(opts, resolved.scheduler.name)
    return resolved if family.text else _with_classes(opts, resolved)


def _with_classes(opts: GenerationOptions, resolved: _Resolved) -> _Resolved:
    """The same for a model without text: guidance leads away from its null class."""
    classes = unprompted.classes_of(opts, resolved.model, resolved.configs)
    null = None if classes is None else classes.null
    return dataclasses.replace(
        resolved,
        classes=classes,
        sample=dataclasses.replace(resolved.sample, null_class=null),
        guided=null is not None and resolved.sample.guidance > 1,
    )


def require_unconditional(needs: Iterable[tuple[str, bool]], *, guided: bool, flags: str) -> None:
    """Raise UsageError if the pipeline runs without the unconditional branch that an option needs.

    needs: (the option as it was given, whether it needs that branch).
    guided: whether the pipeline has it.
    flags: those that give the pipeline this branch, for the error.
    """
    for flag, needed in needs:
        if needed and not guided:
            raise UsageError(
                f"{flag} needs an unconditional branch, and this pipeline runs without one: use"
                f" {flags}"
            )


def _require_supported(
    resolved: _Resolved,
    chosen: tuple[Mitigation, ...],
    watching: Mapping[str, Detector],
) -> None:
    """Raise UsageError if the pipeline lacks what a mitigation or a detector needs."""
    require_unconditional(
        [
            *((each.flag, each.unconditional) for each in chosen),
            *((f"--detect={name!r}", each.unconditional) for name, each in watching.items()),
        ],
        guided=resolved.guided,
        flags=resolved.family.unconditional_flags,
    )
    configs, scheduler = resolved.configs, resolved.scheduler
    tokenizer = any(all(configs.index.get(t) or [None]) for t in ("tokenizer", "tokenizer_2"))
    most = configs.scheduler.get("num_train_timesteps", 1000)
    mitigations.require(
        chosen,
        tokenizer=tokenizer,
        order=scheduler.order,
        first_timestep=scheduler.first_timestep or most,
    )


def _say_assumptions(
    resolved: _Resolved, chosen: tuple[Mitigation, ...], say: Callable[[str], None]
) -> None:
    for line in mitigations.notes(chosen, guided=resolved.guided):
        say(line)
    if not resolved.side_known:
        made_for, other = resolved.configs.side, ""
        if made_for not in (None, resolved.side):
            other = f", and the model was made for {made_for} px"
        say(
            f"no run records a resolution: the images have {resolved.side} px{other}; --resolution"
            " sets another one"
        )


def _require_total(prompts: int, per_prompt: int) -> None:
    if prompts * per_prompt > MOST_IMAGES:
        raise UsageError(
            f"{prompts} prompts with --im_batch={per_prompt} are {prompts * per_prompt} images; use"
            f" at most {MOST_IMAGES} in one generation"
        )


def _flag_values(opts: GenerationOptions) -> dict[str, Any]:
    """The flags of mitigations and detectors: {flag: value}."""
    names = (*mitigations.flag_names(), *detectors.flag_names())
    values = {name: getattr(opts, name) for name in names}
    if values["cfg_before"] is None:
        values["cfg_before"] = mitigations.published_scale_before(values["cfg_start"])
    return values


def _prompt_request(opts: GenerationOptions, default_prompts: tuple[str, ...]) -> PromptRequest:
    return PromptRequest(
        file=opts.prompts,
        texts=opts.prompt or default_prompts,
        count=opts.nbatches,
        style=opts.capstyle,
        captions=opts.instance_prompt_loc,
        seed=opts.seed,
        columns=opts.columns,
    )


def _pipeline_plan(opts: GenerationOptions, resolved: _Resolved) -> PipelinePlan:
    return PipelinePlan(
        model=resolved.model,
        class_name=resolved.class_name,
        scheduler=resolved.scheduler.name,
        mixed_precision=opts.mixed_precision,
        lora=opts.lora,
        compiled=opts.compile,
    )


def _images_plan(
    opts: GenerationOptions,
    resolved: _Resolved,
    prompts: list[Prompt],
    chosen: tuple[Mitigation, ...],
    watching: Mapping[str, Detector],
) -> ImagesPlan:
    return ImagesPlan(
        prompts=prompts,
        per_prompt=opts.im_batch,
        seed=opts.seed,
        side=resolved.side,
        sample=resolved.sample,
        mitigations=chosen,
        detectors=watching,
        classes=resolved.classes,
    )


def _prompts(
    opts: GenerationOptions,
    resolved: _Resolved,
    default_prompts: tuple[str, ...],
    say: Callable[[str], None],
) -> tuple[list[Prompt], str | None]:
    """The prompts, and the style that they were drawn with; of a model without text, the classes
    in turn."""
    if not resolved.family.text:
        return unprompted.images_of(opts, resolved.classes, resolved.model.source), None
    return choose_prompts(_prompt_request(opts, default_prompts), resolved.model, say=say)


def _folder(
    savepath: str | None,
    run: run_folder.Run | None,
    name: str,
    *,
    default_root: str | Path,
    process: int,
) -> Generation:
    """The folder of a generation: --savepath, else a folder of that name.

    run: if given, the folder stands in the run's folder instead of `default_root`.
    """
    root = run.path / "inferences" if run else Path(default_root)
    return Generation(savepath or root / name, process=process)


def plan(
    opts: GenerationOptions,
    *,
    default_prompts: tuple[str, ...],
    default_root: str | Path,
    beside_run: bool,
    process: int,
    say: Callable[[str], None],
) -> GenerationPlan:
    """Resolve and check the options of a generation. UsageError for what does not go together.

    default_prompts: the script's own prompts, used if the options name none.
    default_root: where the folder is created, unless --savepath names it.
    beside_run: whether the generation of a run is created in <run>/inferences instead.
    process: number of this process; each writes a part of the manifest.
    say: prints a line for the user.
    """
    resolved = _resolve(opts)
    values = _flag_values(opts)
    chosen, watching = mitigations.chosen(values), detectors.chosen(opts.detect, values)
    _require_supported(resolved, chosen, watching)
    _say_assumptions(resolved, chosen, say)
    prompts, style = _prompts(opts, resolved, default_prompts, say)
    _require_total(len(prompts), opts.im_batch)
    pipeline = _pipeline_plan(opts, resolved)
    images = _images_plan(opts, resolved, prompts, chosen, watching)
    settings = _settings(pipeline, images, values, style=style, iternum=opts.iternum)
    name = opts.run_name or default_name(chosen, settings)
    run = resolved.model.run if beside_run else None
    return GenerationPlan(
        pipeline=pipeline,
        images=images,
        settings=settings,
        folder=_folder(opts.savepath, run, name, default_root=default_root, process=process),
        batch_size=opts.batch_size,
        save_threads=opts.num_workers,
        label=opts.dataset,
        prompts_file=opts.prompts,
    )


def default_name(chosen: tuple[Mitigation, ...], settings: dict) -> str:
    """Name of a generation's folder: the published one, and 8 hex digits of the settings."""
    return f"{generation_name([m.name for m in chosen])}-{fingerprints.key_of(**settings)[:8]}"


def unmitigated(asked: GenerationPlan, *, named: bool, process: int) -> GenerationPlan:
    """The plan of the same images without mitigations, in a folder beside the mitigated ones.

    named: whether the options name the folder; the other is then <that>-without.
    """
    settings, path = asked.settings | mitigations.without(), asked.folder.path
    beside = f"{path}-without" if named else path.parent / default_name((), settings)
    return dataclasses.replace(
        asked,
        images=dataclasses.replace(asked.images, mitigations=()),
        settings=settings,
        folder=Generation(beside, process=process),
    )


def plans_of(opts: GenerationOptions, *, process: int, **places: Any) -> list[GenerationPlan]:
    """The generations that a script makes: one, and with --compare the one without mitigations
    before it.

    The folder of the one without mitigations has its own name, so that several mitigations share
    it; beside a folder that --savepath or --run_name names it is <that>-without.

    places: further arguments of `plan`.
    """
    if opts.compare and not mitigations.chosen(_flag_values(opts)):
        raise UsageError(
            "--compare shows what a mitigation changes, and none is on; give one, such as"
            " --rand_noise_lam 0.1"
        )
    asked = plan(opts, process=process, **places)
    if not opts.compare:
        return [asked]
    named = bool(opts.savepath or opts.run_name)
    return [unmitigated(asked, named=named, process=process), asked]
