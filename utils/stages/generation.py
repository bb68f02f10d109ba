"""What diff_inference.py and sd_mitigation.py share: from options to a finished generation folder."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from utils import devices, generations, manifest, runs, seeding
from utils.data import captions, image_sets
from utils.diffusion import generation, mitigation, models
from utils.errors import DataError, UsageError, require_file
from utils.records import Prompt

DEFAULT_RESOLUTION = 256  # where no run records one, as published


@dataclass(frozen=True)
class Model:
    """Where the pipeline comes from. flag: the option that named it; run: the training run, or None; native: a base
    model by name, rendered at its own size."""

    flag: str
    source: str
    run: object
    native: bool


def find_model(opts):
    """The model that the options name, checked as far as that goes without loading it."""
    if not opts.modelpath:
        source = opts.pretrained_model_name_or_path or opts.default_model
        models.require_pipeline("--pretrained_model_name_or_path", source)
        return Model("--pretrained_model_name_or_path", source, None, True)
    run = runs.open_run("--modelpath", opts.modelpath)
    if run is not None:
        return Model("--modelpath", str(run.checkpoint("--modelpath", opts.iternum)), run, False)
    if opts.iternum is not None:
        raise UsageError(f"--iternum={opts.iternum} names a checkpoint of a run; {opts.modelpath!r} holds no run.json")
    models.require_pipeline("--modelpath", opts.modelpath)
    return Model("--modelpath", opts.modelpath, None, False)


def read_prompts(path):
    """Prompts of a file: .txt one a line, .jsonl with `prompt`, .json a list or a captions file. Returns: [Prompt].

    A captions file gives caption 0 of each image, and the image's key as source_image.
    """
    path = require_file("--prompts", path)
    if path.suffix == ".json":
        data = manifest.read_json(path)
        if isinstance(data, dict):
            firsts = ((key, v[0] if isinstance(v, list) and v else v) for key, v in data.items())
            found = [Prompt(text, key) for key, text in firsts]
        else:
            found = [Prompt(text) for text in data] if isinstance(data, list) else []
    elif path.suffix in (".txt", ".jsonl"):
        try:
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            found = [Prompt(json.loads(line)["prompt"] if path.suffix == ".jsonl" else line.strip("\r")) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"--prompts={str(path)!r}: not UTF-8 text, or a line without a prompt ({error})") from None
    else:
        raise UsageError(f"--prompts={str(path)!r} is of an unknown form; takes .txt, .json or .jsonl")
    if not found or not all(isinstance(p.text, str) for p in found):
        raise DataError(f"--prompts={str(path)!r} holds no prompts, or entries that are not text")
    return found


def _styled_captions(opts, model, style):
    """{image key: prompts} of a prompt style: as the run resolved them, or anew where the options ask for others."""
    recorded = model.run.options if model.run else {}
    if model.run and style == recorded["class_prompt"] and not opts.instance_prompt_loc:
        return model.run.captions()
    recorded_place = model.run.located("instance_prompt_loc") if model.run else None
    location = opts.instance_prompt_loc or recorded_place
    if style in captions.USES_CAPTIONS and style != "instancelevel_random" and not location:
        raise UsageError(f"--capstyle={style!r} needs --instance_prompt_loc, a captions JSON")
    if model.run:
        keys, root = tuple(model.run.captions()), model.run.located("instance_data_dir")  # what it was trained on, no more
    else:
        found = manifest.read_json(require_file("--instance_prompt_loc", location))
        keys, root = tuple(sorted(found, key=image_sets.natural_key)), Path(location).parent
    images = image_sets.ImageSet(root, keys, (0,) * len(keys))
    texts = captions.read_captions(location, images)[0] if location and style in captions.USES_CAPTIONS else None
    tokenizer = models.load_tokenizer(model.flag, model.source) if style == "instancelevel_random" else None
    return captions.resolve_prompts(style, images, captions=texts, tokenizer=tokenizer, seed=opts.seed)


def draw_prompts(resolved, style, *, count, seed):
    """`count` draws with replacement: uniform over classes under classlevel, else over images. Returns: [Prompt]."""
    distinct = list(dict.fromkeys(p[0] for p in resolved.values()))
    keys = list(resolved)
    drawn = []
    for number in range(count):
        rng = seeding.numpy_rng(seed, "prompt", number)
        if style in ("classlevel", "nolevel"):
            drawn.append(Prompt(distinct[rng.integers(len(distinct))]))
        else:
            key = keys[rng.integers(len(keys))]
            drawn.append(Prompt(resolved[key][0], key))
    return drawn


def choose_prompts(opts, model, default_prompts, *, say):
    """The prompts of a generation, in order, and the style they were drawn with, if any. Returns: ([Prompt], style)."""
    given = read_prompts(opts.prompts) if opts.prompts else [Prompt(text) for text in opts.prompt or default_prompts]
    if given:
        count = opts.nbatches or len(given)
        if count > len(given):
            say(f"-nb {count} is more than the {len(given)} prompts given; they are used again in order")
        return [given[i % len(given)] for i in range(count)], None
    style = opts.capstyle or (model.run.options["class_prompt"] if model.run else None)
    if style is None or (model.run is None and not opts.instance_prompt_loc):
        raise UsageError(
            f"{model.source!r} has no run.json to draw prompts from; give --prompts, --prompt, or --capstyle with "
            "--instance_prompt_loc"
        )
    return draw_prompts(_styled_captions(opts, model, style), style, count=opts.nbatches, seed=opts.seed), style


def settings_of(opts, model, prompts, style, side):
    """What decides the images, by flag; a folder with other settings is not continued.

    A run is known by its id and prompts by their hash, not by the path that names them today.
    """
    texts = json.dumps([[p.text, p.source_image] for p in prompts])
    return {
        "modelpath": model.run.record.get("id") if model.run else model.source, "iternum": opts.iternum,
        "capstyle": style, "prompts": hashlib.sha256(texts.encode()).hexdigest(), "nbatches": len(prompts),
        "im_batch": opts.im_batch, "resolution": side, "num_inference_steps": opts.num_inference_steps,
        "guidance_scale": opts.guidance_scale, "scheduler": opts.scheduler,
        "negative_prompt": opts.negative_prompt or "", "rand_noise_lam": opts.rand_noise_lam,
        "rand_augs": opts.rand_augs, "rand_aug_repeats": opts.rand_aug_repeats if opts.rand_augs else None,
        "seed": opts.seed, "mixed_precision": opts.mixed_precision,
    }  # fmt: skip


def folder_of(opts, model, settings, *, default_root, beside_run):
    """Where the generation goes: --savepath itself, else <run>/inferences/<name> for a run of which the caller wants that
    (`beside_run`), else <default_root>/<name>."""
    if opts.savepath:
        return generations.Generation(opts.savepath)
    digits = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = opts.run_name or f"{generations.generation_name(opts)}-{digits}"
    return generations.Generation((model.run.path / "inferences" if model.run and beside_run else Path(default_root)) / name)


def load(opts, model):
    """The pipeline, on its device, with the scheduler that the options choose."""
    pipeline = models.load_pipeline(model.flag, model.source, dtype=devices.dtype_of(opts.mixed_precision))
    if type(pipeline).__name__ != "StableDiffusionPipeline":
        raise UsageError(
            f"{model.flag}={model.source!r} is a {type(pipeline).__name__}; this version generates with "
            "StableDiffusionPipeline (SD 1.x and 2.x)"
        )
    if opts.scheduler or model.native:
        generation.use_scheduler(pipeline, opts.scheduler or "DPMSolverMultistep")
    return pipeline.to(devices.default_device())


def reduced(image, side):
    """The image, Lanczos-reduced to `side` pixels when it is larger."""
    from PIL import Image

    return image.resize((side, side), Image.Resampling.LANCZOS) if max(image.size) > side else image


def generate_folder(opts, *, default_prompts=(), default_root, beside_run, progress, say):
    """Make a generation, or continue it, or find it finished. say: takes a line for the user.

    Returns: (generations.Generation, number of images, how many were new, settings).
    """
    devices.one_process(opts.script)
    devices.dtype_of(opts.mixed_precision)
    model = find_model(opts)
    recorded = model.run.options["resolution"] if model.run else None
    side = opts.resolution or recorded or DEFAULT_RESOLUTION
    if not model.native:
        models.require_resolution(model.flag, model.source, side)
    if opts.scheduler:
        generation.require_scheduler(opts.scheduler)
    prompts, style = choose_prompts(opts, model, default_prompts, say=say)
    settings = settings_of(opts, model, prompts, style, side)
    folder = folder_of(opts, model, settings, default_root=default_root, beside_run=beside_run)
    total = len(prompts) * opts.im_batch
    rows = folder.rows(settings)
    if opts.dry_run or len(rows) == total and folder.manifest_path.is_file():
        return folder, total, 0, settings
    pipeline = load(opts, model)
    hooks = mitigation.sample_hooks(
        edit=opts.rand_augs, times=opts.rand_aug_repeats, noise=opts.rand_noise_lam, tokenizer=pipeline.tokenizer
    )
    jobs = generation.image_jobs(prompts, hooks, images_per_prompt=opts.im_batch, seed=opts.seed)
    done = {row["index"] for row in rows}
    missing = [job for job in jobs if job.index not in done]
    sampling = generation.SampleSettings(
        steps=opts.num_inference_steps, guidance=opts.guidance_scale, side=None if model.native else side,
        negative_prompt=opts.negative_prompt or "",
    )  # fmt: skip
    folder.begin(settings, rows)
    images = generation.generate(
        pipeline, missing, settings=sampling, hooks=hooks, batch_size=opts.batch_size, device=pipeline.device
    )
    for job, image in progress(images, total=len(missing), label="generating"):
        rows.append(folder.add(job, reduced(image, side) if model.native else image))
    folder.finish(
        rows, settings=settings, label=opts.dataset, batch_size=opts.batch_size, dtype=str(pipeline.unet.dtype),
        scheduler=type(pipeline.scheduler).__name__, safety_checker="never loaded", environment=runs.environment(),
        model={"modelpath": opts.modelpath, "source": model.source}, prompts=opts.prompts,
        run=os.path.relpath(model.run.path.resolve(), folder.path.resolve()) if model.run else None, seed=opts.seed,
    )  # fmt: skip
    return folder, len(rows), len(missing), settings


def outcome(opts, folder, total, new, settings):
    """What a script says last of `generate_folder`'s answer: under --dry_run the plan as JSON, else a line."""
    if opts.dry_run:
        return json.dumps({"options": settings, "images": total, "writes": folder.planned()}, indent=1)
    return f"{total} images ({new} new) in {folder.path}"
