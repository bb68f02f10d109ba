"""From the options to the plan of a training: all that can be checked before a model loads."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.cli import flags, unused_flags
from utils.data import buckets
from utils.files import hub, resume_states, run_folder
from utils.models import adapters, families
from utils.runtime import devices, launcher_settings, launching
from utils.runtime.errors import UsageError
from utils.training import (
    data_job,
    memory_needed,
    model_job,
    optimizers,
    preservation_job,
    run_record,
    starting_model,
    steps,
)
from utils.training.methods import lora

if TYPE_CHECKING:
    from utils.cli.train_options import TrainOptions
    from utils.data.buckets import Size
    from utils.files.resume_states import State
    from utils.files.run_folder import NewRun
    from utils.models.pipeline_files import Configs
    from utils.training.class_images import ClassPlan
    from utils.training.memory_needed import Needs
    from utils.training.training_inputs import TrainingInputs


@dataclass(frozen=True)
class RunPlan:
    """A run whose options and inputs are checked; nothing is loaded or written yet."""

    run: NewRun
    inputs: TrainingInputs
    options: dict[str, Any]  # as they are recorded
    record: dict[str, Any] | None  # run.json of the run that is resumed
    state: State | None  # the state that it continues from; None starts at the first step
    upload: tuple[str, str] | None  # of --push_to_hub: the repository and a token
    classes: ClassPlan | None  # the class images of prior preservation
    needs: Needs  # the memory of a process


def resumed(opts: TrainOptions) -> tuple[dict[str, Any] | None, State | None]:
    """What --resume_from_checkpoint continues. Returns: (run.json or None, state or None)."""
    if not opts.resume_from_checkpoint:
        return None, None
    record = None
    if os.path.isdir(opts.output_dir):
        run = run_folder.open_run("--output_dir", opts.output_dir)
        record = None if run is None else run.record
    return record, resume_states.find_state(opts.output_dir, opts.resume_from_checkpoint)


def upload_of(opts: TrainOptions, run: NewRun) -> tuple[str, str] | None:
    """Repository and token of --push_to_hub, checked, or None."""
    if not opts.push_to_hub:
        return None
    hub_id = opts.hub_model_id or run.path.resolve().name
    return hub_id, hub.require_token(opts.hub_token, hub_id)


def required_model(opts: TrainOptions) -> tuple[str, Configs, list[Size] | None]:
    """The class and the configuration of the base model, which alone are read of it; UsageError
    unless it can be trained at this resolution, and in all buckets. Returns: (class, configuration,
    the sizes of buckets or None)."""
    source, name, configs = starting_model.configs_of(opts)
    families.require_resolution(source, name, configs, opts.resolution)
    sizes = data_job.bucket_sizes(opts, families.multiple_of_sides(name, configs))
    given = f"--aspect_ratio_buckets={opts.aspect_ratio_buckets!r}"
    families.require_sides(given, source, name, configs, itertools.chain(*(sizes or [])))
    _require_flags_of_family(opts, source, name, configs)
    return name, configs, sizes


def _require_flags_of_family(opts: TrainOptions, source: str, name: str, configs: Configs) -> None:
    """Raise UsageError for a flag that has no meaning for pipelines of class `name`."""
    step = steps.STEPS[name]
    families.require_text_length(source, name, opts.max_sequence_length)
    step.require_process(model_job.process_settings(opts), source)
    step.require_precision(
        opts.mixed_precision,
        source,
        parts=[part for part, entry in configs.index.items() if entry != [None, None]],
        learns_text=opts.train_text_encoder,
    )
    _require_adapted(opts, name, configs)
    if opts.guidance_scale is not None and not configs.denoiser.get("guidance_embeds"):
        raise UsageError(
            f"--guidance_scale={opts.guidance_scale:g} has no effect: the network of {source!r}"
            " takes no scale while it is trained; leave the flag out"
        )


def _require_adapted(opts: TrainOptions, name: str, configs: Configs) -> None:
    """Raise UsageError for layers that the denoiser does not have, and for names of kohya's trainer
    that pipelines of class `name` have none of."""
    if opts.output_kohya_format:
        adapters.require_kohya(lora.KOHYA, name, [families.FAMILIES[name].denoiser])
    layers = lora.layers_of(opts.lora_layers)
    if layers is not None:
        adapters.require_layers(lora.LAYERS, memory_needed.denoiser(name, configs), layers)


def defaults_taken(opts: TrainOptions, configs: Configs) -> list[str]:
    """Lines about published defaults that this run takes and that may not be meant."""
    lines, sides = [], (flags.default_of(opts, "resolution"), configs.side)
    if opts.resolution == sides[0] and None not in sides and sides[0] != sides[1]:
        lines.append(
            f"--resolution={sides[0]}, the default: the model was made for {sides[1]} px;"
            " --resolution sets another one"
        )
    usual = flags.default_of(opts, "learning_rate")
    finds = optimizers.OPTIMIZERS[opts.optimizer_name].finds_rate
    if opts.lora_rank is not None and opts.learning_rate == usual and not finds:
        lines.append(
            f"--learning_rate={usual:g}, the default, is meant for full weights; LoRA usually takes"
            " 1e-4"
        )
    if finds and opts.learning_rate < 0.1:
        lines.append(
            f"--learning_rate={opts.learning_rate:g} is a factor on the learning rate that"
            f" --optimizer {opts.optimizer_name} finds by itself, and so small that the model"
            " hardly trains; 1 is usual"
        )
    if opts.output_dir == flags.default_of(opts, "output_dir"):
        lines.append(f"the run goes to {opts.output_dir!r}; --output_dir names another folder")
    return lines


def needs_of(opts: TrainOptions, name: str, configs: Configs) -> Needs:
    """The memory that a process needs, by the configuration of a pipeline of class `name`."""
    processes, splits = int(os.environ.get("WORLD_SIZE", 1)), opts.clients_num
    plan = memory_needed.Plan(
        model_job.method_of(opts),
        steps.STEPS[name],
        devices.DTYPES[opts.mixed_precision],
        opts.optimizer_name,
        learns_text=opts.train_text_encoder,
        use_ema=opts.use_ema,
        holds_base=opts.trigger_class is not None,
        copies=-(-splits // min(processes, splits)),
        splits=splits,
    )
    encoders = starting_model.encoder_configs(opts, configs)
    found = memory_needed.networks_of(name, configs, encoders)
    needs = memory_needed.needs(plan, found, denoiser_name=families.FAMILIES[name].denoiser)
    missing = [
        part
        for part, entry in configs.index.items()
        if part.startswith("text_encoder") and entry != [None, None] and part not in encoders
    ]
    return replace(needs, not_counted=tuple(missing))


def plan_of(opts: TrainOptions) -> RunPlan:
    """Check everything that can be checked before a model loads."""
    resumes = bool(opts.resume_from_checkpoint)
    run = run_folder.NewRun(opts.output_dir).require_new(resumes=resumes)
    record, state = resumed(opts)
    options = flags.as_dict(opts)
    if record is not None:
        changed = flags.changed(opts, record["options"])
        run_record.require_same_options(record, options, changed)
    upload = upload_of(opts, run)
    data_job.mitigations_of(opts)  # raises when two exclude one another
    optimizers.require(opts.optimizer_name)
    # beside a plan lines go to stderr, so that stdout holds the plan alone
    to = sys.stderr if opts.dry_run else sys.stdout
    say = functools.partial(print, file=to) if launching.first_process() else lambda line: None
    for line in (*launcher_settings.notes(flags.launched(opts)), *unused_flags.lines(opts)):
        say(line)
    if opts.resume_from_checkpoint and state is None:
        say(
            f"--resume_from_checkpoint={opts.resume_from_checkpoint}: {opts.output_dir!r} has no"
            " state yet; the run starts at its first step"
        )
    inputs = data_job.checked_data(opts, say)
    preservation_job.require_trigger(opts, inputs)
    name, configs, sizes = required_model(opts)
    for line in defaults_taken(opts, configs):
        say(line)
    if sizes is not None:
        assigned = buckets.assigned(inputs.images, sizes)
        say(buckets.counts_line(assigned))
        inputs = replace(inputs, buckets=assigned)
    classes = preservation_job.class_plan(
        opts, name, configs, starting_model.choice_of(opts), process=launching.process_number()
    )
    needs = needs_of(opts, name, configs)
    say(needs.line())
    return RunPlan(run, inputs, options, record, state, upload, classes, needs)


def print_plan(opts: TrainOptions, plan: RunPlan) -> None:
    """Print what --dry_run shows: options, what was recognised of the data, every path that would
    be written."""
    writes = plan.run.planned(
        ensemble=opts.clients_num > 1 or opts.total_round > 1,
        control=any(m.loss_rule is not None for m in data_job.mitigations_of(opts)),
        holdout=opts.holdout > 0,
        copies=opts.copy_check_steps is not None,
        best=opts.stop_at_copy_share is not None,
        resharded=opts.agc_reshard is not None,
    )
    recognised = plan.inputs.recognised()
    if plan.classes is not None:
        writes += plan.classes.planned()
        recognised["class_images"] = {"found": plan.classes.own, "added": plan.classes.added}
    shown = {
        "options": plan.options,
        "images": len(plan.inputs.images),
        "recognised": recognised,
        "memory": plan.needs.record(),
        "writes": writes,
    }
    print(json.dumps(shown, indent=1))
