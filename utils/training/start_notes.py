"""What a run says before its first step: settings that are accepted and do less than they seem
to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from utils.data.encoder_window import Window, too_long
from utils.training.optimisation import Optimisation, rate_at

FEWEST_VISITS = 10  # of a bin, after which its average no longer hangs on single samples


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


def one_caption_each(prompts: Mapping[str, Sequence[str]], flags: Sequence[str]) -> str | None:
    """A line where flags draw among the captions of an image and every image has one; None
    otherwise.

    prompts: {image key: its captions}; flags: as they are given."""
    if not flags or any(len(set(texts)) > 1 for texts in prompts.values()):
        return None
    return (
        f"{' and '.join(flags)}: no other caption is drawn, because each of the {len(prompts)}"
        " images has one; use a captions file with several for each image"
    )


def mixed_with_itself(
    prompts: Mapping[str, Sequence[str]], *, mixup: float, dropout: float, batch: int
) -> str | None:
    """A line where mixup mixes each prompt with the same prompt; None otherwise.

    mixup: --mixup_noise_lam, 0 is off; dropout: --caption_dropout; batch: images of a micro-batch
    of all processes of a copy."""
    if not mixup:
        return None
    shown = f"--mixup_noise_lam={mixup:g} has no effect"
    if batch == 1:
        return (
            f"{shown}: the only image of a micro-batch is its own partner; use --train_batch_size 2"
            " or more"
        )
    distinct = set(itertools.chain.from_iterable(prompts.values()))
    if len(distinct) == 1 and not dropout:
        return f"{shown}: all images have the prompt {next(iter(distinct))[:80]!r}"
    return None


def bins_rarely_visited(bins: int, samples: int) -> str | None:
    """A line where a bin of the loss bank is visited less than FEWEST_VISITS times on average, so
    that its usual loss is that of a few samples; None otherwise.

    bins: of the bank; samples: that a copy draws in the run."""
    if samples >= FEWEST_VISITS * bins:
        return None
    return (
        f"--mem_ratio: each of the {bins} bins of the loss bank is visited {samples / bins:.2g}"
        f" times in this run, and a usual loss takes {FEWEST_VISITS}; use --agc_bins"
        f" {max(1, samples // (10 * FEWEST_VISITS))}, or more steps"
    )


def computed_in_float32(names: Sequence[str], precision: str) -> str | None:
    """A line about networks that are too coarse or overflow in half precision; None without any.

    names: of the networks; precision: --mixed_precision."""
    if not names:
        return None
    return (
        f"--mixed_precision={precision}: computed in float32, because half precision overflows or"
        f" is too coarse: {', '.join(names)}"
    )
