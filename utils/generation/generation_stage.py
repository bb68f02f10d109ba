"""What diff_inference.py and sd_mitigation.py share: from a plan to a finished generation
folder."""

import contextlib
import dataclasses
import json
import os
import time

from utils.data.caption_edits import RandomTokens
from utils.generation import mitigations, sampling
from utils.generation.generation_plan import plans_of
from utils.generation.pair_grid import compare
from utils.models import families, loading, lora, schedulers
from utils.reports import tracking
from utils.runtime import devices, environment, launching, parallel
from utils.runtime.errors import Stopped

SHOWN = 8  # images that a tracker gets


def load(plan, device):
    """The pipeline, on its device, with the scheduler and the LoRA weights of the plan."""
    opts, model = plan.opts, plan.model
    pipeline = loading.load_pipeline(
        model.flag, model.source, dtype=devices.dtype_of(opts.mixed_precision)
    )
    schedulers.use_scheduler(pipeline, plan.scheduler)
    if opts.lora:
        lora.load_lora(pipeline, opts.lora)
    pipeline.to(device)
    if opts.compile:
        sampling.compile_denoiser(pipeline)
    return pipeline


def reduced(image, side):
    """The image, Lanczos-reduced to `side` pixels when it is larger."""
    from PIL import Image

    return image.resize((side, side), Image.Resampling.LANCZOS) if max(image.size) > side else image


def _share(items, processes):
    """What this process does of a list: consecutive, sizes differing by at most one."""
    return items[
        len(items) * processes.index // processes.count : len(items)
        * (processes.index + 1)
        // processes.count
    ]


def _say_what_is_cut(plan, pipeline, hooks, say):
    """Count the prompts of which the end does not reach the model, and say so once."""
    edited = (
        sampling.edited_prompt(plan.prompts, hooks, n, seed=plan.opts.seed)
        for n in range(len(plan.prompts))
    )
    cut, limit = sampling.too_long(pipeline, edited)
    if cut:
        say(
            f"{len(cut)} prompts are longer than the {limit} tokens that the model takes; what is"
            f" beyond has no effect. The first: {cut[0][:80]!r}"
        )
    return len(cut)


def make(plan, rows, pipeline, *, processes, progress, say):
    """Make what is missing of a generation, each process its share, and finish the folder.

    rows: those that are there, the same on every process. Returns: figures, {name: number}.
    """
    opts, folder = plan.opts, plan.folder
    hooks = mitigations.SampleHooks(plan.mitigations, RandomTokens(families.tokenizer_of(pipeline)))
    cut = _say_what_is_cut(plan, pipeline, hooks, say) if processes.main else None
    done = {row["index"] for row in rows}
    missing = [index for index in range(plan.total) if index not in done]
    if processes.main:
        folder.begin(plan.settings, rows)
    processes.wait()
    if not processes.main:
        folder.begin(plan.settings)
    mine = _share(missing, processes)
    jobs = sampling.image_jobs(
        plan.prompts, hooks, images_per_prompt=opts.im_batch, seed=opts.seed, indices=mine
    )
    sample_settings = sampling.SampleSettings(
        steps=plan.steps,
        guidance=plan.scale,
        side=None if plan.model.native else plan.side,
        negative_prompt=opts.negative_prompt,
    )
    images = sampling.generate(
        pipeline,
        jobs,
        settings=sample_settings,
        hooks=hooks,
        batch_size=opts.batch_size,
        device=pipeline.device,
    )
    if plan.model.native:
        images = (
            dataclasses.replace(made, image=reduced(made.image, plan.side)) for made in images
        )
    label = "generating" if processes.count == 1 else f"generating, process 1 of {processes.count}"
    started = time.perf_counter()
    saved = folder.save(images, threads=opts.num_workers, waiting=4 * opts.batch_size)
    for _ in progress(saved, total=len(mine), label=label) if processes.main else saved:
        pass
    processes.wait()
    record = {
        "images_new": len(missing),
        "images_per_second": len(missing) / (time.perf_counter() - started),
    }
    if processes.main:
        record["prompts_cut"] = cut
        rows = _finish(plan, pipeline, record, processes)
        unguided = sum("guided_from" in row and row["guided_from"] is None for row in rows)
        if unguided:
            say(
                f"{unguided} of {plan.total} images kept --cfg_before to the end: --cfg_start auto"
                " found no minimum"
            )
    return record


def _finish(plan, pipeline, record, processes):
    opts, model, folder = plan.opts, plan.model, plan.folder
    return folder.finish(
        plan.total,
        settings=plan.settings,
        label=opts.dataset,
        batch_size=opts.batch_size,
        processes=processes.count,
        dtype=str(pipeline.dtype),
        pipeline=plan.pipeline_class,
        scheduler=type(pipeline.scheduler).__name__,
        safety_checker="never loaded",
        **record,
        environment=environment.environment(),
        model={"modelpath": opts.modelpath, "source": model.source},
        prompts=opts.prompts,
        run=os.path.relpath(model.run.path.resolve(), folder.path.resolve()) if model.run else None,
        seed=opts.seed,
    )


def _track(opts, plan, record):
    """Send a finished generation to the tracker that was asked for: its figures, its first images,
    the pairs."""
    tracker = tracking.open_tracker(
        opts.report_to,
        folder=plan.folder.path,
        project=tracking.project_name(opts.wandb_project, "diffrep_inference"),
        name=opts.run_name or plan.folder.path.name,
        config=plan.settings,
    )
    tracker.log(record, 0)
    for index in range(min(SHOWN, plan.total)):
        tracker.image(f"generations/{index}", plan.folder.path / plan.folder.image_key(index), 0)
    if opts.compare:
        tracker.image("pairs", plan.folder.path / "compare.png", 0)
    tracker.finish()
    return tracker.hint


def generate_folders(opts, *, default_prompts=(), default_root, beside_run, progress, say):
    """Make the generation that the options ask for, or continue it, or find it finished; with
    --compare two and their grid; under --dry_run say what would be made. say: takes a line for the
    user, of the main process."""
    processes = parallel.Processes(launching.accelerator(mixed_precision="no"))
    say = say if processes.main else lambda line: None
    if opts.captoken is not None:
        say(
            f"--captoken={opts.captoken!r} is accepted; it never had an effect in the published"
            " script either"
        )
    plans = plans_of(
        opts,
        process=processes.index,
        say=say,
        default_prompts=default_prompts,
        default_root=default_root,
        beside_run=beside_run,
    )
    for each in plans:
        each.folder.rows(each.settings)  # what it may refuse, before hours go into the first
    if opts.dry_run:
        writes = [p for each in plans for p in each.folder.planned()]
        writes += [str(plans[-1].folder.path / "compare.png")] if opts.compare else []
        shown = {
            "options": plans[-1].settings,
            "images": sum(p.total for p in plans),
            "writes": writes,
        }
        say(json.dumps(shown, indent=1))
        return
    pipeline = None
    for each in plans:
        record = {"images": each.total, "images_new": 0}
        try:
            with each.folder.locked() if processes.main else contextlib.nullcontext(True) as locked:
                each.folder.require_unshared(not processes.any(not locked))
                rows = each.folder.rows(each.settings)
                there = len(rows) == each.total and each.folder.manifest_path.is_file()
                processes.wait()  # every process has read what is there, before one of them writes
                if not there:
                    pipeline = pipeline or load(each, processes.device)
                    record |= make(
                        each, rows, pipeline, processes=processes, progress=progress, say=say
                    )
        except KeyboardInterrupt:
            raise Stopped(f"stopped; the same command goes on with {each.folder.path}", 2) from None
        say(f"{each.total} images ({record['images_new']} new) in {each.folder.path}")
    if not processes.main:
        return
    if opts.compare:
        say(f"pairs: {compare(plans[0].folder, plans[1].folder)}")
    hint = _track(opts, plans[-1], record)
    if hint:
        say(hint)
