"""Versions of the libraries, commit of the toolkit and the machine, for the records of results."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

TOOLKIT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "timm",
    "numpy",
    "pillow",
)


def _commit() -> str | None:
    """The toolkit's commit, with + if tracked files have changed; None outside a git checkout."""
    describe = ["describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(
            ["git", "-C", str(TOOLKIT), *describe],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment() -> dict[str, Any]:
    """Python's and the libraries' versions, the toolkit's commit and the machine, as JSON types."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
        },
    }
