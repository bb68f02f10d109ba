from PIL import Image

from utils.files import generation_folder
from utils.generation import pair_grid
from utils.generation.sampling import GeneratedImage, ImageJob


def folder(path, colour, count, prompt):
    generation = generation_folder.Generation(path)
    generation.begin({})
    jobs = (ImageJob(i, i, "a circle", prompt) for i in range(count))
    list(
        generation.save(
            GeneratedImage(job, Image.new("RGB", (8, 8), (colour, job.index, 0)), {})
            for job in jobs
        )
    )
    generation.finish(count, settings={})
    return generation


def test_pairs_have_the_same_number_and_stand_side_by_side(tmp_path):
    plain, mitigated = (
        folder(tmp_path / "a", 200, 5, "a circle"),
        folder(tmp_path / "b", 90, 5, "a 7 circle"),
    )
    grid = Image.open(pair_grid.compare(plain, mitigated))
    for index in range(5):
        left, top = 12 + index % 3 * 280, 24 + index // 3 * 172
        assert grid.getpixel((left + 60, top + 60)) == (200, index, 0)
        assert grid.getpixel((left + 134 + 60, top + 60)) == (90, index, 0)
    assert not (tmp_path / "a" / "compare.png").exists()


def test_a_grid_holds_as_many_as_one_looks_at(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_grid, "PAIRS", 3)
    plain, mitigated = folder(tmp_path / "a", 200, 4, "x"), folder(tmp_path / "b", 90, 4, "x")
    assert Image.open(pair_grid.compare(plain, mitigated)).height == 24 + 172
