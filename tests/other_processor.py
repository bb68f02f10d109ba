"""Run the tests that compute as another processor would compute: `make test-other-processor`.

The libraries choose their kernels by the processor's instructions, so the last bits of a product or
a convolution differ between makers. Environment variables restrict the choice. Which of them a
library obeys depends on the processor: MKL ignores MKL_ENABLE_INSTRUCTIONS on AMD. So the settings
below are tried in order, and the first with which both a product and a convolution come out with
other bits is taken. It is an error if none does: the second run would prove nothing.

Arguments are handed to pytest; without paths it runs the folders and scripts that compute.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
LOWEST = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
# MKL_CBWR=COMPATIBLE makes MKL use the kernels that every processor has
SETTINGS = (AVX2, AVX2 | {"MKL_CBWR": "COMPATIBLE"}, LOWEST | {"MKL_CBWR": "COMPATIBLE"})
TESTS = (
    "tests/retrieval",
    "tests/index",
    "tests/models",
    "tests/generation",
    "tests/training",
    "tests/test_diff_train.py",
    "tests/test_diff_inference.py",
    "tests/test_diff_retrieval.py",
    "tests/test_sd_mitigation.py",
    "tests/test_pipelines.py",
    "tests/test_two_processes.py",
    "tests/test_measuring_processes.py",
)
# prints a line for each kind of computation: its name and a digest of its bits
PROBE = """
import hashlib, torch
torch.set_num_threads(1)
torch.manual_seed(0)
a, b = torch.randn(130, 777), torch.randn(777, 257)
image, kernel = torch.randn(16, 32, 64, 64), torch.randn(64, 32, 3, 3)
for name, result in (("product", a @ b), ("convolution", torch.conv2d(image, kernel))):
    print(name, hashlib.sha256(result.numpy().tobytes()).hexdigest()[:16])
print("torch", torch.backends.cpu.get_cpu_capability())
"""


def probed(settings):
    """What the probe prints under the settings. Returns: {name: digest, or the name of ATen's
    kernels}."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())


def chosen_settings():
    """The first settings that change the bits of a product and of a convolution; prints what each
    changed. SystemExit if none changes both."""
    own = probed({})
    print(f"this processor: {own}")
    for settings in SETTINGS:
        other = probed(settings)
        changed = [name for name in ("product", "convolution") if other[name] != own[name]]
        shown = " ".join(f"{name}={value}" for name, value in settings.items())
        print(f"{shown}: {other}; changed: {', '.join(changed) or 'nothing'}")
        if len(changed) == 2:
            return settings
    raise SystemExit("no setting changes the bits of both; this machine cannot stand for another")


def main(arguments):
    settings = chosen_settings()
    sys.stdout.flush()
    paths = [a for a in arguments if a.startswith("tests")] or list(TESTS)
    flags = [a for a in arguments if not a.startswith("tests")]
    os.chdir(ROOT)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "pytest", *flags, *paths],
        os.environ | settings | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
