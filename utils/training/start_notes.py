"""What a run says before its first step: settings that are accepted and do less than they seem
to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from utils.data.encoder_window import Window, too_long
from utils.training.optimisation import Optimisation, rate_at


def captions_cut(prompts: Mapping[str, Sequence[str]], window: Window) -> tuple[int, str | None]:
    """The captions whose end the text encoder does not read.

    prompts: {image key: its captions}. Returns: (their number, each text once; a line, or None
    where there are none)."""
    texts = list(dict.fromkeys(itertools.chain.from_iterable(prompts.values())))
    cut = too_long(window, texts)
    if not cut:
        return 0, None
    return len(cut), (
        f"{len(cut)} of {len(texts)} captions are longer than the {window.limit} tokens that the"
        f" text encoder reads; the rest of each has no effect. The first: {cut[0][:80]!r}"
    )


def warmup_unfinished(optimised: Optimisation) -> str | None:
    """A line with the highest learning rate of a run that ends before its warm-up does; None for
    another run."""
    schedule, asked = optimised.schedule, optimised.adam.learning_rate
    if schedule.name == "constant" or schedule.steps > schedule.warmup_steps:
        return None
    highest = rate_at(optimised)(schedule.steps - 1)  # a warm-up only rises
    return (
        f"--lr_warmup_steps={schedule.warmup_steps} is not over after the {schedule.steps} steps of"
        f" this run: the learning rate reaches {highest:.3g}, {100 * highest / asked:.2g} % of"
        f" {asked:g}; use fewer steps of warm-up unless a model that hardly trains is meant"
    )
