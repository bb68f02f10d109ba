"""The record of a run (run.json) before its first step, and the checks that a resumed run matches
it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.data import prompt_styles
from utils.data.duplication import DUPLICATIONS
from utils.files import owned_folders, run_folder
from utils.models import fingerprints
from utils.runtime import devices, environment
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.files.run_folder import NewRun
    from utils.training.training_job import PreparedRun

EARLIER = "the run in --output_dir was made with"
# schedules that do not look at the number of steps
EXTENDABLE = ("constant", "constant_with_warmup")


def record_of(
    job: PreparedRun, run: NewRun, *, options: Mapping[str, Any], seed: int, processes: int
) -> dict[str, Any]:
    """run.json before the first step. options: {flag: value} as they are recorded; processes: how
    many take part."""
    used = job.data.images
    record = {
        "options": options,
        "environment": environment.environment(),
        "seed": seed,
        "threads": devices.threads(),
        "processes": processes,
        "steps": job.plan.steps,
        "places": _places(job, run, options),
        "id": run_folder.new_id(),
        "data": {
            "images": len(used),
            "fingerprint": used.fingerprint,
            "content": used.content_fingerprint,
            "bad": list(used.bad),
        },
        "model": job.identity,
        "captions": fingerprints.key_of(prompts=job.data.prompts),
        "weights": fingerprints.key_of(
            weights=None if job.data.weights is None else job.data.weights.tolist()
        ),
        "classes": prompt_styles.class_names(used),
        "folder_classes": dict(used.classes),
        "duplicated": job.duplicated,
        "holdout": list(job.held_out),
        "counterfactual": not DUPLICATIONS[options["duplication"]].duplicates,
    }
    if job.classes is not None:
        record["class_images"] = job.classes.record
    return record | _places_of_images(job)


def _places_of_images(job):
    """The bucket and the split of every image, where the run has several."""
    keys, found = job.data.images.keys, {}
    if job.data.buckets is not None:
        found["buckets"] = job.data.buckets.record(keys)
    if job.plan.splits > 1:
        # records of every version call a split "shard"
        found["shards"] = {keys[i]: k for k, part in enumerate(job.splits) for i in part}
    return found


def _places(job, run, options):
    """Where the data of a run lies, relative to its folder."""
    named = {
        "instance_data_dir": str(job.data.images.root),
        "instance_prompt_loc": options["instance_prompt_loc"],
    }
    if job.classes is not None:
        named["class_data_dir"] = options["class_data_dir"]
    return owned_folders.relative_to(run.path, **named)


def require_same_options(
    record: Mapping[str, Any], options: Mapping[str, Any], changed: list[str]
) -> None:
    """Raise UsageError naming an option that differs from the run on disk and would change its
    result; called before a model loads.

    record: run.json on disk; options: {flag: value} as they would be recorded now; changed: names
    of options that differ and may not.
    """
    needed = ("model", "captions", "weights", "processes", "steps", "seed")
    absent = [key for key in needed if key not in record]
    if absent:
        raise UsageError(
            f"--output_dir={options['output_dir']!r}: run.json has no {absent[0]!r}; an older"
            " version of the toolkit wrote it, and its runs cannot be resumed; use a new folder"
        )
    if changed:
        name, before = changed[0], record["options"]
        value = repr(before[name]) if name in before else "its default"
        raise UsageError(
            f"--{name}={options[name]!r}: {EARLIER} {value}; use the same value or a new"
            " --output_dir"
        )
    if options["seed"] is not None and options["seed"] != record["seed"]:
        raise UsageError(
            f"--seed={options['seed']}: {EARLIER} {record['seed']}; use the same value"
        )


def require_same_inputs(record: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Raise UsageError naming anything else that differs between a run on disk and the one that is
    asked for, if it would change the result. record: run.json on disk; fresh: what it would be
    now."""
    options = fresh["options"]
    before, now = record.get("folder_classes", {}), fresh["folder_classes"]
    if before != now:
        folder = next(iter(before or now))
        accepted = "without it" if before else "give --no_folder_repeats"
        raise UsageError(
            f"--no_folder_repeats={options['no_folder_repeats']}: {EARLIER} the folder {folder!r}"
            f" {'read as repeats' if before else 'as a class'}; {accepted}"
        )
    _require_same_images(record, fresh, options)
    for key, flag, what in (
        ("model", "pretrained_model_name_or_path", "another model"),
        ("captions", "instance_prompt_loc", "other captions"),
        ("weights", "weights_file", "other weights"),
    ):
        if not _same(record[key], fresh[key]):
            raise UsageError(
                f"--{flag}={options[flag]!r}: {EARLIER} {what}; use the same value or a new"
                " --output_dir"
            )
    if record["processes"] != fresh["processes"]:
        raise UsageError(
            f"{fresh['processes']} processes: {EARLIER} {record['processes']}; start as many"
        )
    _require_same_steps(record["steps"], fresh["steps"], options)


def _require_same_images(record, fresh, options):
    """Raise UsageError if a run has other images than the record, or uses them otherwise."""
    before, now = record.get("holdout", []), fresh["holdout"]
    if len(before) != len(now):
        raise UsageError(
            f"--holdout={options['holdout']}, which sets {len(now)} images aside: {EARLIER}"
            f" {len(before)} set aside; use the same value and the same images"
        )
    if before != now or not _same_images(record["data"], fresh["data"]):
        raise UsageError(
            f"--instance_data_dir={options['instance_data_dir']!r}: {EARLIER} other images; use the"
            " same images"
        )
    before, now = (each.get("class_images", {}) for each in (record, fresh))
    if not _same_images(before, now):
        raise UsageError(
            f"--class_data_dir={options['class_data_dir']!r}: {EARLIER} other class images; use the"
            " same images"
        )


def _same_images(before, now):
    """Whether two records are of the same images."""
    names = [name for name in ("fingerprint", "content") if name in before]
    return all(before[name] == now[name] for name in names)


def _same(before, now):
    """Whether two records are equal in what both hold: runs of earlier versions recorded less of
    the contents, and are compared by that."""
    if not isinstance(before, dict):
        return before == now
    return before == {name: value for name, value in now.items() if name in before}


def _require_same_steps(before, now, options):
    one_round = options["clients_num"] == 1 and options["total_round"] == 1
    longer = now > before and options["lr_scheduler"] in EXTENDABLE and one_round
    if now != before and not longer:
        raise UsageError(
            f"--max_train_steps={options['max_train_steps']}: {EARLIER} {before} steps; use the"
            f" same value, or a larger one with --lr_scheduler {' or '.join(EXTENDABLE)} and one"
            " round"
        )
