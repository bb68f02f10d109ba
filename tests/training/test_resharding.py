"""Images that change their split between rounds."""

import csv
import itertools

import numpy as np
import pytest
import torch

from utils.training import resharding
from utils.training.process.base import ProcessSettings

KEYS = [f"{i}.png" for i in range(12)]
SPLITS = [np.arange(4), np.arange(4, 8), np.arange(8, 12)]
# drawn and skipped in a round
COUNTS = np.array(
    [
        *((10, 9), (10, 2), (10, 0), (2, 2)),  # 0 is skipped most; 3 was drawn too rarely
        *((10, 5), (10, 5), (4, 1), (10, 1)),  # 4 and 5 alike: the path decides; 7 least
        *((10, 0), (10, 0), (3, 0), (2, 0)),  # nothing is skipped: none leaves
    ]
)


def exchanged(share=0.25, counts=COUNTS, splits=SPLITS, groups=None):
    return resharding.exchanges(splits, counts, KEYS, share=share, groups=groups)


def test_the_most_skipped_leave_for_the_next_split_and_its_least_skipped_come_back():
    assert exchanged() == [(0, 7), (4, 10)]  # "10.png" comes before "8.png"
    assert exchanged(0.5) == [(0, 7), (1, 6), (4, 10), (5, 8)]


def test_the_last_split_is_followed_by_the_first():
    counts = COUNTS.copy()
    counts[8] = 10, 10
    # the partner of 8 is 2: 0, which leaves itself, is skipped more
    assert exchanged(counts=counts) == [(0, 7), (4, 10), (8, 2)]
    two = exchanged(counts=counts, splits=[SPLITS[0], SPLITS[2]])
    assert two == [(0, 10), (8, 2)]


def test_one_image_leaves_a_small_split_and_none_without_a_partner():
    assert exchanged(0.01) == exchanged(0.25)
    counts = COUNTS.copy()
    counts[[6, 7], 0] = 2  # 4 leaves itself, and 5 alone is left for 0 and 1
    assert exchanged(0.25, counts)[0] == (0, 5)
    counts[5, 0] = 2
    assert exchanged(0.25, counts) == [(4, 10)]


def test_partners_are_of_one_class():
    groups = list("aaaabbabaaaa")
    # 6 alone is of the class of 0 and 1; no image of the third split is of that of 4 and 5
    assert exchanged(0.5, groups=groups) == [(0, 6)]


class FewImages:
    """Stands for CaptionedImages: keys alone."""

    rows = np.arange(12)

    def __init__(self):
        self.images = type("Images", (), {"keys": KEYS})

    def take(self, indices):
        return indices.tolist()


def test_two_images_take_over_each_other_s_draws_and_a_state_has_all_moves():
    moving = resharding.Resharding(FewImages(), SPLITS, share=0.25)
    assert moving.end_round(1, COUNTS) == [0, 7, 4, 10]
    assert [moving.data_of(k) for k in range(3)] == [[7, 1, 2, 3], [10, 5, 6, 0], [8, 9, 4, 11]]
    assert moving.rows() == [
        (1, "0.png", 0, 1, 10, 9),
        (1, "7.png", 1, 0, 10, 1),
        (1, "4.png", 1, 2, 10, 5),
        (1, "10.png", 2, 1, 3, 0),
    ]
    moving.end_round(2, COUNTS)
    again = resharding.Resharding(FewImages(), SPLITS, share=0.25)
    again.load(moving.state())
    assert again.rows() == moving.rows()
    assert all(np.array_equal(a, b) for a, b in zip(again.splits, moving.splits, strict=True))
    assert [split.tolist() for split in SPLITS] == [[*range(4)], [*range(4, 8)], [*range(8, 12)]]


# In training ------------------------------------------------------------------------------------


@pytest.fixture
def ensemble(start):
    """Two copies with a loss bank of few bins, so that much is skipped and a little augmented."""

    def made(**changes):
        settings = {"splits": 2, "rounds": 3, "steps": 12, "ratio": 1.0, "reshard": 0.3}
        return start(**settings | {"process": ProcessSettings(bins=2)} | changes)

    return made


def test_a_copy_draws_the_images_that_it_got(ensemble, finished):
    copies = ensemble()
    drawn = []
    noised = copies.model.noised
    copies.model.noised = lambda batch, *more: drawn.append(batch["row"]) or noised(batch, *more)
    finished(copies)
    moves = copies.resharding.moves
    assert {move.round for move in moves} == {1, 2}  # after the last round nothing moves
    splits = [set(split.tolist()) for split in copies.resharding.first]
    turns = [drawn[i : i + 12] for i in range(0, 72, 12)]
    for number, turn in enumerate(turns):
        round_, split = divmod(number, 2)
        if split == 0:
            for move in (m for m in moves if m.round == round_):
                splits[move.before].remove(move.image)
                splits[move.after].add(move.image)
        assert set(itertools.chain(*turn)) == splits[split]
    # counts of a move are those of its round alone
    assert all(0 <= move.skipped <= move.drawn == 4 for move in moves)
    assert any(move.skipped for move in moves)


def test_ordinary_ensembles_are_as_before_until_images_move(ensemble, finished):
    ours, theirs = ensemble(), ensemble(reshard=None)
    first, second = finished(ours)[0], finished(theirs)[0]
    losses = [[float(at.report.loss) for at in found] for found in (first, second)]
    assert losses[0][:24] == losses[1][:24]
    assert losses[0][24:] != losses[1][24:]


@pytest.mark.parametrize("until", [24, 30, 40])
def test_a_state_continues_bit_for_bit(ensemble, finished, until):
    """At the end of a round, in a turn of the next one, and in its second turn; with
    augmentation."""
    more = {"augment": 3.0, "use_ema": True}
    whole = ensemble(**more)
    _, expected = finished(whole)
    stopped, continued = ensemble(**more), ensemble(**more)
    finished(stopped, until=until)
    state = {name: tensor.clone() for name, tensor in stopped.state().items()}
    continued.load(state)
    _, found = finished(continued, position=until)
    assert torch.equal(found, expected)
    assert continued.resharding.moves == whole.resharding.moves
    assert torch.equal(continued.model.augmentation.augmented, whole.model.augmentation.augmented)
    assert whole.model.augmentation.augmented.sum() > 0


def test_a_run_writes_its_moves_and_a_resumed_one_the_same(script, micro_sd, scenes_dir, tmp_path):
    """A state before the last moves: what the run wrote after it is written again."""

    def train(out, *more):
        given = (
            *("--pretrained_model_name_or_path", micro_sd, "--class_prompt", "nolevel"),
            *("--instance_data_dir", scenes_dir / "train", "--resolution", 16, "--center_crop"),
            *("--clients_num", 2, "--total_round", 3, "--max_train_steps", 6, "--seed", 3),
            *("--mem_ratio", 1, "--agc_bins", 2, "--agc_reshard", 0.2, "--agc_augment", 3),
            *("--train_batch_size", 4, "--checkpoints_total_limit", 9, "--state_steps", 6),
            *("--num_workers", 0, "--save_steps", 99, "--sample_batch_size", 1),
            *("--report_to", "none", "--output_dir", out, *more),
        )
        return script("diff_train", *given)

    said = train(tmp_path / "r")
    assert "latents are not cached: --agc_augment crops and mirrors images" in said
    assert (tmp_path / "encoded").is_dir()  # captions are
    names = ("resharding.csv", "skips.csv")
    written = [(tmp_path / "r" / name).read_text() for name in names]
    rows = list(csv.DictReader(written[0].splitlines()))
    assert {row["round"] for row in rows} == {"1", "2"}
    assert {(row["from"], row["to"]) for row in rows} == {("0", "1"), ("1", "0")}
    counts = list(csv.DictReader(written[1].splitlines()))
    assert 0 < sum(int(row["augmented"]) for row in counts) < 3 * 2 * 6 * 4
    train(tmp_path / "r", "--resume_from_checkpoint", "state_18")
    assert [(tmp_path / "r" / name).read_text() for name in names] == written


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("--agc_reshard", 0.1), "--agc_reshard=0.1 looks at what --mem_ratio skips"),
        (("--agc_augment", 2), "--agc_augment=2 looks at what --mem_ratio skips"),
        (
            ("--mem_ratio", 2, "--agc_reshard", 0.1, "--total_round", 2),
            "there is --clients_num=1 and --total_round=2; use 2 or more of both",
        ),
        (
            ("--mem_ratio", 2, "--agc_reshard", 0.1, "--clients_num", 2),
            "there is --clients_num=2 and --total_round=1; use 2 or more of both",
        ),
        (("--mem_ratio", 2, "--agc_reshard", 0.6), "--agc_reshard='0.6' is not accepted"),
        (("--mem_ratio", 2, "--agc_augment", 1), "--agc_augment='1' is not accepted"),
    ],
)
def test_flags_that_can_do_nothing_are_refused(refused, scenes_dir, tmp_path, given, line):
    base = ("--unconditional_arch", "cifar", "--instance_data_dir", scenes_dir / "train")
    assert line in refused("diff_train", *base, "--output_dir", tmp_path / "r", *given)
