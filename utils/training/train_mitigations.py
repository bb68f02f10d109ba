"""Train-time mitigations: flags' values in, hooks out. The training loop calls hooks, never
names."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from utils.data.caption_edits import TRAIN_EDITS, RandomTokens
from utils.data.duplication import DUPLICATIONS
from utils.models import embedding_edits


@dataclass(frozen=True)
class TrainHooks:
    """choose_caption: (an image's captions, is it duplicated, rng) -> caption. noise, mixup:
    strengths, 0 is off.

    prompts: (an image's captions) -> those that choose_caption may return, or None when it makes
    new ones."""

    choose_caption: Callable
    noise: float = 0.0
    mixup: float = 0.0
    prompts: Callable | None = None

    def edit_embeddings(self, own, partners, *, ratio, noise):
        """[B, T, D] x 2 -> [B, T, D]: mixup with the partners, then Gaussian noise."""
        mixed = embedding_edits.mix(own, partners, ratio) if self.mixup else own
        return embedding_edits.add_noise(mixed, noise, self.noise) if self.noise else mixed


def _edited_caption(captions, duplicated, rng, *, own_caption, edit, tokens, p):
    own = own_caption(captions, duplicated, rng)
    return own if edit is None else edit(own, captions, rng, tokens, p)


def train_hooks(*, duplication, special, p, noise, mixup, tokenizer):
    """Hooks of --duplication, --trainspecial (a name or None) with probability p, --rand_noise_lam,
    --mixup_noise_lam."""
    choose = functools.partial(
        _edited_caption,
        own_caption=DUPLICATIONS[duplication],
        edit=TRAIN_EDITS[special] if special else None,
        tokens=RandomTokens(tokenizer),
        p=p,
    )
    whole_lists = special == "allcaps" or duplication == "dup_image"
    prompts = (lambda captions: captions) if whole_lists else (lambda captions: captions[:1])
    return TrainHooks(choose, noise, mixup, prompts if special in (None, "allcaps") else None)
