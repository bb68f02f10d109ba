"""What a forward and a backward pass take, against cases that are counted by hand."""

import functools

import torch
import torch.utils.checkpoint

from utils.runtime.pass_memory import PassMemory

CPU, SIZE = torch.device("cpu"), 4000  # bytes of a tensor of 1000 numbers


def measured(run):
    memory = PassMemory()
    with memory.measured(CPU):
        run()
    return memory.bytes


def test_what_a_block_makes_and_drops_is_counted_at_its_peak():
    given = torch.ones(1000)

    def run():
        two = [given * 2, given * 3]  # 2
        two.pop()  # 1
        three = [given + each for each in (1, 2, 3)]  # 4
        del three, two
        given + 1  # 1 after all others are gone

    assert measured(run) == 4 * SIZE


def test_views_and_changes_in_place_take_nothing():
    given = torch.ones(1000)

    def run():
        given.view(10, 100).t()[2:].add_(1)
        given.expand(5, 1000)

    assert measured(run) == 0


def test_a_backward_pass_is_counted_beside_what_it_needs():
    """exp keeps its output: the two of them and the gradient that is worked out, at the peak; the
    sum and its gradient are a number each."""
    weight = torch.ones(1000, requires_grad=True)
    found = measured(lambda: weight.exp().exp().sum().backward())
    assert found == 3 * SIZE + 2 * 4
    assert weight.grad is not None


def test_checkpoints_are_counted_by_what_they_drop():
    """Sixteen outputs are kept; checkpointed in pairs half of them, and a pair's own while it is
    computed again."""
    weight = torch.zeros(1000, requires_grad=True)

    def run(call):
        x = weight * 1
        for _ in range(8):
            x = call(lambda x: x.exp().exp(), x)
        x.sum().backward()

    again = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    full = measured(lambda: run(lambda pair, x: pair(x)))
    less = measured(lambda: run(again))
    assert 16 <= full // SIZE <= 18
    assert 8 <= less // SIZE <= 12
