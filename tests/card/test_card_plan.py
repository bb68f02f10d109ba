import pytest

from utils.card.card_plan import generation_of, thinned
from utils.card.card_run import announcement, in_minutes
from utils.card.card_sizes import ArmSize, Progress
from utils.runtime.errors import UsageError


@pytest.mark.parametrize(
    ("count", "kept"), [(3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (9, [0, 2, 4, 6, 8])]
)
def test_checkpoints_are_thinned_evenly_with_both_ends(count, kept):
    assert thinned(range(count), 5) == kept


def test_a_plan_of_a_generation_checks_what_the_script_checks(micro_sd):
    with pytest.raises(UsageError, match="--resolution=17"):
        generation_of(["--modelpath", str(micro_sd), "--prompt", "x", "--resolution", "17"])


def test_the_announcement_counts_what_exists_and_says_what_a_budget_took():
    full = {"training": ArmSize(64, 4), "base": ArmSize(64, 4)}
    made = Progress({"training": 256}, frozenset(), 0.2)
    (line,) = announcement(full, full, made, 2.0, None)
    assert "up to 512 images in 2 sets, 256 of them exist: about 10 minutes" in line
    small = {"training": ArmSize(64, 4), "base": ArmSize(8, 1)}
    _, reduced, short = announcement(full, small, made, 2.0, 0.5)
    assert reduced.startswith("--budget=0.5 reduces 512 images to 264")
    assert "--budget=0.5 is too short" in short
    assert [in_minutes(s) for s in (10, 60, 605)] == [
        "less than a minute",
        "1 minute",
        "10 minutes",
    ]
