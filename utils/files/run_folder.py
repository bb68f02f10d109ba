"""Folder of a training run: the names of its files, how they are written, and how a run is read."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import adapter_folder, whole_files
from utils.files.owned_folders import require_writable, save_folder
from utils.runtime.errors import UsageError, require_dir

# names of what a run writes
OUR_NAMES = re.compile(
    r"run\.json|metrics\.jsonl|captions(_holdout)?\.json|skips\.csv|resharding\.csv|generations"
    r"|copying\.png|checkpoint.*|state_.*"
)


BEST = "best"  # --checkpoint
KEPT = "copy_check.json"  # in checkpoint_best/: the row of the check that it was kept after


def new_id() -> str:
    """A unique identifier of a run. Generations record it, to know the run of their model."""
    return secrets.token_hex(8)


class NewRun:
    """The folder of a run that is being trained. Only the main process writes: in the others,
    `writes` is set to False and the writing methods do nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.writes = True
        self.record_path = self.path / "run.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.captions_path = self.path / "captions.json"
        self.held_out_path = self.path / "captions_holdout.json"

    def require_new(self, *, resumes: bool = False) -> NewRun:
        """Check that training would overwrite nothing; UsageError if the folder holds a run.

        resumes: whether the run is resumed; then the folder may hold a run. Returns: self."""
        require_writable("--output_dir", self.path)
        names = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        ours = [name for name in names if OUR_NAMES.fullmatch(name)]
        if ours and not resumes:
            raise UsageError(
                f"--output_dir={str(self.path)!r} already holds a run ({ours[0]}); use a new"
                " folder, or --resume_from_checkpoint latest to continue the run"
            )
        if ours and resumes and "run.json" not in ours:
            raise UsageError(
                f"--output_dir={str(self.path)!r} holds {ours[0]} but no run.json; use the folder"
                " of a run, or a new folder"
            )
        return self

    def preview_path(self, step: int) -> Path:
        """Path of the preview images of a step."""
        return self.path / "generations" / f"{step}.png"

    def copies_path(self, step: int) -> Path:
        """Path of the images of the check of copies at a step."""
        return self.path / "generations" / f"{step}_copies.png"

    @property
    def copying_path(self) -> Path:
        """Path of the plot of all checks of copies."""
        return self.path / "copying.png"

    def checkpoint_path(self, step: int | str | None = None) -> Path:
        """Folder of the checkpoint of a step, of the best one (BEST), or of the last one."""
        return self.path / ("checkpoint" if step is None else f"checkpoint_{step}")

    def planned(
        self,
        *,
        ensemble: bool = False,
        control: bool = False,
        holdout: bool = False,
        copies: bool = False,
        best: bool = False,
        resharded: bool = False,
    ) -> list[str]:
        """Every path that a run writes, for --dry_run.

        ensemble: whether several copies are trained; control: whether loss control is on; holdout:
        whether images are set aside; copies: whether copies are checked; best: whether the last
        checkpoint that copies little is kept; resharded: whether images change their splits."""
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
        if control:
            names.append("skips.csv")
        if resharded:
            names.append("resharding.csv")
        if holdout:
            names.append(self.held_out_path.name)
        if copies:
            names += ["generations/<step>_copies.png", self.copying_path.name]
        if best:
            names.append(f"checkpoint_{BEST}/")
        return [*(str(self.path / name) for name in names), str(self.cache_path)]

    @property
    def cache_path(self) -> Path:
        """Folder of the frozen networks' outputs: beside the run, so that runs in one folder share
        it. It may be deleted at any time."""
        return self.path.resolve().parent / "encoded"

    def begin(
        self,
        record: dict[str, Any],
        prompts: Mapping[str, Sequence[str]],
        *,
        held_out: Mapping[str, Sequence[str]] | None = None,
        metrics_bytes: int = 0,
    ) -> None:
        """Write the record, which says that the run is not finished, and the prompts.

        prompts: {image key: list};
        held_out: the same of images that are never drawn, if any;
        metrics_bytes: length of metrics.jsonl that a resumed run keeps."""
        if self.writes:
            # the record first: with it, a run that is killed here can be resumed
            whole_files.write_manifest(self.record_path, "run", **record, finished=False)
            whole_files.write_json(self.captions_path, prompts)
            if held_out:
                whole_files.write_json(self.held_out_path, held_out)
            if self.metrics_path.exists():
                os.truncate(self.metrics_path, min(metrics_bytes, self.metrics_path.stat().st_size))

    @property
    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl in bytes."""
        return self.metrics_path.stat().st_size if self.metrics_path.exists() else 0

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record of a finished run."""
        if self.writes:
            whole_files.write_manifest(self.record_path, "run", **record, finished=True)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        if self.writes:
            with open(self.metrics_path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(row) + "\n")

    def write_skips(self, keys: Iterable[str], counts: Iterable[Iterable[int]]) -> None:
        """Write skips.csv: how often each image was drawn, how often loss control dropped it and,
        where that is counted, how often it was augmented.

        keys: of the images; counts: [N, 2 or 3]."""
        rows = [[key, *map(int, row)] for key, row in zip(keys, counts, strict=True)]
        columns = ("image", "drawn", "skipped", "augmented")[: len(rows[0])]
        self._write_table("skips.csv", columns, rows)

    def write_moves(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write resharding.csv: which images changed their split after which round.

        rows: (round, image, split before, split after, drawn and dropped in the round)."""
        columns = ("round", "image", "from", "to", "drawn", "skipped")
        self._write_table("resharding.csv", columns, rows)

    def _write_table(self, name, columns, rows):
        if self.writes:
            lines = io.StringIO()
            writer = csv.writer(lines, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
            whole_files.write_text(self.path / name, lines.getvalue())

    def save_checkpoint(self, save: Callable[[Path], None], step: int | None = None) -> None:
        """Write a checkpoint as a whole folder. One of the same name is replaced, as when a resumed
        run repeats a step. save: writes its files into a folder."""
        if self.writes:
            save_folder(save, self.checkpoint_path(step))

    def save_best(self, save: Callable[[Path], None], check: Mapping[str, Any]) -> None:
        """Write the checkpoint that --checkpoint best names, in the place of an earlier one.

        save: as in `save_checkpoint`; check: the row of metrics.jsonl after which it is kept."""

        def write(folder: Path) -> None:
            save(folder)
            whole_files.write_json(folder / KEPT, check)

        if self.writes:
            save_folder(write, self.checkpoint_path(BEST))

    def best(self) -> dict[str, Any] | None:
        """The row of metrics.jsonl after which `checkpoint_best` was kept; None without one."""
        path = self.checkpoint_path(BEST) / KEPT
        return whole_files.read_json(path) if path.is_file() else None

    def remove_best(self) -> None:
        """Remove `checkpoint_best`: out of the way first, so that no part of it is ever taken for
        one."""
        if self.writes:
            path = self.checkpoint_path(BEST)
            aside = path.with_name(f".{path.name}.old")
            os.replace(path, aside)
            shutil.rmtree(aside, ignore_errors=True)

    def metrics_rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl so far, of every kind."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Run:
    """A training run on disk."""

    path: Path
    record: dict[str, Any]  # the contents of run.json

    @property
    def options(self) -> dict[str, Any]:
        """The run's options, {flag: value}."""
        return self.record["options"]

    def located(self, name: str) -> Path | None:
        """Path of a data folder or file that the run was given, or None.

        The record keeps it relative to the run's folder."""
        place = self.record.get("places", {}).get(name)
        return None if place is None else Path(os.path.normpath(self.path.resolve() / place))

    def captions(self) -> dict[str, list[str]]:
        """The prompts that the run trained on: {image key: list}."""
        return whole_files.read_json(self.path / "captions.json")

    @property
    def holdout(self) -> list[str]:
        """Keys of the images that the run set aside and never drew (--holdout)."""
        return self.record.get("holdout", [])

    def held_out_captions(self) -> dict[str, list[str]]:
        """The prompts that images of `holdout` would have had: {image key: list}."""
        return whole_files.read_json(self.path / "captions_holdout.json") if self.holdout else {}

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that exist, in natural order."""
        records = ("model_index.json", adapter_folder.RECORD)
        names = (
            p.name
            for p in self.path.glob("checkpoint*")
            if any((p / record).is_file() for record in records)
        )
        # checkpoint_2 before checkpoint_10
        return sorted(names, key=lambda name: (len(name), name))

    @property
    def best_step(self) -> int:
        """The step of the checkpoint that --checkpoint best names."""
        return whole_files.read_json(self.path / f"checkpoint_{BEST}" / KEPT)["step"]

    def checkpoint(self, flag: str, iternum: int | str | None = None) -> Path:
        """Folder of the checkpoint of step `iternum`, of the best one (BEST), or of the last one;
        UsageError lists those that exist."""
        name = "checkpoint" if iternum is None else f"checkpoint_{iternum}"
        if name not in self.checkpoints():
            have = ", ".join(self.checkpoints()) or "none yet"
            asked = f"{flag}={str(self.path)!r}" if iternum is None else f"--iternum={iternum}"
            if iternum == BEST:
                asked = f"--checkpoint={BEST!r}"
                have += "; diff_train.py --stop_at_copy_share keeps a best one"
            raise UsageError(f"{asked}: the run has no {name}; it has: {have}")
        return self.path / name


def open_run(flag: str, path: str | Path) -> Run | None:
    """The training run in a folder; None if the folder holds no run.

    DataError if its record is broken, or newer than this toolkit."""
    path = require_dir(flag, path)
    record = path / "run.json"
    return Run(path, whole_files.read_manifest(record, "run")) if record.is_file() else None
