import json

import numpy as np
import pytest

from utils.data import scenes
from utils.runtime import seeding


def test_a_scene_is_a_function_of_its_index():
    first, again, other = (scenes.scene_at(i, seed=4) for i in (7, 7, 8))
    assert np.array_equal(first.image, again.image)
    assert first.spec == again.spec
    assert first.spec != other.spec
    assert first.image.size == (64, 64)
    assert scenes.scene_at(7, seed=4, size=32).spec == first.spec


def test_captions_name_colours_shapes_and_texture_and_nothing_else():
    for index in range(50):
        scene = scenes.scene_at(index)
        spec = scene.spec
        assert len(set(scene.captions)) == 5
        wanted = [
            spec.background,
            spec.texture,
            spec.large.name,
            spec.large.colour,
            spec.small.name,
            spec.small.colour,
        ]
        for caption in scene.captions:
            assert all(word in caption.split() for word in wanted)
        assert len({spec.background, spec.large.colour, spec.small.colour}) == 3
        assert scene.label == spec.large.name


def test_caption_0_follows_the_grammar():
    shape = scenes.Shape("circle", "orange", (1, 2, 3), 0.5, 0.5, 0.3, 0.0)
    small = scenes.Shape("star", "blue", (1, 2, 3), 0.2, 0.2, 0.1, 0.0)
    spec = scenes.Spec("green", (1, 2, 3), "striped", 0.1, (0, 0), 0.0, shape, small)
    assert (
        scenes.captions_of(spec)[0]
        == "an orange circle and a blue star on a striped green background"
    )


def test_a_plain_scene_is_painted_as_its_spec_says():
    large = scenes.Shape("circle", "red", (200, 0, 0), 0.5, 0.5, 0.25, 0.0)
    small = scenes.Shape("ring", "blue", (0, 0, 200), 0.1, 0.1, 0.1, 0.0)
    spec = scenes.Spec("white", (250, 250, 250), "plain", 0.1, (0, 0), 0.0, large, small)
    pixels = np.asarray(scenes.paint(spec))
    assert tuple(pixels[32, 32]) == (200, 0, 0)
    assert tuple(pixels[60, 60]) == (250, 250, 250)
    assert tuple(pixels[6, 6]) == (250, 250, 250)  # through the ring's hole
    assert tuple(pixels[6, 11]) == (0, 0, 200)
    area = (np.abs(pixels.astype(int) - [200, 0, 0]).sum(2) < 275).mean()  # half way to white
    assert area == pytest.approx(np.pi * 0.25**2, rel=0.03)


@pytest.mark.parametrize("texture", ["striped", "dotted", "checked"])
def test_a_texture_is_a_darker_shade(texture):
    scene = next(s for s in map(scenes.scene_at, range(100)) if s.spec.texture == texture)
    shade = np.array([round(v * scenes.SHADE) for v in scene.spec.rgb])
    share = (np.abs(np.asarray(scene.image).astype(int) - shade).sum(2) < 12).mean()
    assert 0.03 < share < 0.6


def test_streams_never_coincide():
    """The command, the pretraining and the figures draw different scenes for every seed a user can
    give."""
    pretraining, held_out = "tiny-sd/pretraining", "tiny-sd/held-out"
    taken = {seeding.derive_seed(0, s, i) for s in (pretraining, held_out) for i in range(3000)}
    assert len(taken) == 6000
    commanded = {seeding.derive_seed(seed, "scenes", i) for seed in range(50) for i in range(100)}
    assert not taken & commanded
    specs = {
        repr(scenes.scene_at(i, stream=s).spec)
        for s in (pretraining, held_out, "scenes")
        for i in range(100)
    }
    assert len(specs) == 300


def test_the_command_writes_the_published_layout(tmp_path, capsys):
    out = tmp_path / "s"
    scenes.main(["--out", str(out), "--count", "9", "--seed", "2"])
    captions = json.loads((out / "captions.json").read_text())
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert sorted(captions) == files
    assert len(files) == 9
    assert all(f.split("/")[0] == "train" and f.split("/")[1] in scenes.SHAPES for f in files)
    assert all(len(c) == 5 for c in captions.values())
    assert "9 scenes" in capsys.readouterr().out


def test_the_command_refuses_a_folder_that_is_not_empty(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(SystemExit) as stopped:
        scenes.main(["--out", str(tmp_path), "--count", "1"])
    assert stopped.value.code == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/x", "a" * 5000])
def test_the_command_refuses_a_folder_that_cannot_be_made_in_one_line(out, capsys):
    with pytest.raises(SystemExit) as stopped:
        scenes.main(["--out", out, "--count", "1"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m utils.data.scenes: error: --out={out[:9]!r}"[:-1])
