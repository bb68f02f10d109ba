"""Fine-tune a text-to-image diffusion model, with a duplication, a conditioning and mitigations of
copying.

Ordinary training, or iterative ensemble training (--clients_num, --total_round) with anti-gradient
control (--mem_ratio). A run that was stopped or killed continues with --resume_from_checkpoint
latest."""

import json
import os

from utils.cli import exits, flags, train_options


def resumed(opts):
    """What --resume_from_checkpoint continues. Returns: (run.json or None, State or None)."""
    from utils.files import resume_states, run_folder

    if not opts.resume_from_checkpoint:
        return None, None
    run = (
        run_folder.open_run("--output_dir", opts.output_dir)
        if os.path.isdir(opts.output_dir)
        else None
    )
    return run and run.record, resume_states.find_state(
        opts.output_dir, opts.resume_from_checkpoint
    )


def wanted_processes(opts, count, say):
    """--trainggpu starts nothing: say how to start as many processes."""
    if opts.trainggpu and opts.trainggpu != count:
        say(
            f"--trainggpu={opts.trainggpu}: {count} process(es) take part; to use {opts.trainggpu}:"
            f" accelerate launch --num_processes {opts.trainggpu} diff_train.py ..."
        )


def main(argv=None):
    with exits.exit_on_user_error("diff_train.py"):
        opts = flags.parse(train_options.TrainOptions, argv, description=__doc__)
        from utils.files import hub, resume_states, run_folder
        from utils.models import families
        from utils.reports import tracking
        from utils.runtime import devices, launching, parallel
        from utils.training import trainer, training_job, training_loop

        if opts.local_rank >= 0 and "RANK" in os.environ:
            # old launchers say it by flag alone
            os.environ.setdefault("LOCAL_RANK", str(opts.local_rank))
        run = run_folder.NewRun(opts.output_dir).require_new(
            resumes=bool(opts.resume_from_checkpoint)
        )
        record, state = resumed(opts)
        if record is not None:
            training_job.require_same_options(record, opts, flags.changed(opts, record["options"]))
        hub_id = opts.hub_model_id or run.path.resolve().name
        token = hub.require_token(opts.hub_token, hub_id) if opts.push_to_hub else None
        if opts.use_8bit_adam:
            trainer.require_8bit()
        data = training_job.checked_data(
            opts, print if launching.first_process() else lambda line: None
        )
        source = opts.pretrained_model_name_or_path
        name, configs = families.read(
            "--pretrained_model_name_or_path",
            source,
            revision=opts.revision,
            takes=families.TRAINED,
        )
        families.require_resolution(source, name, configs, opts.resolution)
        shown = flags.as_dict(opts)
        if opts.dry_run:
            planned = run.planned(
                ensemble=opts.clients_num > 1 or opts.total_round > 1, control=bool(opts.mem_ratio)
            )
            print(
                json.dumps(
                    {"options": shown, "images": len(data.images), "writes": planned}, indent=1
                )
            )
            return
        devices.dtype_of(opts.mixed_precision)
        accelerator = launching.accelerator(mixed_precision=opts.mixed_precision)
        processes, say = parallel.Processes(accelerator), accelerator.print
        wanted_processes(opts, processes.count, say)
        seed = launching.shared_seed(
            opts.seed if opts.seed is not None or record is None else record["seed"]
        )
        run.writes = processes.main
        job = training_job.build(opts, data, accelerator, seed)
        fresh = training_job.record_of(
            opts, job, run, shown=shown, seed=seed, processes=processes.count
        )
        if record is not None:
            training_job.require_same(record, opts, job, fresh)
            fresh["id"] = record["id"]
        training_job.require_host_memory(job, say)
        loop = training_loop.Loop(
            job, opts, run, processes, seconds=state.info["seconds"] if state else 0.0
        )
        if state:
            loop.restore(state)  # raises on a damaged file before anything is written
        processes.wait()  # all have read what is on disk before the main process writes
        fresh["encoded"] = training_job.encode_ahead(job, opts, run.cache_path, processes, say)
        if record is not None and record["encoded"] != fresh["encoded"]:
            kept, before = (" and ".join(r["encoded"]) or "nothing" for r in (fresh, record))
            say(
                f"kept beside the run: {kept}, before: {before}; the result agrees to rounding, not"
                " to the bit"
            )
        loop.tracker = tracker = tracking.open_tracker(
            opts.report_to,
            folder=run.path,
            project=tracking.project_name(opts.wandb_project, "diffrep_ft"),
            name=opts.run_name,
            config=shown | {"seed": seed},
            main_process=processes.main,
            run_id=record and record.get("tracker"),
            logging_dir=opts.logging_dir,
        )
        fresh["tracker"] = tracker.run_id or (record and record.get("tracker"))
        run.begin(
            fresh, job.data.prompts, metrics_bytes=state.info["metrics_bytes"] if state else 0
        )
        if processes.main:
            resume_states.clean(run.path, after=state.position if state else 0)
        if state:
            say(f"continues from {state.path}")
        else:
            loop.show(0)
        processes.wait()
        loop.train(state.position if state else 0)
        counts = training_loop.skip_counts(job, processes)
        if counts is not None:
            run.write_skips(job.data.images.keys, counts.tolist())
        steps = job.plan.rounds * job.plan.steps
        speed = round(steps * job.plan.splits * job.per_step / loop.seconds, 2)
        run.finish(
            fresh
            | {
                "seconds": round(loop.seconds, 2),
                "images_per_second": speed,
                "peak_memory": devices.peak_memory(accelerator.device),
            }
        )
        tracker.finish()
        copies = f" of each of {job.plan.splits} copies" if job.plan.splits > 1 else ""
        say(f"{steps} steps{copies}, {speed} images/s; the model is in {run.checkpoint_path()}")
        if tracker.hint:
            say(tracker.hint)
        if opts.push_to_hub and processes.main:
            say(f"uploaded to {hub.push(run.checkpoint_path(), hub_id, token)}")


if __name__ == "__main__":
    main()
