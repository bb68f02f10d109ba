import numpy as np
import pytest

from benchmarks.study import measured
from utils.data import scenes


def test_agreement_of_pictures_with_their_own_captions(tmp_path):
    drawn = [scenes.scene_at(i, stream="tiny-sd/held-out") for i in range(3)]
    rows = []
    for i, scene in enumerate(drawn):
        scene.image.save(tmp_path / f"{i}.png")
        rows.append({"file": f"{i}.png", "source_prompt": scene.captions[0]})
    rows.append({"file": "0.png", "source_prompt": "An image of circle"})
    rows.append({"file": "0.png", "source_prompt": drawn[1].captions[0]})  # another scene's caption
    shares = measured.agreements(tmp_path, rows)
    assert shares[:3].tolist() == [[1.0, 1.0]] * 3
    assert np.isnan(shares[3]).all()
    one, other = drawn[0].spec, drawn[1].spec
    colours = [
        one.background == other.background,
        one.large.colour == other.large.colour,
        one.small.colour == other.small.colour,
    ]
    shapes = [one.large.name == other.large.name, one.small.name == other.small.name]
    assert shares[4] == pytest.approx([np.mean(colours + shapes), np.mean(colours)])
