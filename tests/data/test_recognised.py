import numpy as np
from PIL import Image

from utils.data import image_sets, recognised


def test_formats_classes_and_what_was_left_out_are_counted(tmp_path):
    for key in ("cats/0.png", "cats/1.png", "dogs/0.jpg"):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (9, 90, 200)).save(tmp_path / key)
    (tmp_path / "notes.xyz").write_text("x")
    (tmp_path / "dogs" / "broken.png").write_bytes(b"no image")
    listed = image_sets.list_images("--x", tmp_path)
    images = image_sets.readable("--x", listed, max_bad=1, workers=1)
    found = recognised.of_images(images)
    assert found == {
        "layout": "files in a folder",
        "images": 3,
        "formats": {".png": 2, ".jpg": 1},
        "classes": {"cats": 2, "dogs": 1},
        "classes_in_all": 2,
        "skipped": [f"dogs/broken.png ({dict(images.bad)['dogs/broken.png']})"],
        "skipped_in_all": 1,
        "other_files": {".xyz": 1},
    }


def test_captions_an_image_are_counted_and_empty_ones(tmp_path):
    captions = {"0.png": ["a", ""], "1.png": ["b"], "2.png": ["c", "d", "e"]}
    assert recognised.of_captions(captions, "captions.json") == {
        "from": "captions.json",
        "images": 3,
        "captions_an_image": {"fewest": 1, "most": 3},
        "empty": 1,
    }


def test_of_many_names_the_first_are_shown_and_the_rest_is_counted():
    images = image_sets.ImageSet(
        root=image_sets.Path("."),
        keys=("a.png",),
        sizes=(1,),
        bad=tuple((f"{n}.png", "is broken") for n in range(25)),
    )
    found = recognised.of_images(images)
    assert len(found["skipped"]) == 21
    assert found["skipped"][-1] == "and 5 more"
    assert found["skipped_in_all"] == 25


def test_images_of_each_weight_are_counted():
    assert recognised.of_weights(np.array([1.0, 10, 10, 0.5])) == {10: 2, 1: 1, 0.5: 1}
    assert recognised.of_weights(None) == {}
