"""Fine-tune a text-to-image diffusion model, with a duplication, a conditioning and mitigations of copying."""

import functools
import json
import math

from utils import flags, options

CACHED_PIXELS = 2**29  # 8,192 images of 256 px: posteriors of 256 MiB with Stable Diffusion's autoencoder, 0.5 bytes a pixel


def checked_data(opts):
    """Images and captions, read before any model loads. Returns: (ImageSet, captions or None)."""
    from utils.data import captions, duplication, image_sets

    images = image_sets.list_images("--instance_data_dir", opts.instance_data_dir)
    images = image_sets.readable(
        "--instance_data_dir", images, max_bad=opts.max_bad_images, workers=opts.num_workers
    )  # fmt: skip
    for key, reason in images.bad:
        print(f"left out: {key} ({reason})")
    for folder in captions.empty_classes(images):
        print(f"no class: the folder {folder!r} holds no image")
    if opts.trainsubset:
        duplication.require_subset(len(images), opts.trainsubset)
    if opts.class_prompt == "classlevel":
        captions.resolve_prompts("classlevel", images)  # raises where images lie in no folder
    if not opts.instance_prompt_loc or opts.class_prompt not in captions.USES_CAPTIONS:
        return images, None
    texts, foreign = captions.read_captions(opts.instance_prompt_loc, images)
    if foreign:
        print(f"{foreign} captions have paths of another machine; matched by the end of the path")
    return images, texts


def build(opts, images, texts, accelerator, seed):
    """The model in training and the draws it trains on. Returns: (Training, Draws, keys of duplicated images, steps)."""
    from utils import devices
    from utils.data import captions, duplication, training_data, transforms
    from utils.diffusion import mitigation, models, training

    parts = models.load_parts("--pretrained_model_name_or_path", opts.pretrained_model_name_or_path,
                              revision=opts.revision, tokenizer=opts.tokenizer_name)  # fmt: skip
    if opts.trainsubset:
        images = images.take(duplication.subset(len(images), opts.trainsubset, seed))
    prompts = captions.resolve_prompts(opts.class_prompt, images, captions=texts, tokenizer=parts.tokenizer, seed=seed)
    data, duplicated = training_data.captioned_images(
        images, prompts, style=opts.duplication, share=opts.weight_pc, weight=opts.dup_weight, seed=seed
    )
    hooks = mitigation.train_hooks(
        duplication=opts.duplication, special=opts.trainspecial, p=opts.trainspecial_prob, noise=opts.rand_noise_lam,
        mixup=opts.mixup_noise_lam, tokenizer=parts.tokenizer,
    )  # fmt: skip
    micro_batch = opts.train_batch_size * accelerator.num_processes
    per_step = micro_batch * opts.gradient_accumulation_steps
    steps = opts.max_train_steps or opts.num_train_epochs * math.ceil(len(images) / per_step)
    draws = training_data.Draws(
        data, seed=seed, global_batch=micro_batch, choose_caption=hooks.choose_caption, partners=bool(hooks.mixup),
        transform=functools.partial(transforms.training_input, resolution=opts.resolution,
                                    center_crop=opts.center_crop, random_flip=opts.random_flip),
    )  # fmt: skip
    optimisation = training.Optimisation(
        learning_rate=opts.learning_rate * (per_step if opts.scale_lr else 1), betas=(opts.adam_beta1, opts.adam_beta2),
        weight_decay=opts.adam_weight_decay, epsilon=opts.adam_epsilon, max_grad_norm=opts.max_grad_norm,
        schedule=opts.lr_scheduler, warmup_steps=opts.lr_warmup_steps, steps=steps,
    )  # fmt: skip
    model = training.Training(
        parts, accelerator=accelerator, dtype=devices.dtype_of(opts.mixed_precision), optimisation=optimisation,
        hooks=hooks, seed=seed, resolution=opts.resolution,
        still=opts.center_crop and not opts.random_flip and len(images) * opts.resolution**2 <= CACHED_PIXELS,
    )  # fmt: skip
    return model, draws, duplicated, per_step


def train(model, draws, opts, run, tracker, per_step):
    """The loop: log, preview, checkpoint. Returns: seconds of the steps, without previews and checkpoints."""
    from utils.diffusion import training
    from utils.reports.progress import Pauses, progress
    from utils.stages.previews import preview

    accelerator, steps, pauses = model.accelerator, model.optimisation.steps, Pauses()
    reports = []
    looped = model.run(draws, batch_size=opts.train_batch_size, accumulation=opts.gradient_accumulation_steps,
                       num_workers=opts.num_workers)  # fmt: skip
    for report in progress(looped, total=steps, label="training", main_process=accelerator.is_main_process):
        step, last = report.step, report.step == steps
        reports.append(report)
        logs, shows = (last or step % n == 0 for n in (opts.log_steps, opts.save_steps))
        saves = step % opts.modelsavesteps == 0
        if logs or shows or saves:
            loss = training.mean_loss(accelerator, reports)  # raises before anything is saved of a broken model
        if logs:
            reports = []
            run.append_metrics({"step": step, "samples": step * per_step, "loss": loss, "lr": report.lr})
            tracker.log({"loss": loss, "lr": report.lr}, step)
        with pauses:
            if shows:
                preview(model, draws.data.prompts, run.preview_path(step), count=opts.sample_batch_size,
                        seed=opts.generation_seed, side=opts.resolution)  # fmt: skip
                tracker.image("generations", run.preview_path(step), step)
            if saves or last:
                model.require_finite(step)
            if saves:
                run.save_checkpoint(model.pipeline(), step)
            if last:
                run.save_checkpoint(model.pipeline())
            if shows or saves:
                accelerator.wait_for_everyone()
    return pauses.outside


def main(argv=None):
    with flags.exit_on_user_error("diff_train.py"):
        opts = flags.parse(options.TrainOptions, argv, description=__doc__)
        from utils import devices, runs
        from utils.data import captions
        from utils.diffusion import models
        from utils.reports import tracking
        from utils.stages.previews import preview

        run = runs.NewRun(opts.output_dir).require_new()
        images, texts = checked_data(opts)
        models.require_resolution("--pretrained_model_name_or_path", opts.pretrained_model_name_or_path, opts.resolution,
                                  revision=opts.revision)  # fmt: skip
        if opts.dry_run:
            print(json.dumps({"options": flags.as_dict(opts), "images": len(images), "writes": run.planned()}, indent=1))
            return
        devices.dtype_of(opts.mixed_precision)
        accelerator = devices.accelerator(
            mixed_precision=opts.mixed_precision, gradient_accumulation_steps=opts.gradient_accumulation_steps
        )
        seed = devices.shared_seed(opts.seed)
        run.writes = accelerator.is_main_process
        model, draws, duplicated, per_step = build(opts, images, texts, accelerator, seed)
        used = draws.data.images
        record = {
            "options": flags.as_dict(opts), "environment": runs.environment(), "seed": seed,
            "threads": devices.threads(), "processes": accelerator.num_processes, "steps": model.optimisation.steps,
            "places": runs.relative_to(run.path, instance_data_dir=opts.instance_data_dir,
                                       instance_prompt_loc=opts.instance_prompt_loc),
            "id": runs.new_id(), "data": {"images": len(used), "fingerprint": used.fingerprint, "bad": list(used.bad)},
            "classes": captions.class_names(used), "duplicated": duplicated,
            "counterfactual": opts.duplication == "nodup",
        }  # fmt: skip
        tracker = tracking.open_tracker(
            opts.report_to, folder=run.path, project=tracking.project_name(opts.wandb_project, "diffrep_ft"),
            name=opts.run_name, config=record["options"] | {"seed": seed}, main_process=accelerator.is_main_process,
        )  # fmt: skip
        run.begin(record, draws.data.prompts)
        preview(model, draws.data.prompts, run.preview_path(0), count=opts.sample_batch_size, seed=opts.generation_seed,
                side=opts.resolution)  # fmt: skip
        tracker.image("generations", run.preview_path(0), 0)
        accelerator.wait_for_everyone()
        seconds = train(model, draws, opts, run, tracker, per_step)
        speed = round(model.optimisation.steps * per_step / seconds, 2)
        run.finish(record | {"seconds": round(seconds, 2), "images_per_second": speed, "tracker": tracker.run_id,
                             "peak_memory": devices.peak_memory(accelerator.device)})  # fmt: skip
        tracker.finish()
        accelerator.print(f"{model.optimisation.steps} steps, {speed} images/s; the model is in {run.checkpoint_path()}")
        if tracker.hint:
            accelerator.print(tracker.hint)


if __name__ == "__main__":
    main()
