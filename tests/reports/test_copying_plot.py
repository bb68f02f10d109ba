import pytest

from utils.reports import copying_plot, plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(rows, limit) -> the axes of the figure, as it is saved."""

    def made(rows, limit):
        seen = []
        monkeypatch.setattr(
            copying_plot,
            "save",
            lambda figure, at: (seen.extend(figure.axes), plots.save(figure, at)),
        )
        copying_plot.copying(tmp_path / "copying.png", rows, limit=limit)
        assert (tmp_path / "copying.png").is_file()
        return seen

    return made


def row(step, share, **more):
    ends = {"copy_share_lo": share / 2, "copy_share_hi": share + 0.05}
    return {"step": step, "copy_share": share, **ends, "sim_95pc": 0.7, **more}


def test_share_similarity_and_both_losses_stand_over_the_steps(drawn):
    losses = ((0.5, 0.5), (0.2, 0.6))
    rows = [
        row(100 * n, 0.2 * n, loss_training=a, loss_holdout=b) for n, (a, b) in enumerate(losses, 1)
    ]
    share, similarity, loss = drawn(rows, 0.05)
    assert share.lines[0].get_xydata().tolist() == [[100, 20], [200, 40]]
    (intervals,) = [c for c in share.collections if hasattr(c, "get_segments")]
    ends = [segment.ravel().tolist() for segment in intervals.get_segments()]
    assert ends == [pytest.approx([100, 10, 100, 25]), pytest.approx([200, 20, 200, 45])]
    assert [t.get_text() for t in share.texts] == ["stops above 5 %"]
    assert similarity.lines[0].get_ydata().tolist() == [0.7, 0.7]
    assert [line.get_ydata().tolist() for line in loss.lines] == [[0.5, 0.2], [0.5, 0.6]]
    words = [t.get_text() for t in loss.get_legend().get_texts()]
    assert words == ["training pictures", "pictures held out"]


def test_without_pictures_held_out_and_limit_there_is_one_loss_and_no_line(drawn):
    share, similarity, loss = drawn([row(100, 0.0, loss_training=0.5)], None)
    assert similarity.get_ylim() == (0, 1)
    assert loss.get_ylim()[0] == 0
    assert not share.texts
    assert share.get_ylim() == (0, copying_plot.LEAST_TOP)  # the interval ends at 5 %
    assert len(loss.lines) == 1
