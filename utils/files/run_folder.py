"""A training run: every folder and file name, what made it, and how a folder is put in place
whole."""

import csv
import io
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from utils.files import whole_files
from utils.files.owned_folders import require_writable, save_folder
from utils.runtime.errors import UsageError, require_dir

# What made a run ----------------------------------------------------------------------------------


def new_id():
    """A name for a run that no other run has; a generation records it, so that it knows its
    model."""
    return secrets.token_hex(8)


# Training runs ------------------------------------------------------------------------------------


class NewRun:
    """A run being written: exactly under `path`, which must not hold one yet. Only the main process
    writes."""

    def __init__(self, path):
        self.path = Path(path)
        self.writes = True
        self.record_path = self.path / "run.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.captions_path = self.path / "captions.json"

    def require_new(self, *, resumes=False):
        """UsageError if the folder holds a run or anything that one would overwrite; a run may when
        it is resumed."""
        require_writable("--output_dir", self.path)
        ours = re.compile(
            r"run\.json|metrics\.jsonl|captions\.json|skips\.csv|generations|checkpoint.*|state_.*"
        )
        inside = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        found = [name for name in inside if ours.fullmatch(name)]
        if found and not resumes:
            raise UsageError(
                f"--output_dir={str(self.path)!r} already holds a run ({found[0]}); use a new"
                " folder, or --resume_from_checkpoint latest to continue the run"
            )
        if found and resumes and "run.json" not in found:
            raise UsageError(
                f"--output_dir={str(self.path)!r} holds {found[0]} but no run.json; use the"
                " folder of a run, or a new folder"
            )
        return self

    def preview_path(self, step):
        return self.path / "generations" / f"{step}.png"

    def checkpoint_path(self, step=None):
        return self.path / ("checkpoint" if step is None else f"checkpoint_{step}")

    def planned(self, *, ensemble=False, control=False):
        """Every path that a run writes, for --dry_run."""
        names = [
            "run.json",
            "metrics.jsonl",
            "captions.json",
            "generations/<step>.png",
            "generations/<step>.json",
            "checkpoint_<round>/" if ensemble else "checkpoint_<step>/",
            "checkpoint/",
            "state_<step>/",
            "wandb/ or logs/ (with --report_to)",
        ]
        names += ["skips.csv"] if control else []
        return [*(str(self.path / name) for name in names), str(self.cache_path)]

    @property
    def cache_path(self):
        """Beside the run, so that runs in one folder share it: what frozen networks computed. It
        may be deleted any time."""
        return self.path.resolve().parent / "encoded"

    def begin(self, record, prompts, *, metrics_bytes=0):
        """Write what is known before the first step; the record then says that the run is not
        finished.

        metrics_bytes: what a resumed run keeps of metrics.jsonl.
        """
        if self.writes:
            # the record first: with it, a run that is killed here can be resumed
            whole_files.write_manifest(self.record_path, "run", **record, finished=False)
            whole_files.write_json(self.captions_path, prompts)
            if self.metrics_path.exists():
                os.truncate(self.metrics_path, min(metrics_bytes, self.metrics_path.stat().st_size))

    @property
    def metrics_bytes(self):
        return self.metrics_path.stat().st_size if self.metrics_path.exists() else 0

    def finish(self, record):
        """Write the record of a finished run."""
        if self.writes:
            whole_files.write_manifest(self.record_path, "run", **record, finished=True)

    def append_metrics(self, row):
        """Append a row to metrics.jsonl."""
        if self.writes:
            with open(self.metrics_path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")

    def write_skips(self, keys, counts):
        """skips.csv: of each image, how often it was drawn and how often loss control dropped it.
        counts: [N, 2]."""
        if self.writes:
            lines = io.StringIO()
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(["image", "drawn", "skipped"])
            writer.writerows([key, *map(int, row)] for key, row in zip(keys, counts, strict=True))
            whole_files.write_text(self.path / "skips.csv", lines.getvalue())

    def save_checkpoint(self, pipeline, step=None):
        """Write a pipeline folder; it is whole or absent. One that a resumed run wrote before is
        replaced."""
        if self.writes:
            save_folder(pipeline.save_pretrained, self.checkpoint_path(step))


@dataclass(frozen=True)
class Run:
    """A run on disk. record: run.json."""

    path: Path
    record: dict

    @property
    def options(self):
        return self.record["options"]

    def located(self, name):
        """Path of a data folder or file that the run was given, or None; kept relative to the run
        folder."""
        place = self.record.get("places", {}).get(name)
        return None if place is None else Path(os.path.normpath(self.path.resolve() / place))

    def captions(self):
        """Prompts as the run resolved them: {image key: list}."""
        return whole_files.read_json(self.path / "captions.json")

    def checkpoints(self):
        """Names of the pipeline folders that exist, natural order."""
        found = (
            p.name for p in self.path.glob("checkpoint*") if (p / "model_index.json").is_file()
        )
        # checkpoint_2 before checkpoint_10
        return sorted(found, key=lambda name: (len(name), name))

    def checkpoint(self, flag, iternum=None):
        """Folder of a checkpoint; UsageError lists those that exist."""
        name = "checkpoint" if iternum is None else f"checkpoint_{iternum}"
        if name not in self.checkpoints():
            have = ", ".join(self.checkpoints()) or "none yet"
            asked = f"{flag}={str(self.path)!r}" if iternum is None else f"--iternum={iternum}"
            raise UsageError(f"{asked}: the run has no {name}; it has: {have}")
        return self.path / name


def open_run(flag, path):
    """The training run in a folder, or None if the folder holds none; DataError if its record is
    broken or newer."""
    path = require_dir(flag, path)
    record = path / "run.json"
    return Run(path, whole_files.read_manifest(record, "run")) if record.is_file() else None
