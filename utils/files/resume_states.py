"""What a training run continues from: state_<position>/ folders, whole or absent, of safetensors
and JSON.

A folder is written beside and renamed; an old one is renamed before it is removed. So whatever
moment a run is killed at, every folder that carries the name is whole."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from utils.files import whole_files
from utils.runtime.errors import TrainingError, UsageError

NAME = re.compile(r"state_(\d+)")
LEFTOVER = re.compile(r"\.(state_\d+|checkpoint(?:_\d+)?)(?:\.\d+)?\.(part|old)")


@dataclass(frozen=True)
class State:
    """A state on disk. position: optimizer steps done by a process; info: state.json."""

    path: Path
    position: int
    info: dict

    def tensors(self, process):
        """What a process wrote; UsageError when the state has none of it. Returns: {name: tensor on
        the CPU}."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / f"process_{process}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"--resume_from_checkpoint={str(self.path)!r}: {path.name} cannot be read ({error})"
            ) from None


def list_states(folder):
    """Whole states of a run, oldest first."""
    found = [(int(m[1]), p) for p in Path(folder).glob("state_*") if (m := NAME.fullmatch(p.name))]
    return [
        State(path, position, whole_files.read_manifest(path / "state.json", "training state"))
        for position, path in sorted(found)
        if (path / "state.json").is_file()
    ]


def find_state(folder, asked):
    """The state that --resume_from_checkpoint asks for: None for `latest` when there is none yet;
    UsageError otherwise."""
    states = list_states(folder)
    if asked == "latest":
        return states[-1] if states else None
    for state in states:
        if asked == state.path.name or Path(asked).resolve() == state.path.resolve():
            return state
    have = ", ".join(s.path.name for s in states) or "none yet"
    raise UsageError(
        f"--resume_from_checkpoint={asked!r} is no state of --output_dir={str(folder)!r}; takes"
        f" latest or one of: {have}"
    )


def clean(folder, *, after=None):
    """Remove what a killed process left half written or half removed, and states beyond position
    `after`: those of a past that is being trained again. A checkpoint that was about to be replaced
    is put back."""
    folder = Path(folder)
    for path in folder.glob(".*"):
        left = LEFTOVER.fullmatch(path.name)
        if (
            left
            and left[2] == "old"
            and left[1].startswith("checkpoint")
            and not (folder / left[1]).exists()
        ):
            os.replace(path, folder / left[1])
        elif left:
            shutil.rmtree(path, ignore_errors=True)
    for state in list_states(folder):
        if after is not None and state.position > after:
            _remove(state.path)


def _write(path, tensors):
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    except (OSError, SafetensorError) as error:
        return f"{path.parent.name}: {' '.join(str(error).split())}"
    return None


def _remove(path):
    aside = path.with_name(f".{path.name}.old")
    os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def save_state(folder, position, tensors, info, *, processes, limit):
    """Write a state by all processes together and remove the oldest ones beyond `limit`.

    tensors: {name: CPU tensor}, or None for a process that has none of its own; processes:
    devices.Processes. TrainingError when it cannot be written, on a full disk for one: then every
    older state is still there."""
    folder = Path(folder)
    final, part = folder / f"state_{position}", folder / f".state_{position}.part"
    error = None
    if processes.main:
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
        except OSError as found:
            error = str(found)
    processes.wait()
    if tensors is not None and error is None:
        error = _write(part / f"process_{processes.index}.safetensors", tensors)
    if processes.main and error is None:
        try:
            whole_files.write_manifest(
                part / "state.json", "training state", position=position, **info
            )
        except OSError as found:
            error = str(found)
    if processes.any(error is not None):
        if processes.main:
            shutil.rmtree(part, ignore_errors=True)
        kept = ", ".join(s.path.name for s in list_states(folder)) or "none"
        raise TrainingError(
            f"the state of step {position} could not be written ({error or 'by another process'});"
            f" whole states: {kept}. Make room and continue with --resume_from_checkpoint latest"
        )
    if processes.main:
        if final.exists():
            _remove(final)
        os.replace(part, final)
        for old in list_states(folder)[:-limit]:
            _remove(old.path)
    processes.wait()
