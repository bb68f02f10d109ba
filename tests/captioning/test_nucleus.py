import numpy as np
import pytest
import torch

from utils.captioning import nucleus
from utils.runtime.errors import DataError

NUMBERS = torch.tensor([0.0, 0.05, 0.3, 0.5, 0.75, 0.999999999])


def naive(probabilities, number, top_p):
    """A token by the definition: the most probable tokens until their sum reaches top_p, then the
    first of them in the vocabulary's order at which the sum exceeds number x total."""
    ranked = sorted(range(len(probabilities)), key=lambda t: -probabilities[t])
    kept, total = [], 0.0
    while total < top_p:
        kept.append(ranked[len(kept)])
        total += probabilities[kept[-1]]
    reached = 0.0
    for token in sorted(kept):
        reached += probabilities[token]
        if reached > number * total:
            return token
    raise AssertionError("no token")


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_a_token_is_drawn_as_by_a_naive_nucleus(top_p):
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(0, 2, (200, 12)))
    numbers = torch.from_numpy(rng.random((200, 1)))
    left = nucleus.OwnNucleus(numbers, top_p)(torch.zeros(200, 1), scores)
    drawn = [row.nonzero().tolist() for row in torch.isfinite(left)]
    wanted = [
        naive(p.tolist(), n.item(), top_p) for p, n in zip(scores.softmax(-1), numbers, strict=True)
    ]
    assert drawn == [[[token]] for token in wanted]


def test_tokens_come_as_often_as_their_probabilities_say():
    probabilities = torch.tensor([0.1, 0.0, 0.5, 0.15, 0.25]).repeat(20000, 1)
    numbers = torch.from_numpy(np.random.default_rng(1).random(20000))
    shares = torch.bincount(nucleus.pick(probabilities, numbers), minlength=5) / 20000
    assert shares.tolist() == pytest.approx([0.1, 0.0, 0.5, 0.15, 0.25], abs=0.012)


def test_a_token_of_probability_0_is_never_drawn():
    probabilities = torch.tensor([0.0, 0.4, 0.0, 0.2, 0.0]).repeat(6, 1)
    assert nucleus.pick(probabilities, NUMBERS.double()).tolist() == [1, 1, 1, 1, 3, 3]
    last = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert nucleus.pick(torch.tensor([[0.1, 0.2, 0.0]]), last).tolist() == [1]


def test_a_caption_keeps_its_numbers_when_more_or_longer_ones_are_drawn():
    few = nucleus.numbers_of_image("a/1.png", seed=3, captions=2, tokens=4)
    many = nucleus.numbers_of_image("a/1.png", seed=3, captions=5, tokens=9)
    assert np.array_equal(many[:2, :4], few)
    other = nucleus.numbers_of_image("a/2.png", seed=3, captions=2, tokens=4)
    assert len(set(few.flatten()) | set(other.flatten())) == 16


def test_probabilities_that_are_not_numbers_are_refused():
    draw = nucleus.OwnNucleus(torch.zeros(1, 3), 0.9)
    with pytest.raises(DataError, match="not numbers; use --mixed_precision no"):
        draw(torch.zeros(1, 1), torch.tensor([[0.0, torch.nan]]))
