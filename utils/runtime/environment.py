"""What made a result: versions of the libraries, the commit of the toolkit and the machine."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

TOOLKIT = Path(__file__).resolve().parent.parent.parent


def _commit():
    """The toolkit's commit, with + when tracked files have changed; None outside a checkout."""
    asked = [
        "git",
        "-C",
        str(TOOLKIT),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            asked, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment():
    """Versions, commit and machine, for records."""
    packages = (
        "torch",
        "torchvision",
        "diffusers",
        "transformers",
        "accelerate",
        "timm",
        "numpy",
        "pillow",
    )
    versions = {}
    for name in packages:
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
