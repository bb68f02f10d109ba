from types import SimpleNamespace

import pytest
import torch

from utils import devices
from utils.errors import UsageError


def test_dtypes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [devices.dtype_of(p) for p in ("no", "fp16", "bf16")] == [torch.float32, torch.float16, torch.bfloat16]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--mixed_precision='fp16' needs a GPU; without one it takes one of: no, bf16"):
        devices.dtype_of("fp16")


def test_a_launcher_that_promised_more_processes_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE=2: diff_x.py works in one process"):
        devices.one_process("diff_x.py")


def test_shared_seed_keeps_what_is_given_and_draws_otherwise():
    devices.accelerator(mixed_precision="no")
    assert devices.shared_seed(12) == 12
    drawn = {devices.shared_seed(None) for _ in range(4)}
    assert len(drawn) > 1
    assert all(0 <= s < 2**31 for s in drawn)


def test_peak_memory_is_in_bytes():
    found = devices.peak_memory(torch.device("cpu"))
    assert found["host"] > 50 * 2**20  # torch alone
    assert found["device"] is None


@pytest.mark.parametrize(("processes", "shards", "expected"), [
    (1, 4, [(0, 1, 0, 1)]), (2, 3, [(0, 2, 0, 1), (1, 2, 0, 1)]), (4, 2, [(0, 2, 0, 2), (0, 2, 1, 2), (1, 2, 0, 2), (1, 2, 1, 2)]),
    (2, 1, [(0, 1, 0, 2), (0, 1, 1, 2)]), (1, 1, [(0, 1, 0, 1)]),
])  # fmt: skip
def test_teams(processes, shards, expected, monkeypatch):
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks: tuple(ranks))
    made = [devices.team(SimpleNamespace(num_processes=processes, process_index=i), shards) for i in range(processes)]
    assert [(t.number, t.count, t.rank, t.size) for t in made] == expected
    if shards == 2 and processes == 4:
        assert [t.group for t in made] == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_more_processes_than_shards_come_in_multiples():
    with pytest.raises(UsageError, match="--clients_num=2 with 3 processes: takes at most 2 processes, or a multiple of it"):
        devices.team(SimpleNamespace(num_processes=3, process_index=0), 2)


def test_one_process_agrees_with_itself_and_copies_to_the_host():
    alone = devices.Processes(
        SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"), is_main_process=True)
    )
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.rows(torch.tensor([1.0, 2.0])).tolist() == [[1, 2]]
    tensor = torch.ones(2)
    host = devices.to_host(tensor)
    tensor.zero_()
    assert host.tolist() == [1, 1]
    assert devices.Team().gather(tensor) is tensor
