"""The training stage before its first step: options to data, a model, a plan, a record, and what is
encoded ahead."""

import functools
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from utils.data import captions, duplication, image_sets, tar_shards, training_data, transforms
from utils.files import owned_folders, run_folder
from utils.models import fingerprints, loading
from utils.reports.progress import progress
from utils.runtime import devices, environment, launching, parallel
from utils.runtime.errors import UsageError
from utils.training import ensemble, frozen_outputs, loss_control, train_mitigations, trainer

MANY = 5000  # images that take long enough to read for a bar

# Data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Images of --instance_data_dir that can be read, their captions (or None) and weights of
    --weights_file (or None)."""

    images: object
    texts: dict | None
    weights: object


def _listed(opts):
    """Returns: (ImageSet, captions that lie beside the images, or None)."""
    source = opts.instance_data_dir
    if not tar_shards.is_shards(source):
        return image_sets.list_images("--instance_data_dir", source), None
    if Path(source).is_dir() and image_sets.holds_images(source):
        raise UsageError(
            f"--instance_data_dir={source!r} holds tar files and images; takes a folder of one"
            " kind, or 'FOLDER/*.tar'"
        )
    return tar_shards.list_shards("--instance_data_dir", source)


def _texts(opts, images, beside, say):
    """Captions of the images, from a file or from beside them; None where the style takes none."""
    path = opts.instance_prompt_loc
    if path is None and beside is None and (images.root / "metadata.jsonl").is_file():
        path = images.root / "metadata.jsonl"
    if opts.class_prompt not in captions.USES_CAPTIONS or (
        path is None and opts.class_prompt == "instancelevel_random"
    ):
        return None
    if path is None:
        missing = [k for k in images.keys if k not in beside]
        if missing:
            raise UsageError(
                f"--instance_data_dir={opts.instance_data_dir!r}: {len(missing)} of {len(images)}"
                f" images have no .txt or .json member with a caption, first {missing[0]!r}; takes"
                " shards with captions, or --instance_prompt_loc"
            )
        return {k: beside[k] for k in images.keys}
    texts, foreign = captions.read_captions(path, images)
    if foreign:
        say(f"{foreign} captions have paths of another machine; matched by the end of the path")
    return texts


def checked_data(opts, say):
    """Images, captions and weights, read before any model loads. say: takes a line for the
    terminal. Returns: Data."""
    images, beside = _listed(opts)
    bar = functools.partial(
        progress,
        total=None,
        label="reading images, 256 at once",
        main_process=launching.first_process(),
    )
    images = image_sets.readable(
        "--instance_data_dir",
        images,
        max_bad=opts.max_bad_images,
        workers=opts.num_workers,
        show=bar if len(images) > MANY else lambda spans: spans,
    )
    for key, reason in images.bad:
        say(f"left out: {key} ({reason})")
    for folder in captions.empty_classes(images):
        say(f"no class: the folder {folder!r} holds no image")
    kept = (
        duplication.require_subset(len(images), opts.trainsubset)
        if opts.trainsubset
        else len(images)
    )
    if opts.clients_num > kept:
        raise UsageError(
            f"--clients_num={opts.clients_num} splits of {kept} images: takes at most one an image"
        )
    if opts.class_prompt == "classlevel":
        captions.resolve_prompts("classlevel", images)  # raises where images lie in no folder
    weights = None
    if opts.weights_file:
        weights, unnamed = duplication.read_weights("--weights_file", opts.weights_file, images)
        if unnamed:
            say(
                f"--weights_file: {unnamed} of {len(images)} images are not named; their weight"
                " is 1"
            )
    texts = _texts(opts, images, beside, say)
    if opts.class_prompt == "instancelevel_random":
        for caption in (c for found in (texts or {}).values() for c in found):
            # raises on text; the tokenizer, with the model, knows which ids there are
            captions.written_ids(caption)
    return Data(images, texts, weights)


# The job ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """All of a run. data: CaptionedImages of all splits; splits: indices of each; duplicated: keys;
    per_step: images of a copy's optimizer step."""

    model: trainer.Trainer
    copies: ensemble.Ensemble
    data: training_data.CaptionedImages
    splits: list
    duplicated: list
    per_step: int
    identity: dict

    @property
    def plan(self):
        return self.copies.plan

    @property
    def is_ensemble(self):
        return self.plan.splits > 1 or self.plan.rounds > 1


def hooks_and_data(opts, data, tokenizer, seed):
    """What follows from options and data alone. Returns: (CaptionedImages, keys of duplicated
    images, TrainHooks)."""
    images, weights = data.images, data.weights
    if opts.trainsubset:
        kept = duplication.subset(len(images), opts.trainsubset, seed)
        images, weights = images.take(kept), weights if weights is None else weights[kept]
    prompts = captions.resolve_prompts(
        opts.class_prompt, images, captions=data.texts, tokenizer=tokenizer, seed=seed
    )
    captioned, duplicated = training_data.captioned_images(
        images,
        prompts,
        style=opts.duplication,
        share=opts.weight_pc,
        weight=opts.dup_weight,
        seed=seed,
        weights=weights,
    )
    hooks = train_mitigations.train_hooks(
        duplication=opts.duplication,
        special=opts.trainspecial,
        p=opts.trainspecial_prob,
        noise=opts.rand_noise_lam,
        mixup=opts.mixup_noise_lam,
        tokenizer=tokenizer,
    )
    return captioned, duplicated, hooks


def build(opts, data, accelerator, seed):
    """The model in training, its draws and its plan. Returns: Job."""
    team = parallel.team(accelerator, opts.clients_num)
    parts = loading.load_parts(
        "--pretrained_model_name_or_path",
        opts.pretrained_model_name_or_path,
        revision=opts.revision,
        tokenizer=opts.tokenizer_name,
    )
    identity = {
        name: fingerprints.fingerprint(getattr(parts, name))
        for name in ("unet", "text_encoder", "vae")
    }
    if opts.unet_from_scratch == "yes":
        parts = replace(parts, unet=loading.from_scratch(parts.unet, seed))
    captioned, duplicated, hooks = hooks_and_data(opts, data, parts.tokenizer, seed)
    count = len(captioned.images)
    splits = training_data.split_images(count, opts.clients_num, seed)
    micro_batch = opts.train_batch_size * team.size
    per_step = micro_batch * opts.gradient_accumulation_steps
    if captioned.weights is not None and not all(
        captioned.weights[part].sum() > 0 for part in splits
    ):
        raise UsageError(
            f"--weights_file={opts.weights_file!r} leaves nothing to draw in a split or subset;"
            " takes more images of a weight above 0, or fewer --clients_num"
        )
    largest = max(len(s) for s in splits)
    steps = opts.max_train_steps or opts.num_train_epochs * math.ceil(largest / per_step)
    plan = ensemble.EnsemblePlan(tuple(len(s) for s in splits), opts.total_round, steps, team.count)
    optimisation = trainer.Optimisation(
        learning_rate=opts.learning_rate * (per_step if opts.scale_lr else 1),
        betas=(opts.adam_beta1, opts.adam_beta2),
        weight_decay=opts.adam_weight_decay,
        epsilon=opts.adam_epsilon,
        max_grad_norm=opts.max_grad_norm,
        schedule=opts.lr_scheduler,
        warmup_steps=opts.lr_warmup_steps,
        steps=steps * opts.total_round,
        accumulation=opts.gradient_accumulation_steps,
        snr_gamma=opts.snr_gamma,
        use_ema=opts.use_ema,
        eight_bit=opts.use_8bit_adam,
    )
    control = None
    if opts.mem_ratio:
        control = loss_control.AntiGradientControl(
            ratio=opts.mem_ratio,
            decay=opts.arr_ema_decay,
            bias_correction=opts.agc_bias_correction,
            num_timesteps=parts.noise_scheduler.config.num_train_timesteps,
            device=accelerator.device,
        )
    model = trainer.Trainer(
        parts,
        accelerator=accelerator,
        team=team,
        dtype=devices.dtype_of(opts.mixed_precision),
        optimisation=optimisation,
        hooks=hooks,
        seed=seed,
        resolution=opts.resolution,
        train_text_encoder=opts.train_text_encoder,
        gradient_checkpointing=opts.gradient_checkpointing,
        compiled=opts.compile,
        control=control,
        images=count,
    )
    read = functools.partial(
        transforms.training_input,
        resolution=opts.resolution,
        center_crop=opts.center_crop,
        random_flip=opts.random_flip,
    )
    draws = {
        k: training_data.Draws(
            captioned.take(splits[k]),
            seed=seed,
            split=k,
            global_batch=micro_batch,
            transform=read,
            choose_caption=hooks.choose_caption,
            partners=bool(hooks.mixup),
            random_flip=opts.random_flip,
        )
        for k in range(team.number, plan.splits, team.count)
    }
    return Job(
        model,
        ensemble.Ensemble(model, plan, draws),
        captioned,
        splits,
        duplicated,
        per_step,
        identity,
    )


def gib(size):
    """Bytes as text."""
    return f"{size / 2**30:.2f} GiB"


def require_host_memory(job, say):
    """Print what waiting copies need in host memory and what is free; UsageError when it is not
    enough."""
    import psutil

    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that share this machine's memory
    need, free = here * job.copies.host_bytes(), psutil.virtual_memory().available
    if not need:
        return
    say(
        f"{job.plan.turns} copies take turns; those that wait need {gib(need)} of host memory,"
        f" {gib(free)} are free"
    )
    if need > free:
        raise UsageError(
            f"--clients_num={job.plan.splits}: waiting copies need {gib(need)} of host memory,"
            f" {gib(free)} are free; takes fewer, or more processes"
        )


# What is encoded ahead ----------------------------------------------------------------------------


def _worth(rows, cached, before, draws, what, processes, say):
    """Whether a cache pays and fits, which all processes decide alike; says why not. before: bytes
    promised to others."""
    fits, free = cached.fits(before)
    if draws < rows:
        say(
            f"{what} are computed as they come: the run draws {draws} and a cache would hold {rows}"
        )
        return False
    if processes.any(not fits):
        say(
            f"{what} are not cached: {gib(cached.bytes)} are needed in {cached.folder.parent},"
            f" {gib(free - before)} are free"
        )
        return False
    return True


def encode_ahead(job, opts, folder, processes, say):
    """Compute what the frozen networks say of images and captions, once, and hand it to the model
    (--cache_latents auto).

    Returns: what is kept, of "latents" and "captions".
    """
    if opts.cache_latents == "off":
        return []
    model, images, plan = job.model, job.data.images, job.plan
    drawn = plan.rounds * plan.steps * plan.splits * job.per_step
    share = {"device": model.device, "process": processes.index, "processes": processes.count}
    built, promised = [], 0
    if not opts.center_crop:
        say("latents are not cached: without --center_crop every draw sees another window")
    else:
        latents = frozen_outputs.Latents(
            folder,
            images,
            model.parts,
            resolution=opts.resolution,
            flips=opts.random_flip,
            dtype=model.dtype,
        )
        if _worth(
            len(images) * (1 + opts.random_flip), latents.rows, 0, drawn, "latents", processes, say
        ):
            built.append(
                (
                    "latents",
                    latents,
                    latents.build(model.vae, num_workers=opts.num_workers, **share),
                )
            )
            promised = latents.rows.bytes
            model.cached_latents = latents
            for draws in job.copies.draws.values():
                draws.transform = None
    if model.text_encoder is not None and model.hooks.prompts is not None:
        prompts = sorted({p for k in images.keys for p in model.hooks.prompts(job.data.prompts[k])})
        texts = frozen_outputs.Embeddings(folder, prompts, model.parts, dtype=model.dtype)
        if _worth(
            len(prompts), texts.rows, promised, drawn, "embeddings of captions", processes, say
        ):
            built.append(("captions", texts, texts.build(model.text_encoder, **share)))
            model.cached_text = texts
    for label, cached, rows in built:
        missing = cached.rows.count_missing(processes.index, processes.count)
        for _ in progress(
            rows,
            total=missing,
            label=f"encoding {label}",
            main_process=processes.main and missing > 0,
        ):
            pass
        processes.wait()  # each process writes parts of its own and reads all
        cached.rows.open()
    return [label for label, *_ in built]


# The record, and resuming -------------------------------------------------------------------------

MADE = "the run in --output_dir was made with"
# schedules that do not look at the number of steps
EXTENDABLE = ("constant", "constant_with_warmup")


def record_of(opts, job, run, *, shown, seed, processes):
    """run.json before the first step. shown: options as they are recorded."""
    used = job.data.images
    record = {
        "options": shown,
        "environment": environment.environment(),
        "seed": seed,
        "threads": devices.threads(),
        "processes": processes,
        "steps": job.plan.steps,
        "places": owned_folders.relative_to(
            run.path, instance_data_dir=str(used.root), instance_prompt_loc=opts.instance_prompt_loc
        ),
        "id": run_folder.new_id(),
        "data": {"images": len(used), "fingerprint": used.fingerprint, "bad": list(used.bad)},
        "model": job.identity,
        "captions": fingerprints.key_of(prompts=job.data.prompts),
        "weights": fingerprints.key_of(
            weights=None if job.data.weights is None else job.data.weights.tolist()
        ),
        "classes": captions.class_names(used),
        "duplicated": job.duplicated,
        "counterfactual": opts.duplication == "nodup",
    }
    if job.plan.splits > 1:
        record["shards"] = {used.keys[i]: k for k, part in enumerate(job.splits) for i in part}
    return record


def require_same_options(record, opts, changed):
    """UsageError naming an option that differs from the run on disk and would change its result;
    before a model loads.

    record: run.json on disk; changed: names of options that differ.
    """
    absent = [
        k for k in ("model", "captions", "weights", "processes", "steps", "seed") if k not in record
    ]
    if absent:
        raise UsageError(
            f"--output_dir={opts.output_dir!r}: run.json has no {absent[0]!r}; an older version of"
            " the toolkit made it, which cannot be resumed; takes a new folder"
        )
    if changed:
        name, old = changed[0], record["options"][changed[0]]
        raise UsageError(
            f"--{name}={getattr(opts, name)!r}: {MADE} {old!r}; takes the same, or a new"
            " --output_dir"
        )
    if opts.seed is not None and opts.seed != record["seed"]:
        raise UsageError(f"--seed={opts.seed}: {MADE} {record['seed']}; takes the same")


def require_same(record, opts, job, fresh):
    """UsageError naming what else differs between a run on disk and the one that is asked for, if
    it would change the result. fresh: what run.json would be now."""
    if record["data"]["fingerprint"] != fresh["data"]["fingerprint"]:
        raise UsageError(
            f"--instance_data_dir={opts.instance_data_dir!r}: {MADE} other images; takes the same"
        )
    for key, flag, what in (
        ("model", "--pretrained_model_name_or_path", "another model"),
        ("captions", "--instance_prompt_loc", "other captions"),
        ("weights", "--weights_file", "other weights"),
    ):
        if record[key] != fresh[key]:
            raise UsageError(
                f"{flag}={getattr(opts, flag[2:])!r}: {MADE} {what}; takes the same, or a new"
                " --output_dir"
            )
    if record["processes"] != fresh["processes"]:
        raise UsageError(
            f"{fresh['processes']} processes: {MADE} {record['processes']}; takes the same"
        )
    longer = (
        fresh["steps"] > record["steps"] and opts.lr_scheduler in EXTENDABLE and not job.is_ensemble
    )
    if fresh["steps"] != record["steps"] and not longer:
        raise UsageError(
            f"--max_train_steps={opts.max_train_steps}: {MADE} {record['steps']} steps; takes the"
            f" same, or more with --lr_scheduler {' or '.join(EXTENDABLE)} and one round"
        )
