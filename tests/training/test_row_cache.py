import numpy as np
import pytest
import torch

from utils.models import fingerprints
from utils.runtime.errors import DataError
from utils.training import row_cache


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(row_cache, "PART_ROWS", 8)
    monkeypatch.setattr(row_cache, "GROUP_ROWS", 3)


def rows_of(tmp_path, count=20, stamps=None):
    return row_cache.RowCache(
        tmp_path / "c", count, (2,), "float32", np.arange(count) if stamps is None else stamps
    )


def fill(rows, value=0.0, **share):
    """Row i becomes (i + value, -i); returns the row numbers that were computed."""
    done = []
    for part, groups in rows.missing(**share):
        rows.write(part, [(g, torch.tensor([[i + value, -i] for i in g])) for g in groups])
        done += [i for g in groups for i in g]
    return done


def test_rows_come_back_by_number_from_any_part(tmp_path):
    rows = rows_of(tmp_path)
    assert fill(rows) == list(range(20))
    assert rows.open().read([19, 0, 8]).tolist() == [[19, -19], [0, 0], [8, -8]]
    assert rows.read([19, 3], variants=[1, 0]).tolist() == [-19, 3]
    assert isinstance(rows.parts[0], np.memmap)
    assert rows.bytes == 20 * 2 * 4
    assert fill(rows_of(tmp_path)) == []  # the next run finds everything


def test_a_changed_row_is_computed_again_with_its_group(tmp_path):
    fill(rows_of(tmp_path))
    stamps = np.arange(20)
    stamps[12] = 999
    changed = rows_of(tmp_path, stamps=stamps)
    # groups of three from each part's start: 8, 11, 14
    assert fill(changed, value=0.5) == [11, 12, 13]
    assert changed.open().read([10, 12, 14])[:, 0].tolist() == [10, 12.5, 14]


def test_processes_share_the_parts(tmp_path):
    one, other = (fill(rows_of(tmp_path), process=p, processes=2) for p in (0, 1))
    assert one == [*range(8), *range(16, 20)]
    assert other == list(range(8, 16))
    assert rows_of(tmp_path).open().read([9]).tolist() == [[9, -9]]


def test_a_part_that_is_not_whole_is_computed_again_and_never_read(tmp_path):
    rows = rows_of(tmp_path)
    fill(rows)
    path = tmp_path / "c" / "rows_000001.npy"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        DataError, match="part 1 of the cache does not exist or is not whole.*--cache_latents off"
    ):
        rows_of(tmp_path).open()
    assert fill(rows_of(tmp_path)) == list(range(8, 16))


def test_room_on_the_disk_is_asked_for(tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace

    rows = rows_of(tmp_path)
    for free, fits in ((160, False), (10_000, True)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free)
        )
        assert rows.fits() == (fits, free)


def test_a_network_is_told_from_another_of_its_shape():
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert fingerprints.fingerprint(one) == fingerprints.fingerprint(one)
    assert fingerprints.fingerprint(one) != fingerprints.fingerprint(other)
    assert (
        fingerprints.key_of(a=1, b=2)
        == fingerprints.key_of(b=2, a=1)
        != fingerprints.key_of(a=1, b=3)
    )


def test_every_value_of_a_network_counts():
    one, other = torch.nn.Linear(40, 20), torch.nn.Linear(40, 20)
    other.load_state_dict(one.state_dict())
    assert fingerprints.fingerprint(one) == fingerprints.fingerprint(other)
    with torch.no_grad():
        other.weight[-1, -1] += 1
    assert fingerprints.fingerprint(one) != fingerprints.fingerprint(other)
    # runs of earlier versions recorded the beginnings alone
    beginnings = fingerprints.fingerprint_of_beginnings
    assert beginnings(one) == beginnings(other)
