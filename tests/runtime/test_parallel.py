import sys
from types import SimpleNamespace

import pytest
import torch

from utils.runtime import parallel
from utils.runtime.errors import DataError, UsageError


def test_an_error_of_another_process_ends_this_one(monkeypatch):
    several = parallel.Processes(parallel.Alone(torch.device("cpu")))
    monkeypatch.setattr(several, "gather", lambda value: [value, "--x=1 is wrong"])
    with pytest.raises(UsageError, match="--x=1 is wrong"), several.together():
        pass
    with pytest.raises(DataError, match="my own"), several.together():
        raise DataError("my own")
    monkeypatch.setattr(several, "gather", lambda value: [value, None])
    with several.together():
        pass


@pytest.mark.parametrize(
    ("processes", "splits", "expected"),
    [
        (1, 4, [(0, 1, 0, 1)]),
        (2, 3, [(0, 2, 0, 1), (1, 2, 0, 1)]),
        (4, 2, [(0, 2, 0, 2), (0, 2, 1, 2), (1, 2, 0, 2), (1, 2, 1, 2)]),
        (2, 1, [(0, 1, 0, 2), (0, 1, 1, 2)]),
        (1, 1, [(0, 1, 0, 1)]),
    ],
)
def test_teams(processes, splits, expected, monkeypatch):
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks: tuple(ranks))
    made = [
        parallel.team(SimpleNamespace(num_processes=processes, process_index=i), splits)
        for i in range(processes)
    ]
    assert [(t.number, t.count, t.rank, t.size) for t in made] == expected
    if splits == 2 and processes == 4:
        assert [t.group for t in made] == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_more_processes_than_splits_come_in_multiples():
    with pytest.raises(
        UsageError,
        match="--clients_num=2 with 3 processes: use at most 2 processes, or a multiple of 2",
    ):
        parallel.team(SimpleNamespace(num_processes=3, process_index=0), 2)


def test_one_process_agrees_with_itself():
    alone = parallel.Processes(
        SimpleNamespace(
            num_processes=1, process_index=0, device=torch.device("cpu"), is_main_process=True
        )
    )
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.rows(torch.tensor([1.0, 2.0])).tolist() == [[1, 2]]
    assert (alone.share({"a": 1}), alone.gather([3]), alone.gather_rows(torch.eye(2)).tolist()) == (
        {"a": 1},
        [[3]],
        [[1, 0], [0, 1]],
    )
    tensor = torch.ones(2)
    assert parallel.Team().gather(tensor) is tensor


def test_a_line_stands_above_a_progress_bar(capsys):
    """A bar that is open is taken away, the line printed, and the bar drawn again."""
    from tqdm import tqdm

    processes = parallel.Processes(parallel.Alone(torch.device("cpu")))
    with tqdm(total=2, file=sys.stderr, mininterval=0) as bar:
        bar.update()
        processes.say("a line")
    written = capsys.readouterr()
    assert written.out == "a line\n"
    # drawn at the start, at the update, after the line and at the end; taken away once between
    assert "\r" + " " * 20 in written.err.split("50%", 1)[1]
