"""What diff_inference.py and sd_mitigation.py share: from options to a finished generation folder."""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from utils import devices, generations, manifest, runs
from utils.data.caption_edits import RandomTokens
from utils.diffusion import families, generation, mitigation, models
from utils.errors import Stopped, UsageError
from utils.reports import galleries
from utils.stages.prompts import choose_prompts

DEFAULT_RESOLUTION = 256  # where no run records one, as published
PAIRS = 48  # of a --compare grid: as many as one looks at


@dataclass(frozen=True)
class Model:
    """Where the pipeline comes from. flag: the option that named it; run: the training run, or None; native: a base
    model by name, rendered at its own size."""

    flag: str
    source: str
    run: object
    native: bool


@dataclass(frozen=True)
class Plan:
    """All that decides a generation, resolved and checked without loading the model.

    pipeline_class: its name; steps, scale: of the denoising loop; side: pixels of the finished images; prompts: [Prompt];
    mitigations: of diffusion.mitigation; settings: by flag, a folder with others is not continued; folder: a Generation.
    """

    opts: object
    model: Model
    pipeline_class: str
    steps: int
    scale: float
    side: int
    prompts: list
    mitigations: tuple
    settings: dict
    folder: generations.Generation

    @property
    def total(self):
        """Number of images."""
        return len(self.prompts) * self.opts.im_batch


def find_model(opts):
    """The model that the options name, checked as far as that goes without loading it."""
    if not opts.modelpath:
        source = opts.pretrained_model_name_or_path or opts.default_model
        return Model("--pretrained_model_name_or_path", source, None, True)
    run = runs.open_run("--modelpath", opts.modelpath)
    if run is not None:
        return Model("--modelpath", str(run.checkpoint("--modelpath", opts.iternum)), run, False)
    if opts.iternum is not None:
        raise UsageError(f"--iternum={opts.iternum} names a checkpoint of a run; {opts.modelpath!r} holds no run.json")
    return Model("--modelpath", opts.modelpath, None, False)


def settings_of(opts, model, prompts, style, *, side, steps, scale):
    """What decides the images, by flag.

    A run is known by its id and prompts by their hash, not by the path that names them today.
    """
    texts = json.dumps([[p.text, p.source_image] for p in prompts])
    return {
        "modelpath": model.run.record.get("id") if model.run else model.source, "iternum": opts.iternum,
        "capstyle": style, "prompts": hashlib.sha256(texts.encode()).hexdigest(), "nbatches": len(prompts),
        "im_batch": opts.im_batch, "resolution": side, "num_inference_steps": steps, "guidance_scale": scale,
        "scheduler": opts.scheduler, "negative_prompt": opts.negative_prompt,
        "lora": opts.lora and models.lora_id(opts.lora), **mitigation.settings(vars(opts)),
        "seed": opts.seed, "mixed_precision": opts.mixed_precision,
    }  # fmt: skip


def plan(opts, *, default_prompts, default_root, beside_run, process, say):
    """Resolve the options of a generation. process: number of this one; say: takes a line for the user. Returns: Plan.

    The folder is --savepath itself, else <run>/inferences/<name> for a run of which the caller wants that (`beside_run`),
    else <default_root>/<name>.
    """
    devices.dtype_of(opts.mixed_precision)
    model = find_model(opts)
    name, configs = families.read(model.flag, model.source)
    recorded = model.run.options["resolution"] if model.run else None
    side = opts.resolution or recorded or DEFAULT_RESOLUTION
    if not model.native:
        families.require_resolution(model.source, name, configs, side)
    if opts.scheduler:
        families.require_scheduler("--scheduler", opts.scheduler, name)
    if opts.lora:
        models.require_lora(opts.lora)
    steps, scale = families.default_sampling(name)
    steps = opts.num_inference_steps or steps
    scale = scale if opts.guidance_scale is None else opts.guidance_scale
    guided = families.require_guidance(
        name, configs.denoiser, scale, opts.negative_prompt, scale_given=opts.guidance_scale is not None
    )
    mitigations = mitigation.chosen(vars(opts))
    mitigation.require(mitigations, guided=guided, tokenizer=all(configs.index.get("tokenizer") or [None]))
    if opts.rand_noise_lam and not guided:
        say("this pipeline runs without an unconditional branch: --rand_noise_lam goes onto the conditional one alone")
    prompts, style = choose_prompts(opts, model, default_prompts, say=say)
    settings = settings_of(opts, model, prompts, style, side=side, steps=steps, scale=scale)
    digits = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    named = opts.run_name or f"{generations.generation_name([m.name for m in mitigations])}-{digits}"
    root = model.run.path / "inferences" if model.run and beside_run else Path(default_root)
    folder = generations.Generation(opts.savepath or root / named, process=process)
    return Plan(opts, model, name, steps, scale, side, prompts, mitigations, settings, folder)


def load(opts, model, device):
    """The pipeline, on its device, with the scheduler and the LoRA weights that the options choose."""
    pipeline = models.load_pipeline(model.flag, model.source, dtype=devices.dtype_of(opts.mixed_precision))
    base = model.native and families.family_of(pipeline).stable_diffusion
    families.use_scheduler(pipeline, opts.scheduler or ("DPMSolverMultistep" if base else None))
    if opts.lora:
        models.load_lora(pipeline, opts.lora)
    pipeline.to(device)
    if opts.compile:
        generation.compile_denoiser(pipeline)
    return pipeline


def reduced(image, side):
    """The image, Lanczos-reduced to `side` pixels when it is larger."""
    from PIL import Image

    return image.resize((side, side), Image.Resampling.LANCZOS) if max(image.size) > side else image


def _share(items, processes):
    """What this process does of a list: consecutive, sizes differing by at most one."""
    return items[len(items) * processes.index // processes.count : len(items) * (processes.index + 1) // processes.count]


def _say_what_is_cut(plan, pipeline, hooks, say):
    """Count the prompts of which the end does not reach the model, and say so once."""
    edited = (generation.edited_prompt(plan.prompts, hooks, n, seed=plan.opts.seed) for n in range(len(plan.prompts)))
    cut, limit = generation.too_long(pipeline, edited)
    if cut:
        say(f"{len(cut)} prompts are longer than the {limit} tokens that the model takes; what is beyond has no effect. "
            f"The first: {cut[0][:80]!r}")  # fmt: skip
    return len(cut)


def make(plan, pipeline, *, processes, progress, say):
    """Make what is missing of a generation, each process its share, and finish the folder. Returns: how many were new."""
    opts, folder = plan.opts, plan.folder
    rows = folder.rows(plan.settings)
    tokens = None if pipeline.tokenizer is None else RandomTokens(pipeline.tokenizer)
    hooks = mitigation.SampleHooks(plan.mitigations, tokens)
    cut = _say_what_is_cut(plan, pipeline, hooks, say) if processes.main else None
    done = {row["index"] for row in rows}
    missing = [index for index in range(plan.total) if index not in done]
    processes.wait()  # every process has read what is there
    if processes.main:
        folder.begin(plan.settings, rows)
    processes.wait()
    if not processes.main:
        folder.begin(plan.settings)
    mine = _share(missing, processes)
    jobs = generation.image_jobs(plan.prompts, hooks, images_per_prompt=opts.im_batch, seed=opts.seed, indices=mine)
    sampling = generation.SampleSettings(
        steps=plan.steps, guidance=plan.scale, side=None if plan.model.native else plan.side,
        negative_prompt=opts.negative_prompt,
    )  # fmt: skip
    images = generation.generate(
        pipeline, jobs, settings=sampling, hooks=hooks, batch_size=opts.batch_size, device=pipeline.device
    )
    if plan.model.native:
        images = (dataclasses.replace(made, image=reduced(made.image, plan.side)) for made in images)
    label = "generating" if processes.count == 1 else f"generating, process 1 of {processes.count}"
    saved = folder.save(images, waiting=4 * opts.batch_size)
    for _ in progress(saved, total=len(mine), label=label) if processes.main else saved:
        pass
    processes.wait()
    if processes.main:
        _finish(plan, pipeline, cut=cut, processes=processes)
    return len(missing)


def _finish(plan, pipeline, *, cut, processes):
    opts, model, folder = plan.opts, plan.model, plan.folder
    folder.finish(
        settings=plan.settings, label=opts.dataset, batch_size=opts.batch_size, processes=processes.count,
        dtype=str(pipeline.dtype), pipeline=plan.pipeline_class, scheduler=type(pipeline.scheduler).__name__,
        safety_checker="never loaded", prompts_cut=cut, environment=runs.environment(),
        model={"modelpath": opts.modelpath, "source": model.source}, prompts=opts.prompts,
        run=os.path.relpath(model.run.path.resolve(), folder.path.resolve()) if model.run else None, seed=opts.seed,
    )  # fmt: skip


def plans_of(opts, *, process, say, **places):
    """What a script is to make: with --compare also the generation without mitigation, first. Returns: [Plan].

    Its folder stands beside the other, under its own name, so that several mitigations share it; in a folder given with
    --savepath or --run_name it is `<that>-without`.
    """
    asked = plan(opts, process=process, say=say, **places)
    if not opts.compare:
        return [asked]
    if not asked.mitigations:
        raise UsageError(
            "--compare shows what a mitigation changes; takes one of --rand_noise_lam, --rand_augs, --cfg_start"
        )
    given = {"savepath": opts.savepath and f"{opts.savepath.rstrip('/')}-without",
             "run_name": opts.run_name and f"{opts.run_name}-without"}  # fmt: skip
    plain = dataclasses.replace(opts, **mitigation.without(), **given)
    return [plan(plain, process=process, say=lambda line: None, **places), asked]


def compare(plain, mitigated):
    """Write the pairs of two generations with the same noise as one grid into the second's folder. Returns: its path."""
    from PIL import Image

    found = [{row["index"]: row for row in manifest.read_manifest(f.manifest_path, "generation")["images"]}
             for f in (plain, mitigated)]  # fmt: skip
    shown = sorted(found[1])[:PAIRS]
    rows = []
    for index in shown:
        before, after = found[0][index], found[1][index]
        edited = after["prompt"] if after["prompt"] != after["source_prompt"] else ""
        pair = [Image.open(f.path / row["file"]) for f, row in ((plain, before), (mitigated, after))]
        rows.append((pair, after["source_prompt"], edited))
    with manifest.whole_file(mitigated.path / "compare.png") as part:
        galleries.pair_grid(rows, titles=("without", "with")).save(part, format="PNG")
    return mitigated.path / "compare.png"


def generate_folders(opts, *, default_prompts=(), default_root, beside_run, progress, say):
    """Make the generation that the options ask for, or continue it, or find it finished; with --compare two and their grid.

    say: takes a line for the user. Returns: a line to end with; under --dry_run the plan, as JSON.
    """
    processes = devices.Processes(devices.accelerator(mixed_precision="no"))
    say = say if processes.main else lambda line: None
    if opts.captoken is not None:
        say(f"--captoken={opts.captoken!r} is accepted; it never had an effect in the published script either")
    plans = plans_of(opts, process=processes.index, say=say, default_prompts=default_prompts, default_root=default_root,
                     beside_run=beside_run)  # fmt: skip
    if opts.dry_run:
        written = [p for each in plans for p in each.folder.planned()]
        return json.dumps(
            {"options": plans[-1].settings, "images": sum(p.total for p in plans), "writes": written}, indent=1
        )
    said, pipeline = [], None
    for each in plans:
        there = len(each.folder.rows(each.settings)) == each.total and each.folder.manifest_path.is_file()
        pipeline = pipeline or (None if there else load(opts, each.model, processes.device))
        try:
            new = 0 if there else make(each, pipeline, processes=processes, progress=progress, say=say)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; the same command goes on with {each.folder.path}", 2) from None
        said.append(f"{each.total} images ({new} new) in {each.folder.path}")
    if opts.compare and processes.main:
        said.append(f"pairs: {compare(plans[0].folder, plans[1].folder)}")
    return "\n".join(said)
