import time

import pytest

from utils.reports import progress


def test_items_pass_through_and_other_processes_are_silent(capsys):
    assert list(progress.progress(iter(range(5)), total=5, label="reading")) == list(range(5))
    assert "reading" in capsys.readouterr().err
    assert list(progress.progress(range(3), total=3, label="x", main_process=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_pauses_are_not_counted():
    pauses = progress.Pauses()
    with pauses:
        time.sleep(0.3)
    assert pauses.outside < 0.25


@pytest.mark.parametrize(
    ("times", "done", "total", "expected"),
    [
        ((0, 20, 20), 1, 6, 120),  # the first item alone tells enough
        ((0, 5, 5), 1, 600, None),  # it may be the start of the readers
        ((0, 5, 7), 3, 600, None),  # too little time has passed
        ((0, 5, 8), 4, 604, 8 + 600),  # a second each after the first
        ((10, 15, 21), 3, 3, 11),  # all are done
    ],
)
def test_the_length_of_a_pass_by_hand(times, done, total, expected):
    assert progress.expected_seconds(times, done, total) == expected


def told(monkeypatch, seconds_of, total):
    """Lines of a pass whose items take these seconds each."""
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    items = progress.foretold(range(total), total=total, what="reading", say=lines.append)
    seen = []
    for item in items:
        now[0] += seconds_of(item)
        seen.append((item, list(lines)))
    assert [item for item, _ in seen] == list(range(total))
    return lines, seen


def test_a_long_pass_says_once_and_early_how_many_minutes_it_takes(monkeypatch):
    lines, seen = told(monkeypatch, lambda n: 1.0, 240)
    assert lines == ["reading: about 4 minutes"]
    assert seen[5][1] == lines


def test_a_slow_start_is_no_long_pass_and_a_short_pass_says_nothing(monkeypatch):
    assert told(monkeypatch, lambda n: 8.0 if n == 0 else 0.1, 150)[0] == []
    assert told(monkeypatch, lambda n: 1.0, 20)[0] == []
    assert told(monkeypatch, lambda n: 1.0, 0)[0] == []
