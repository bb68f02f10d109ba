"""Resume states of a training run: folders state_<position>/ of safetensors and JSON.

A state is written to a temporary folder and renamed; an old one is renamed before it is removed. So
every folder of that name is whole, at whatever moment a run is killed."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import checksums, whole_files
from utils.runtime.errors import TrainingError, UsageError, is_disk_full

if TYPE_CHECKING:
    import torch

    from utils.runtime.parallel import Processes

NAME = re.compile(r"state_(\d+)")
# temporary folders, and renamed old ones, of states and checkpoints
LEFTOVER = re.compile(r"\.(state_\d+|checkpoint(?:_(?:\d+|best))?)(?:\.\d+)?\.(part|old)")


@dataclass(frozen=True)
class State:
    """A resume state on disk."""

    path: Path
    position: int  # optimizer steps that a process had done
    info: dict[str, Any]  # the contents of state.json

    def tensors(self, process: int) -> dict[str, torch.Tensor]:
        """The tensors that a process wrote, by name, on the CPU.

        UsageError if the state has no readable file of that process, or if the file differs from
        its checksum, which states of earlier versions lack."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / f"process_{process}.safetensors"
        try:
            tensors = load_file(path)
            damaged = checksums.is_damaged(path)
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"--resume_from_checkpoint={str(self.path)!r}: {path.name} cannot be read ({error})"
            ) from None
        if damaged:
            raise UsageError(
                f"--resume_from_checkpoint={str(self.path)!r}: {path.name} differs from its"
                " checksum: it was changed or damaged after it was written; continue from an"
                " earlier state"
            )
        return tensors


def list_states(folder: str | Path) -> list[State]:
    """The complete states of a run, oldest first."""
    paths = sorted(
        (int(match[1]), path)
        for path in Path(folder).glob("state_*")
        if (match := NAME.fullmatch(path.name))
    )
    return [
        State(path, position, whole_files.read_manifest(path / "state.json", "training state"))
        for position, path in paths
        if (path / "state.json").is_file()
    ]


def find_state(folder: str | Path, asked: str) -> State | None:
    """The state that --resume_from_checkpoint names.

    asked: "latest", or a state's name or path. Returns: None for "latest" if the run has no state
    yet; UsageError if the state does not exist."""
    states = list_states(folder)
    if asked == "latest":
        return states[-1] if states else None
    for state in states:
        if asked == state.path.name or Path(asked).resolve() == state.path.resolve():
            return state
    have = ", ".join(s.path.name for s in states) or "none yet"
    raise UsageError(
        f"--resume_from_checkpoint={asked!r} is not a state of --output_dir={str(folder)!r}; choose"
        f" latest or one of: {have}"
    )


def clean(folder: str | Path, *, after: int | None = None) -> None:
    """Remove what a killed process left half written or half removed.

    A checkpoint that was being replaced is put back.
    after: remove states beyond this position too, because the run continues from it."""
    folder = Path(folder)
    for path in folder.glob(".*"):
        leftover = LEFTOVER.fullmatch(path.name)
        if leftover is None:
            continue
        name, suffix = leftover.groups()
        if suffix == "old" and name.startswith("checkpoint") and not (folder / name).exists():
            os.replace(path, folder / name)
        else:
            shutil.rmtree(path, ignore_errors=True)
    for state in list_states(folder):
        if after is not None and state.position > after:
            _remove(state.path)


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> str | None:
    """Write tensors and their checksum and flush them to disk. Returns: the error in a line, or
    None."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
        checksums.write(path)
    except (OSError, SafetensorError) as error:
        return f"{path.parent.name}: {' '.join(str(error).split())}"
    return None


def _remove(path: Path) -> None:
    aside = path.with_name(f".{path.name}.old")
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def save_state(
    folder: str | Path,
    position: int,
    tensors: dict[str, torch.Tensor] | None,
    info: dict[str, Any],
    *,
    processes: Processes,
    limit: int,
) -> None:
    """Write a state, by all processes together, and remove the oldest states beyond `limit`.

    position: optimizer steps that a process has done;
    tensors: of this process, on the CPU; None for a process that has none of its own;
    info: of state.json, JSON types;
    limit: number of states to keep.
    TrainingError if it cannot be written, as on a full disk; all older states then still exist."""
    folder = Path(folder)
    final, part = folder / f"state_{position}", folder / f".state_{position}.part"
    failure = _write_part(part, position, tensors, info, processes)
    if processes.any(failure is not None):
        if processes.main:
            shutil.rmtree(part, ignore_errors=True)
        kept = ", ".join(s.path.name for s in list_states(folder)) or "none"
        # the number of the error decides: a folder that vanished needs no room
        advice = "Free some disk space" if is_disk_full(failure) else "Remove the cause"
        raise TrainingError(
            f"the state of step {position} could not be written"
            f" ({failure or 'by another process'}); complete states: {kept}. {advice} and"
            " continue with --resume_from_checkpoint latest"
        )
    if processes.main:
        if final.exists():
            _remove(final)
        os.replace(part, final)
        for old in list_states(folder)[:-limit]:
            _remove(old.path)
    processes.wait()


def _write_part(
    part: Path,
    position: int,
    tensors: dict[str, torch.Tensor] | None,
    info: dict[str, Any],
    processes: Processes,
) -> str | None:
    """Write this process's share of a state into the temporary folder. Returns: the error in a
    line, or None."""
    failure = None
    if processes.main:
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
        except OSError as error:
            failure = str(error)
    processes.wait()
    if tensors is not None and failure is None:
        failure = _write(part / f"process_{processes.index}.safetensors", tensors)
    if processes.main and failure is None:
        try:
            whole_files.write_manifest(
                part / "state.json", "training state", position=position, **info
            )
        except OSError as error:
            failure = str(error)
    return failure
