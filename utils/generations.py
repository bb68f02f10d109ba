"""A generation folder: its names, what is written while it is made, and its manifest."""

import json
from pathlib import Path

from utils import manifest
from utils.errors import DataError, UsageError
from utils.runs import require_writable


def generation_name(opts):
    """The published name of a generation: what mitigated it."""
    parts = [f"gen_ginfer{opts.rand_noise_lam:g}"] if opts.rand_noise_lam else []
    parts += [f"gen_auginfer_{opts.rand_augs}_{opts.rand_aug_repeats}"] if opts.rand_augs else []
    return "_".join([parts[0], *(p.removeprefix("gen_") for p in parts[1:])] if parts else ["gen_nomit"])


class Generation:
    """A generation folder: PNGs, prompts.txt, manifest.json; while it is made, manifest.jsonl.part.

    The part holds a line of settings and a line per finished image, so a killed run continues where it stopped.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.manifest_path = self.path / "manifest.json"
        self.part_path = self.path / "manifest.jsonl.part"
        self.prompts_path = self.path / "prompts.txt"

    def image_key(self, index):
        return f"generations/{index}.png"

    def planned(self):
        names = ("generations/<index>.png", "prompts.txt", "manifest.json", "manifest.jsonl.part")
        return [str(self.path / n) for n in names]

    def _check(self, found, settings):
        for key in sorted({*found, *settings}):
            if found.get(key) != settings.get(key):
                named = key in ("modelpath", "prompts")  # known by an id and a hash that tell a reader nothing
                given = f"--{key}" if named else f"--{key}={settings.get(key)!r}"
                held = "others" if named else repr(found.get(key))
                raise UsageError(
                    f"{given}: {str(self.path)!r} holds a generation with {held}; takes the same, or another --savepath "
                    "or --run_name"
                )

    def rows(self, settings):
        """Manifest rows of the images that are there, of a finished or an interrupted generation with these settings.

        UsageError names a setting that differs, or says that the folder holds images of somebody else.
        """
        require_writable("--savepath", self.path)
        if self.manifest_path.is_file():
            found = manifest.read_manifest(self.manifest_path, "generation")
            made_with, rows = found.get("settings", {}), found["images"]
        elif self.part_path.is_file():
            made_with, *rows = self._part_lines() or [settings]
        else:
            foreign = [p for p in ("generations", "prompts.txt") if (self.path / p).exists()]
            if foreign:
                raise UsageError(
                    f"--savepath: {str(self.path)!r} holds {foreign[0]} without a manifest of ours; takes another folder"
                )
            return []
        self._check(made_with, settings)
        return [row for row in rows if (self.path / row["file"]).is_file()]

    def _part_lines(self):
        lines = []
        for line in self.part_path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # cut off here when the run was killed
        return lines

    def begin(self, settings, rows):
        """Write the part anew with what is finished; then `add` appends."""
        self.path.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(line) for line in (settings, *rows)]
        manifest.write_text(self.part_path, "\n".join(lines) + "\n")

    def add(self, job, image):
        """Save one image, whole, and its line. Returns: the manifest row."""
        row = {
            "file": self.image_key(job.index), "index": job.index, "seed": job.seed, "source_prompt": job.source_prompt,
            "prompt": job.prompt, "source_image": job.source_image,
        }  # fmt: skip
        with manifest.whole_file(self.path / row["file"]) as part:
            image.save(part, format="PNG")
        with open(self.part_path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        return row

    def finish(self, rows, **fields):
        """Write prompts.txt and the manifest, and remove the part."""
        rows = sorted(rows, key=lambda row: row["index"])
        escaped = (r["prompt"].replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") for r in rows)
        manifest.write_text(self.prompts_path, "".join(f"{line}\n" for line in escaped))
        manifest.write_manifest(self.manifest_path, "generation", **fields, images=rows)
        self.part_path.unlink(missing_ok=True)


def read_queries_manifest(folder):
    """The generation manifest in a folder, or None. DataError on another kind, a newer version, or an unfinished one."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        if path.with_name("manifest.jsonl.part").is_file():
            raise DataError(f"--query_dir={str(folder)!r} is an unfinished generation; run its command again to finish it")
        return None
    data = manifest.read_manifest(path, "generation")
    if not isinstance(data.get("images"), list) or not data["images"]:
        raise DataError(f"{path}: lists no images")
    for number, row in enumerate(data["images"]):
        absent = [k for k in ("file", "prompt", "source_prompt") if not isinstance(row, dict) or k not in row]
        if absent:
            raise DataError(f"{path}: image {number} has no {absent[0]!r}")
    return data
