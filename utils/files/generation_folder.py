"""A generation folder: its names, what is written while it is made, and its manifest."""

import contextlib
import json
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.files import locks, whole_files
from utils.files.owned_folders import require_writable
from utils.runtime.errors import DataError, UsageError


def generation_name(mitigations):
    """The published name of a generation: what mitigated it. mitigations: names of
    generation.mitigations.Mitigation."""
    return "_".join(["gen", *mitigations]) if mitigations else "gen_nomit"


class Generation:
    """A generation folder: PNGs, prompts.txt, manifest.json; while it is made, manifest.jsonl.part.

    The part holds a line of settings and a line per finished image, so a killed run continues where
    it stopped. Process 0 writes it, process n a part of its own beside: several processes share no
    file."""

    def __init__(self, path, *, process=0):
        self.path = Path(path)
        self.manifest_path = self.path / "manifest.json"
        self.first_part_path = self.path / "manifest.jsonl.part"
        self.part_path = (
            self.path / f"manifest.jsonl.part.{process}" if process else self.first_part_path
        )
        self.prompts_path = self.path / "prompts.txt"

    def image_key(self, index):
        return f"generations/{index}.png"

    def planned(self):
        names = (
            "generations/<index>.png",
            "prompts.txt",
            "manifest.json",
            "manifest.jsonl.part",
            "wandb/ or logs/ (with --report_to)",
        )
        return [str(self.path / n) for n in names]

    def _check(self, found, settings):
        # a mitigation's leading flag before those that go with it
        for key in dict.fromkeys((*settings, *found)):
            if found.get(key) != settings.get(key):
                # known by an id or a hash, which tell a reader nothing
                named = key in ("modelpath", "prompts", "lora")
                missing = settings.get(key) is None
                given = f"--{key}" if named or missing else f"--{key}={settings.get(key)!r}"
                given += " was not given" if missing else ""
                held = (
                    "none"
                    if found.get(key) is None
                    else "others"
                    if named
                    else repr(found.get(key))
                )
                raise UsageError(
                    f"{given}: {str(self.path)!r} holds a generation with {held}; takes the same,"
                    " or another --savepath or --run_name"
                )

    def rows(self, settings):
        """Manifest rows of the images that are there, of a finished or an interrupted generation
        with these settings.

        UsageError names a setting that differs, or says that the folder holds images of somebody
        else."""
        require_writable("--savepath", self.path)
        if self.manifest_path.is_file():
            found = whole_files.read_manifest(self.manifest_path, "generation")
            made_with, rows = found.get("settings", {}), found["images"]
        elif self._parts():
            made_with, rows = self._read_parts()
        else:
            foreign = [p for p in ("generations", "prompts.txt") if (self.path / p).exists()]
            if foreign:
                raise UsageError(
                    f"--savepath: {str(self.path)!r} holds {foreign[0]} without a manifest of ours;"
                    " use another folder"
                )
            return []
        self._check(settings if made_with is None else made_with, settings)
        return [row for row in rows if (self.path / row["file"]).is_file()]

    def _parts(self):
        return sorted(self.path.glob(f"{self.first_part_path.name}*"))

    def _read_parts(self):
        """Settings, None if no line of them is whole, and rows of every part, each image once."""
        settings, rows = None, {}
        for path in self._parts():
            lines = list(_whole_lines(path))
            settings = lines[0] if lines else settings
            rows |= {row["index"]: row for row in lines[1:]}
        return settings, list(rows.values())

    def begin(self, settings, rows=()):
        """Write this process's part anew: the settings, and rows that are finished. `save` then
        appends.

        The first process takes over what other parts and a manifest held, so it begins before the
        others do."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line) for line in (settings, *rows)]
        whole_files.write_text(self.part_path, "\n".join(lines) + "\n")
        if self.part_path == self.first_part_path:
            for path in self._parts():
                if path != self.part_path:
                    path.unlink()
            # of a generation whose images were lost: its rows are in the part
            self.manifest_path.unlink(missing_ok=True)

    def save(self, images, *, threads=2, waiting=64):
        """Save images as they come, in threads, while the next are made; at most `waiting` are
        held. images: iterable of sampling.GeneratedImage. Yields: manifest rows, in order, each
        once its image and its line are on disk.

        The thread that saves an image writes its line: a process that is killed while it makes the
        next batch, or whose disk is full, has a line for every image that is there. Leaving this
        early waits for what is being saved."""
        writing = threading.Lock()
        with (
            open(self.part_path, "a", encoding="utf-8") as part,
            ThreadPoolExecutor(threads) as pool,
        ):
            pending = deque()
            for image in images:
                pending.append(pool.submit(self._save, image, part, writing))
                while len(pending) > waiting or pending and pending[0].done():
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _save(self, made, part, writing):
        row = self._save_image(made)
        with writing:
            part.write(json.dumps(row) + "\n")
            part.flush()
        return row

    def _save_image(self, made):
        job = made.job
        row = {
            "file": self.image_key(job.index),
            "index": job.index,
            "seed": job.seed,
            "source_prompt": job.source_prompt,
            "prompt": job.prompt,
            "source_image": job.source_image,
            **made.notes,
        }
        with whole_files.whole_file(self.path / row["file"]) as part:
            made.image.save(part, format="PNG")
        return row

    @contextlib.contextmanager
    def locked(self):
        """Keep other commands on this machine out of this folder until the end of the block.
        Yields: False if another command works on it."""
        with locks.lock_folder_on_this_machine(self.path) as mine:
            yield mine

    def require_unshared(self, locked):
        """UsageError unless `locked`, which every process of a command is to be told."""
        if not locked:
            raise UsageError(
                f"--savepath: {str(self.path)!r} is being made by another command; takes another"
                " --savepath or --run_name, or wait for that one"
            )

    def finish(self, total, **fields):
        """Write prompts.txt and the manifest from what every process saved, and remove the parts.
        Returns: rows by index.

        DataError, with everything left as it is, unless there are `total` rows.
        """
        rows = sorted(self._read_parts()[1], key=lambda row: row["index"])
        if len(rows) != total:
            raise DataError(
                f"{self.path}: {len(rows)} of {total} images have a line; the same command makes"
                " the others"
            )
        escaped = (
            r["prompt"].replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
            for r in rows
        )
        whole_files.write_text(self.prompts_path, "".join(f"{line}\n" for line in escaped))
        whole_files.write_manifest(self.manifest_path, "generation", **fields, images=rows)
        for path in self._parts():
            path.unlink()
        return rows


def _whole_lines(path):
    """JSON objects of a file's lines, up to one that was cut off when a process was killed."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _are_scores(value):
    """Whether a row's "detections" are as a generation writes them: {detector: score}."""
    return isinstance(value, dict) and all(
        isinstance(score, int | float) and not isinstance(score, bool) for score in value.values()
    )


def read_queries_manifest(folder):
    """The generation manifest in a folder, or None. DataError on another kind, a newer version, or
    an unfinished one."""
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
        absent = [
            k
            for k in ("file", "prompt", "source_prompt")
            if not isinstance(row, dict) or k not in row
        ]
        if absent:
            raise DataError(f"{path}: image {number} has no {absent[0]!r}")
        if not _are_scores(row.get("detections", {})):
            raise DataError(f"{path}: image {number} has 'detections' that are not numbers by name")
    return data
