"""An evaluation folder, made beside and renamed."""

import contextlib
import os
import re
import shutil
from pathlib import Path

from utils.files.owned_folders import put_in_place, require_ours


def evaluation_name(*, pt_style, arch, preset, similarity_metric, search, fingerprint):
    """<pt_style>[-<arch>][-<preset>]-<similarity_metric>[-<search>]-<8 digits of the training
    images' fingerprint>.

    search: "ann" where an index is searched approximately, else None: an exact search does not
    replace that one."""
    parts = [
        pt_style,
        arch.replace("/", "_") if arch else None,
        preset,
        similarity_metric,
        search,
        fingerprint[:8],
    ]
    return "-".join(p for p in parts if p)


class Evaluation:
    """An evaluation folder, made beside and renamed; one of ours found there is replaced, anything
    else an error.

    files: names of the files and folders that will be in it, for `planned`.
    """

    OURS = ("metrics.json", "matches.csv", "similarity.npy", "plots", "gallery", "report.html")
    OUR_FILES = re.compile(
        r"metrics\.json|matches\.(?:csv|parquet)|similarity\.npy|report\.html"
        r"|plots/(?:\w+\.png)?|gallery/(?:page_\d+\.png)?"
    )

    def __init__(self, path, files=OURS):
        self.path, self.files = Path(path), tuple(files)
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def require_ours(self):
        """UsageError unless the folder is new, empty, or an evaluation and nothing else; what is
        ours is replaced."""
        require_ours(
            "--output_dir",
            self.path,
            files=self.OUR_FILES,
            record="metrics.json",
            kind="evaluation",
            writer="evaluation",
        )
        return self

    def planned(self):
        """Paths that are written."""
        return [str(self.path / n) for n in self.files]

    @contextlib.contextmanager
    def writing(self):
        """Yield the folder to write into; on success it takes the evaluation's place."""
        self.part.mkdir(parents=True)
        try:
            yield self.part
            put_in_place(self.part, self.path)
        finally:
            shutil.rmtree(self.part, ignore_errors=True)
