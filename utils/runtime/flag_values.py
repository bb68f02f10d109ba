"""Registries of functions whose keyword parameters are names of flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def flag_names(functions: Iterable[Callable]) -> tuple[str, ...]:
    """The flags that functions read, each once, without leading dashes."""
    return tuple(
        dict.fromkeys(
            name for function in functions for name in inspect.signature(function).parameters
        )
    )


def arguments(function: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
    """The flag values that a function reads, selected from a larger {flag: value}."""
    return {name: values[name] for name in flag_names([function])}
