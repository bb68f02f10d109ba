import pytest

from benchmarks import quickstart
from tests.conftest import ROOT


@pytest.fixture
def small(monkeypatch, micro_sd):
    """The quickstart with the random model; all other sizes are its own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(quickstart, "TINY_SD", str(micro_sd))
    sampling = {"--num_inference_steps": "1", "--guidance_scale": "3"}
    monkeypatch.setattr(quickstart, "SAMPLING", sampling)


def test_it_runs_every_stage_prints_what_it_runs_and_reuses_what_is_finished(
    small, tmp_path, capsys
):
    arguments = ["--out", str(tmp_path / "q"), "--steps", "1", "--scenes", "6"]
    quickstart.main(arguments)
    out = capsys.readouterr().out
    # scenes, training, five generations, five evaluations, the card; the card prints what it runs
    of_card = out.index("--budget 0.6")
    assert out[:of_card].count("\n$ python ") == 13
    assert "12 images (0 new)" in out[of_card:]  # the card makes no image that exists
    for script in (
        "-m utils.data.scenes",
        "diff_train.py",
        "diff_inference.py",
        "sd_mitigation.py",
        "diff_retrieval.py",
    ):
        assert f"$ python {script}" in out
    table = (tmp_path / "q" / "table.md").read_text()
    assert len(table.splitlines()) == 7
    assert "n 2)" in table  # floor(0.25 * 6) = 1 duplicated image, two generations of its prompt
    card = tmp_path / "q" / "train" / "card"
    assert f"Open {card / 'measured' / 'training' / 'report.html'} and {card / 'card.html'}" in out
    assert (card / "card.html").exists()
    quickstart.main(arguments)
    again = capsys.readouterr().out
    assert "\n$ python " not in again
    assert again.count("# already finished: python ") == 13
    assert (tmp_path / "q" / "table.md").read_text() == table


def test_another_seed_does_not_reuse_what_this_one_made(tmp_path):
    quickstart.require_same(tmp_path, {"seed": 0})
    quickstart.require_same(tmp_path, {"seed": 0})
    with pytest.raises(SystemExit, match="--seed=1: .* with --seed=0; .*another --out"):
        quickstart.require_same(tmp_path, {"seed": 1})
