"""The stage of training: start or resume a planned run, report its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.cli import unused_flags
from utils.data import buckets
from utils.files import hub, locks, resume_states
from utils.generation.sampling import window_of
from utils.reports import tracking
from utils.runtime import devices, launching, parallel
from utils.training import (
    copy_checks,
    encode_ahead,
    memory_needed,
    model_job,
    preservation_job,
    run_record,
    start_notes,
    starting_model,
    training_job,
    training_loop,
    training_plan,
)

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from utils.cli.train_options import TrainOptions
    from utils.runtime.parallel import Processes
    from utils.training.copy_checks import CopyChecks, Watch
    from utils.training.training_job import PreparedRun
    from utils.training.training_loop import Loop
    from utils.training.training_plan import RunPlan


def only_run(opts: TrainOptions) -> contextlib.AbstractContextManager[None]:
    """Keep other commands out of --output_dir; UsageError, at once, if one trains into it. The
    first process of the launcher holds it; the launcher ends the others when it is refused."""
    if opts.dry_run or not launching.first_process():
        return contextlib.nullcontext()
    return locks.only_writer("--output_dir", opts.output_dir)


# What measures how much the model copies (--copy_check_steps): options, run -> Watch. The folder
# that measures may import this one, so that the script hands it in.
Watching = Callable[["TrainOptions", "PreparedRun", "Processes"], "Watch"]


def train(opts: TrainOptions, watching: Watching) -> None:
    """Plan a run and train it; with --dry_run only print the plan.

    watching: makes what checks copies, in the main process; called where the options ask for
    checks."""
    with only_run(opts):
        plan = training_plan.plan_of(opts)
        if opts.dry_run:
            training_plan.print_plan(opts, plan)
            return
        accelerator, processes = processes_of(opts)
        loop, record = start(opts, plan, accelerator, processes, watching)
        loop.train(plan.state.position if plan.state else 0)
        report(plan, loop, record)


def require_room(opts: TrainOptions, device: torch.device) -> None:
    """Raise UsageError if the weights that learn cannot fit into the memory of a device; only the
    configuration of the model is read."""
    if not model_job.method_of(opts).learns_all:
        return
    source, name, configs = starting_model.configs_of(opts)
    memory_needed.require_room(source, memory_needed.parameters(name, configs), device)


def processes_of(opts: TrainOptions) -> tuple[Accelerator, Processes]:
    """The processes that take part. --trainggpu starts none; a line says how to start that many."""
    devices.dtype_of(opts.mixed_precision)  # raises where this machine cannot train in it
    accelerator = launching.accelerator(mixed_precision=opts.mixed_precision)
    processes = parallel.Processes(accelerator)
    if opts.trainggpu and opts.trainggpu != processes.count:
        processes.say(
            f"--trainggpu={opts.trainggpu}: {processes.count} process(es) take part; to use"
            f" {opts.trainggpu}: accelerate launch --num_processes {opts.trainggpu}"
            " diff_train.py ..."
        )
    return accelerator, processes


def start(
    opts: TrainOptions,
    plan: RunPlan,
    accelerator: Accelerator,
    processes: Processes,
    watching: Watching,
) -> tuple[Loop, dict[str, Any]]:
    """Load the model and start or resume the run. watching: as in `train`. Returns: (Loop, run.json
    until the run is finished)."""
    given = opts.seed
    if given is None and plan.record is not None:
        given = plan.record["seed"]
    seed = launching.shared_seed(given)
    plan.run.writes = processes.main
    require_room(opts, accelerator.device)
    classes = preservation_job.class_data(opts, plan.classes, processes)
    job = training_job.prepare(opts, plan.inputs, accelerator, seed, classes)
    record = run_record.record_of(
        job, plan.run, options=plan.options, seed=seed, processes=processes.count
    )
    if plan.record is not None:
        run_record.require_same_inputs(plan.record, record)
        record["id"] = plan.record["id"]
    record["memory"] = plan.needs.record()
    training_job.require_host_memory(job, processes.say)
    say_base_memory(job, processes)
    if processes.main:
        record["captions_cut"] = say_what_has_less_effect(opts, job, processes)
    seconds = plan.state.info["seconds"] if plan.state else 0.0
    settings = training_job.loop_settings(opts)
    checks = checks_of(opts, plan, job, processes, watching)
    loop = training_loop.Loop(job, settings, plan.run, processes, seconds=seconds, checks=checks)
    if plan.state:
        loop.restore(plan.state)  # raises on a damaged file before anything is written
    processes.wait()  # all have read what is on disk before the main process writes
    record["encoded"] = encoded(opts, plan, job, processes)
    loop.tracker = tracker_of(opts, plan, processes, seed)
    record["tracker"] = loop.tracker.run_id or (plan.record or {}).get("tracker")
    begin(plan, loop, record)
    return loop, record


def say_base_memory(job: PreparedRun, processes: Processes) -> None:
    """Print what a copy of the base model takes, where an extra loss needs one."""
    base = job.model.extra_losses.base
    if base is not None and base.bytes:
        processes.say(
            f"--trigger_class: a copy of the base model takes {encode_ahead.gib(base.bytes)} of the"
            " device's memory"
        )


def checks_of(
    opts: TrainOptions, plan: RunPlan, job: PreparedRun, processes: Processes, watching: Watching
) -> CopyChecks | None:
    """The checks of copies that the options ask for, or None. watching: as in `train`."""
    if opts.copy_check_steps is None:
        return None
    settings = copy_checks.CheckSettings(opts.copy_check_steps, opts.stop_at_copy_share)
    watch = None
    with processes.together():
        if processes.main:
            watch = watching(opts, job, processes)
    checks = copy_checks.CopyChecks(watch, settings, plan.run, processes)
    with processes.together():
        checks.prepare()
    return checks


def say_what_has_less_effect(opts: TrainOptions, job: PreparedRun, processes: Processes) -> int:
    """Print which settings do less than they seem to. Returns: the number of captions whose end is
    not read."""
    batch, prompts = job.per_step // opts.gradient_accumulation_steps, job.data.prompts
    count, line = 0, None
    if job.model.parts.tokenizer is not None:
        window = window_of(job.model.parts.pipeline, opts.max_sequence_length)
        count, line = start_notes.captions_cut(prompts, window)
    lines = [
        line,
        start_notes.warmup_unfinished(job.model.optimisation),
        start_notes.one_caption_each(prompts, unused_flags.among_captions(opts)),
        start_notes.mixed_with_itself(
            prompts,
            mixup=opts.mixup_noise_lam,
            dropout=opts.caption_dropout,
            batch=batch,
        ),
    ]
    frozen = job.model.frozen
    lines.append(start_notes.computed_in_float32(frozen.in_float32(), opts.mixed_precision))
    if job.data.buckets is not None:
        of_splits = [job.data.buckets.take(part) for part in job.splits]
        lines.append(buckets.small_line(of_splits, batch))
    for each in (*lines, *_about_the_bank(job)):
        if each is not None:
            processes.say(each)
    return count


def _about_the_bank(job: PreparedRun) -> list[str | None]:
    """What is said of the loss bank of anti-gradient control, where there is one."""
    if job.model.loss_rule is None:
        return []
    samples = job.plan.rounds * job.plan.steps * job.per_step
    return [start_notes.bins_rarely_visited(job.model.process.bins, samples)]


def encoded(opts: TrainOptions, plan: RunPlan, job: PreparedRun, processes: Processes) -> list[str]:
    """Encode images and captions ahead; a line says when a resumed run caches other outputs of the
    frozen networks than before. Returns: what is cached."""
    kept = training_job.encode(job, opts, plan.run.cache_path, processes)
    if plan.record is not None and plan.record["encoded"] != kept:
        now, before = (" and ".join(c) or "nothing" for c in (kept, plan.record["encoded"]))
        processes.say(
            f"cached beside the run: {now}, before: {before}; the result agrees to rounding, not"
            " to the bit"
        )
    return kept


def tracker_of(opts: TrainOptions, plan: RunPlan, processes: Processes, seed: int) -> Any:
    """The tracker of --report_to; that of a resumed run continues."""
    return tracking.open_tracker(
        opts.report_to,
        folder=plan.run.path,
        project=tracking.project_name(opts.wandb_project, "diffrep_ft"),
        name=opts.run_name,
        config=plan.options | {"seed": seed},
        main_process=processes.main,
        run_id=None if plan.record is None else plan.record.get("tracker"),
        logging_dir=opts.logging_dir,
    )


def begin(plan: RunPlan, loop: Loop, record: dict[str, Any]) -> None:
    """Write what is known before the first step, and remove what a killed run left."""
    state, processes = plan.state, loop.processes
    metrics_bytes = state.info["metrics_bytes"] if state else 0
    plan.run.begin(
        record, loop.job.data.prompts, held_out=loop.job.held_out, metrics_bytes=metrics_bytes
    )
    loop.write_moves()
    if processes.main:
        resume_states.clean(plan.run.path, after=state.position if state else 0)
    if state and loop.checks is not None:
        step = loop.steps_at(state.position)
        loop.checks.resume(step, state.info.get("copy_check_seconds", 0.0))
    if state:
        processes.say(f"continuing from {state.path}")
    else:
        loop.show(0)
    processes.wait()


def report(plan: RunPlan, loop: Loop, record: dict[str, Any]) -> None:
    """Write what is known after the last step, print it, and upload the model."""
    run, job, processes = plan.run, loop.job, loop.processes
    counts = training_loop.skip_counts(job)
    if counts is not None:
        run.write_skips(job.data.images.keys, counts.tolist())
    done = loop.steps_at(loop.position)
    speed = round(done * job.plan.splits * job.per_step / loop.seconds, 2)
    measured = {
        "seconds": round(loop.seconds, 2),
        "images_per_second": speed,
        "peak_memory": devices.peak_memory(job.model.device),
    }
    if job.model.pass_memory.bytes is not None:
        measured["pass_memory"] = job.model.pass_memory.bytes
    if loop.checks is not None:
        measured |= loop.checks.record()
    run.finish(record | measured)
    loop.tracker.finish()
    copies = f" of each of {job.plan.splits} copies" if job.plan.splits > 1 else ""
    processes.say(
        f"{done} steps{copies}, {speed} images/s; the model is in {run.checkpoint_path()}"
    )
    for line in [] if loop.checks is None else loop.checks.lines(loop.seconds):
        processes.say(line)
    if loop.tracker.hint:
        processes.say(loop.tracker.hint)
    if plan.upload is not None and processes.main:
        hub_id, token = plan.upload
        processes.say(f"uploaded to {hub.push(run.checkpoint_path(), hub_id, token)}")
