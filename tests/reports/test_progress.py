import time

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
