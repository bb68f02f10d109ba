from PIL import Image

from utils.files import generation_folder
from utils.generation import pair_grid
from utils.generation.sampling import GeneratedImage, ImageJob


def folder(path, colour, count, prompt, sources=()):
    generation = generation_folder.Generation(path)
    generation.begin({})
    names = [*sources, *[None] * (count - len(sources))]
    jobs = (ImageJob(i, i, "a circle", prompt, names[i]) for i in range(count))
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


def test_training_pictures_stand_beside_their_pairs_where_they_are_known(tmp_path):
    named = ["a/0.png", "gone.png"]
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "data" / "a" / "0.png")
    plain, mitigated = (
        folder(tmp_path / name, colour, 3, "a circle", named)
        for name, colour in (("p", 200), ("m", 90))
    )
    grid = Image.open(pair_grid.compare(plain, mitigated, folders=[None, tmp_path / "data"]))
    first = [grid.getpixel((12 + 134 * n + 60, 24 + 60)) for n in range(3)]
    assert first == [(10, 20, 30), (200, 0, 0), (90, 0, 0)]
    second = [grid.getpixel((12 + 414 + 134 * n + 60, 24 + 60)) for n in range(3)]
    assert second == [(255, 255, 255), (200, 1, 0), (90, 1, 0)]  # its place is empty
    two = Image.open(pair_grid.compare(plain, mitigated, folders=[tmp_path / "elsewhere"]))
    assert (two.getpixel((72, 84)), two.width < grid.width) == ((200, 0, 0), True)
