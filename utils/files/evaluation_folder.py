"""Output folder of an evaluation: its name, its files, and how it is written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.files.owned_folders import put_in_place, require_ours


def evaluation_name(
    *,
    pt_style: str,
    arch: str | None,
    preset: str | None,
    similarity_metric: str,
    search: str | None,
    fingerprint: str,
) -> str:
    """Name of an evaluation's folder:
    <pt_style>[-<arch>][-<preset>]-<similarity_metric>[-<search>]-<8 digits of the fingerprint>.

    search: "ann" if an index is searched approximately, else None; so an approximate and an exact
    evaluation never replace each other;
    fingerprint: of the training images."""
    parts = [
        pt_style,
        arch.replace("/", "_") if arch else None,
        preset,
        similarity_metric,
        search,
        fingerprint[:8],
    ]
    return "-".join(part for part in parts if part)


class Evaluation:
    """The output folder of an evaluation at `path`.

    It is written to a temporary sibling, which is renamed on success and replaces an earlier
    evaluation.
    files: names of the files and folders that will be in it, for `planned`."""

    OURS = ("metrics.json", "matches.csv", "similarity.npy", "plots", "gallery", "report.html")
    OUR_FILES = re.compile(
        r"metrics\.json|matches\.(?:csv|parquet)|similarity\.npy|report\.html"
        r"|plots/(?:\w+\.png)?|gallery/(?:page_\d+\.png)?"
    )

    def __init__(self, path: str | Path, files: Iterable[str] = OURS) -> None:
        self.path = Path(path)
        self.files = tuple(files)
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def require_ours(self) -> Evaluation:
        """Check that the folder is new, empty or an evaluation, which will be replaced; UsageError
        otherwise. Returns: self."""
        require_ours(
            "--output_dir",
            self.path,
            files=self.OUR_FILES,
            record="metrics.json",
            kind="evaluation",
            writer="evaluation",
        )
        return self

    def planned(self) -> list[str]:
        """Paths that will be written."""
        return [str(self.path / name) for name in self.files]

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield the temporary folder to write to; on success it becomes the evaluation's folder."""
        self.part.mkdir(parents=True)
        try:
            yield self.part
            put_in_place(self.part, self.path)
        finally:
            shutil.rmtree(self.part, ignore_errors=True)
