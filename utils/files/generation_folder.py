"""Output folder of a generation: images, prompts and manifest, and how an interrupted generation
continues."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

from PIL import Image

from utils.files import locks, whole_files
from utils.files.owned_folders import require_writable
from utils.runtime.errors import DataError, UsageError

ManifestRow = dict[str, Any]  # of the manifest: an image's file, index, seed, prompts and notes
# key of a row, of an image that shows nothing, and of the manifest, with their numbers
DEGENERATE = "degenerate"
# settings that are recorded as an id or a hash, which would tell a reader nothing
RECORDED_BY_HASH = ("modelpath", "prompts", "lora", "unet", "pretrained_model_name_or_path")


class Generated(Protocol):
    """What is saved of a generation.sampling.GeneratedImage."""

    @property
    def job(self) -> Any:
        """The generation.sampling.ImageJob: number, seed and prompts of the image."""

    @property
    def image(self) -> Image.Image:
        """The image, PIL RGB."""

    @property
    def notes(self) -> dict[str, Any]:
        """What else the manifest records of the image, as JSON types."""


def generation_name(mitigations: Sequence[str]) -> str:
    """Name of a generation's folder, as published: gen_nomit, or gen_<mitigation>_<mitigation>...

    mitigations: names of generation.mitigations.Mitigation."""
    return "_".join(["gen", *mitigations]) if mitigations else "gen_nomit"


class Generation:
    """The output folder of a generation at `path`: PNGs, prompts.txt and manifest.json.

    While images are generated, each process appends to a file of its own, manifest.jsonl.part or
    manifest.jsonl.part.<process>: a line of settings, then a line for every finished image. So a
    killed run continues where it stopped.
    process: number of this process, from 0;
    flags: those that name the folder, for errors; the first one is the folder's own."""

    def __init__(
        self,
        path: str | Path,
        *,
        process: int = 0,
        flags: Sequence[str] = ("--savepath", "--run_name"),
    ) -> None:
        self.path, self.flags = Path(path), tuple(flags)
        self.manifest_path = self.path / "manifest.json"
        self.first_part_path = self.path / "manifest.jsonl.part"
        self.part_path = (
            self.path / f"manifest.jsonl.part.{process}" if process else self.first_part_path
        )
        self.prompts_path = self.path / "prompts.txt"

    def image_key(self, index: int) -> str:
        """Path of image number `index`, relative to the folder."""
        return f"generations/{index}.png"

    def planned(self) -> list[str]:
        """Paths that will be written."""
        names = (
            "generations/<index>.png",
            "prompts.txt",
            "manifest.json",
            "manifest.jsonl.part",
            "wandb/ or logs/ (with --report_to)",
        )
        return [str(self.path / name) for name in names]

    def _require_same(self, recorded: dict[str, Any], settings: dict[str, Any]) -> None:
        """Raise UsageError that names the first setting in which a recorded generation differs."""
        # in the order of `settings`, so that a mitigation's main flag comes before its other flags
        for key in dict.fromkeys((*settings, *recorded)):
            old, new = recorded.get(key), settings.get(key)
            if old != new:
                raise UsageError(
                    f"{_given(key, new)}: {str(self.path)!r} holds a generation with"
                    f" {_held(key, old)}; use the same value, or another {' or '.join(self.flags)}"
                )

    def rows(self, settings: dict[str, Any]) -> list[ManifestRow]:
        """Manifest rows of the images that exist, of a finished or an interrupted generation.

        settings: of the generation that will be written. UsageError names one that differs from the
        recorded ones, or says that the folder holds images without a manifest."""
        require_writable(self.flags[0], self.path)
        recorded: dict[str, Any] | None
        if self.manifest_path.is_file():
            manifest = whole_files.read_manifest(self.manifest_path, "generation")
            recorded, rows = manifest.get("settings", {}), manifest["images"]
        elif self._parts():
            recorded, rows = self._read_parts()
        else:
            foreign = [n for n in ("generations", "prompts.txt") if (self.path / n).exists()]
            if foreign:
                raise UsageError(
                    f"{self.flags[0]}: {str(self.path)!r} holds {foreign[0]} but no manifest of"
                    " this toolkit; use another folder"
                )
            return []
        if recorded is not None:
            self._require_same(recorded, settings)
        return [row for row in rows if (self.path / row["file"]).is_file()]

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob(f"{self.first_part_path.name}*"))

    def _read_parts(self) -> tuple[dict[str, Any] | None, list[ManifestRow]]:
        """The contents of all processes' parts. Returns: settings, or None if no line of them is
        complete; rows, one for each image."""
        settings: dict[str, Any] | None = None
        rows: dict[int, ManifestRow] = {}
        for path in self._parts():
            lines = list(_whole_lines(path))
            settings = lines[0] if lines else settings
            rows |= {row["index"]: row for row in lines[1:]}
        return settings, list(rows.values())

    def unfinished_settings(self) -> dict[str, Any] | None:
        """The settings of a generation that was interrupted; None if none are recorded."""
        return self._read_parts()[0]

    def begin(self, settings: dict[str, Any], rows: Iterable[ManifestRow] = ()) -> None:
        """Start this process's part file: write the settings and the rows of finished images.

        `save` then appends to it. Process 0 must begin before the others: its `rows` hold what the
        manifest and all parts of an earlier run held, and it removes those files."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line) for line in (settings, *rows)]
        whole_files.write_text(self.part_path, "\n".join(lines) + "\n")
        if self.part_path == self.first_part_path:
            for path in self._parts():
                if path != self.part_path:
                    path.unlink()
            # the manifest of a finished generation that lost images; its rows are in the part now
            self.manifest_path.unlink(missing_ok=True)

    def save(
        self, images: Iterable[Generated], *, threads: int = 2, waiting: int = 64
    ) -> Iterator[ManifestRow]:
        """Save images in threads while the next ones are generated.

        The thread that saves an image also writes its line, so every image that exists has a line
        even if the process is killed during the next batch, or the disk is full. Closing this
        generator early waits for the images that are being saved.
        images: are taken as they are generated;
        threads: number of threads;
        waiting: images that may wait to be saved, before generation has to wait.
        Yields: the manifest row of each image, in order, once image and line are on disk."""
        writing = threading.Lock()
        with (
            open(self.part_path, "a", encoding="utf-8") as part,
            ThreadPoolExecutor(threads) as pool,
        ):
            pending: deque[Future[ManifestRow]] = deque()
            for image in images:
                pending.append(pool.submit(self._save, image, part, writing))
                while len(pending) > waiting or pending and pending[0].done():
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _save(self, generated: Generated, part: IO[str], writing: threading.Lock) -> ManifestRow:
        row = self._save_image(generated)
        with writing:
            part.write(json.dumps(row) + "\n")
            part.flush()
        return row

    def _save_image(self, generated: Generated) -> ManifestRow:
        job = generated.job
        row = {
            "file": self.image_key(job.index),
            "index": job.index,
            "seed": job.seed,
            "source_prompt": job.source_prompt,
            "prompt": job.prompt,
            "source_image": job.source_image,
            **({} if job.label is None else {"label": job.label}),
            **generated.notes,
        }
        with whole_files.whole_file(self.path / row["file"]) as part:
            generated.image.save(part, format="PNG")
        return row

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Keep other commands on this machine out of this folder until the end of the block.
        Yields: False if another command works on it."""
        with locks.lock_folder_on_this_machine(self.path) as mine:
            yield mine

    def require_unshared(self, locked: bool) -> None:
        """Raise UsageError if `locked`, from the main process's lock, is False."""
        if not locked:
            raise locks.in_use(self.flags[0], self.path)

    def complete_rows(self, total: int) -> list[ManifestRow]:
        """Rows of all processes' parts, ordered by index; DataError if some are missing.

        total: number of images that the generation must have."""
        rows = sorted(self._read_parts()[1], key=lambda row: row["index"])
        if len(rows) != total:
            raise DataError(
                f"{self.path}: {len(rows)} of {total} images have a line in the manifest; run the"
                " same command again to generate the others"
            )
        return rows

    def finish(self, total: int, **fields: Any) -> list[ManifestRow]:
        """Write prompts.txt (unless the model reads none) and the manifest from the parts of all
        processes, and remove the parts.

        total: as `complete_rows`; DataError, and nothing is written, if rows are missing;
        fields: of the manifest, besides the images.
        Returns: rows, ordered by index."""
        rows = self.complete_rows(total)
        lines = [_one_line(row["prompt"]) + "\n" for row in rows if row["prompt"] is not None]
        if lines:
            whole_files.write_text(self.prompts_path, "".join(lines))
        whole_files.write_manifest(self.manifest_path, "generation", **fields, images=rows)
        for path in self._parts():
            path.unlink()
        return rows


def _given(key: str, value: Any) -> str:
    """The words of a message for a flag that was given, or was not."""
    if value is None:
        return f"--{key} was not given"
    return f"--{key}" if key in RECORDED_BY_HASH else f"--{key}={value!r}"


def _held(key: str, value: Any) -> str:
    """The words of a message for a recorded setting."""
    if value is None:
        return "none"
    return "another one" if key in RECORDED_BY_HASH else repr(value)


def _one_line(prompt: str) -> str:
    return prompt.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _whole_lines(path: Path) -> Iterator[Any]:
    """The JSON values of a file's lines, up to a line that was cut because a process was killed."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _are_scores(value: Any) -> bool:
    """Whether a row's "detections" are as a generation writes them: {detector: score}."""
    return isinstance(value, dict) and all(
        isinstance(score, int | float) and not isinstance(score, bool) for score in value.values()
    )


def read_queries_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a generation folder; None if the folder has none.

    DataError if it is of another kind, newer than this toolkit or incomplete, or if the generation
    is unfinished."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        if path.with_name("manifest.jsonl.part").is_file():
            raise DataError(
                f"--query_dir={str(folder)!r} is an unfinished generation; run its command again to"
                " finish it"
            )
        return None
    data = whole_files.read_manifest(path, "generation")
    if not isinstance(data.get("images"), list) or not data["images"]:
        raise DataError(f"{path}: lists no images")
    for number, row in enumerate(data["images"]):
        for key in ("file", "prompt", "source_prompt"):
            if not isinstance(row, dict) or key not in row:
                raise DataError(f"{path}: image {number} has no {key!r}")
        if not _are_scores(row.get("detections", {})):
            raise DataError(f"{path}: image {number} has 'detections' that are not numbers by name")
    return data
