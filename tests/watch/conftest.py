"""The copy in training of tests/training."""

from tests.training.conftest import start  # noqa: F401
