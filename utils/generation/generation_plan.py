"""What a generation is to be, resolved from options and checked without loading the model."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from utils.files import generation_folder, run_folder
from utils.generation import mitigations
from utils.generation.prompts import choose_prompts
from utils.models import families, fingerprints, lora, schedulers
from utils.runtime import devices
from utils.runtime.errors import UsageError

DEFAULT_RESOLUTION = 256  # where no run records one, as published


@dataclass(frozen=True)
class Model:
    """Where the pipeline comes from. flag: the option that named it; run: the training run, or
    None; native: a base model by name, rendered at its own size."""

    flag: str
    source: str
    run: object
    native: bool


@dataclass(frozen=True)
class GenerationPlan:
    """All that decides a generation.

    pipeline_class, scheduler: their names; steps, scale: of the denoising loop; side: pixels of the
    finished images; prompts: [Prompt]; mitigations: of generation.mitigations; settings: by flag, a
    folder with others is not continued; folder: a Generation."""

    opts: object
    model: Model
    pipeline_class: str
    scheduler: str
    steps: int
    scale: float
    side: int
    prompts: list
    mitigations: tuple
    settings: dict
    folder: generation_folder.Generation

    @property
    def total(self):
        """Number of images."""
        return len(self.prompts) * self.opts.im_batch


def find_model(opts):
    """The model that the options name, checked as far as that goes without loading it."""
    if not opts.modelpath:
        source = opts.pretrained_model_name_or_path or opts.default_model
        return Model("--pretrained_model_name_or_path", source, None, True)
    run = run_folder.open_run("--modelpath", opts.modelpath)
    if run is not None:
        return Model("--modelpath", str(run.checkpoint("--modelpath", opts.iternum)), run, False)
    if opts.iternum is not None:
        raise UsageError(
            f"--iternum={opts.iternum} names a checkpoint of a run; {opts.modelpath!r} holds no"
            " run.json"
        )
    return Model("--modelpath", opts.modelpath, None, False)


def settings_of(opts, model, prompts, style, scheduler, *, side, steps, scale):
    """What decides the images, by flag.

    A run is known by its id and prompts by their hash, not by the path that names them today.
    """
    texts = json.dumps([[p.text, p.source_image] for p in prompts])
    return {
        "modelpath": model.run.record.get("id") if model.run else model.source,
        "iternum": opts.iternum,
        "capstyle": style,
        "nbatches": len(prompts),
        "im_batch": opts.im_batch,
        "resolution": side,
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "scheduler": scheduler,
        "negative_prompt": opts.negative_prompt,
        "lora": opts.lora and lora.lora_id(opts.lora),
        **mitigations.settings(vars(opts)),
        "seed": opts.seed,
        "mixed_precision": opts.mixed_precision,
        "prompts": hashlib.sha256(texts.encode()).hexdigest(),  # after what it may follow from
    }


def plan(opts, *, default_prompts, default_root, beside_run, process, say):
    """Resolve the options of a generation. process: number of this one; say: takes a line for the
    user. Returns: GenerationPlan.

    The folder is --savepath itself, else <run>/inferences/<name> for a run of which the caller
    wants that (`beside_run`), else <default_root>/<name>."""
    devices.dtype_of(opts.mixed_precision)
    model = find_model(opts)
    name, configs = families.read(model.flag, model.source)
    recorded = model.run.options["resolution"] if model.run else None
    side = opts.resolution or recorded or DEFAULT_RESOLUTION
    if not model.native:
        families.require_resolution(model.source, name, configs, side)
    if opts.lora:
        lora.require_lora(opts.lora)
    steps, scale = families.default_sampling(name)
    steps = opts.num_inference_steps or steps
    scale = scale if opts.guidance_scale is None else opts.guidance_scale
    base = model.native and families.FAMILIES[name].stable_diffusion
    wanted = opts.scheduler or ("DPMSolverMultistep" if base else None)
    scheduler, order, first = schedulers.plan_scheduler(name, wanted, configs, steps)
    guided = families.require_guidance(
        name,
        configs.denoiser,
        scale,
        opts.negative_prompt,
        scale_given=opts.guidance_scale is not None,
    )
    chosen = mitigations.chosen(vars(opts))
    tokenizer = any(all(configs.index.get(t) or [None]) for t in ("tokenizer", "tokenizer_2"))
    mitigations.require(chosen, guided=guided, tokenizer=tokenizer, order=order)
    first = first or configs.scheduler.get("num_train_timesteps", 1000)
    if opts.cfg_start not in (None, "auto") and opts.cfg_start >= first:
        raise UsageError(
            f"--cfg_start={opts.cfg_start:g} is not below the first timestep; takes auto, or 0 to"
            f" below {first:g}"
        )
    if opts.rand_noise_lam and not guided:
        say(
            "this pipeline runs without an unconditional branch: --rand_noise_lam goes onto the"
            " conditional one alone"
        )
    if not (opts.resolution or recorded or model.native):
        say(f"no run records a resolution: images of {side} px; --resolution takes another")
    prompts, style = choose_prompts(opts, model, default_prompts, say=say)
    settings = settings_of(
        opts, model, prompts, style, scheduler, side=side, steps=steps, scale=scale
    )
    root = model.run.path / "inferences" if model.run and beside_run else Path(default_root)
    folder = generation_folder.Generation(
        opts.savepath or root / (opts.run_name or default_name(chosen, settings)), process=process
    )
    return GenerationPlan(
        opts, model, name, scheduler, steps, scale, side, prompts, chosen, settings, folder
    )


def default_name(chosen, settings):
    """Name of a generation's folder: the published one, and 8 digits of the settings."""
    name = generation_folder.generation_name([m.name for m in chosen])
    return f"{name}-{fingerprints.key_of(**settings)[:8]}"


def unmitigated(asked, *, process):
    """The plan of the same images without mitigation, beside the one that is asked for."""
    settings, path = asked.settings | mitigations.without(), asked.folder.path
    named = asked.opts.savepath or asked.opts.run_name
    beside = f"{path}-without" if named else path.parent / default_name((), settings)
    return dataclasses.replace(
        asked,
        mitigations=(),
        settings=settings,
        folder=generation_folder.Generation(beside, process=process),
    )


def plans_of(opts, *, process, **places):
    """What a script is to make: with --compare also the generation without mitigation, first.
    Returns: [GenerationPlan].

    Its folder stands beside the other, under its own name, so that several mitigations share it; in
    a folder given with --savepath or --run_name it is `<that>-without`."""
    if opts.compare and not mitigations.chosen(vars(opts)):
        raise UsageError(
            "--compare shows what a mitigation changes, and none is on; takes one, as"
            " --rand_noise_lam 0.1"
        )
    asked = plan(opts, process=process, **places)
    return [unmitigated(asked, process=process), asked] if opts.compare else [asked]
