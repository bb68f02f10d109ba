import numpy as np
import pytest
import torch
from PIL import Image

from utils.retrieval.descriptors import inception
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.retrieval.formulas.frechet import frechet_distance
from utils.retrieval.formulas.kernel import kernel_distance
from utils.runtime.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sets(tmp_path_factory, noise):
    """Two folders of eight images of 48 px, the second brighter."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    for i in range(8):
        noise(i, 48).save(folders[0] / f"{i}.png")
        brighter = np.asarray(noise(100 + i, 48)).astype(int) // 2 + 127
        Image.fromarray(brighter.astype(np.uint8)).save(folders[1] / f"{i}.png")
    return folders


@pytest.fixture(scope="module")
def built(inception_weights):
    return inception.build(str(inception_weights), device=CPU)


def features(extractor, folder, change=lambda image: image):
    with torch.no_grad():
        images = [change(Image.open(p)) for p in sorted(folder.glob("*.png"))]
        return extractor.network(torch.stack([extractor.transform(i) for i in images]))


def test_distances_agree_with_torch_fidelitys_own_entry_point(sets, built, inception_weights):
    import torch_fidelity

    theirs = torch_fidelity.calculate_metrics(
        input1=str(sets[0]),
        input2=str(sets[1]),
        fid=True,
        kid=True,
        cuda=False,
        verbose=False,
        cache=False,
        batch_size=8,
        feature_extractor_weights_path=str(inception_weights),
        kid_subset_size=8,
        rng_seed=3,
    )
    one, other = (features(built[0], folder) for folder in sets)
    assert one.std() > 0.1  # features that do not spread make any two sets equal
    found = frechet_distance(one, other)
    assert found > 1
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    mean, std = kernel_distance(one, other, seed=3)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    # subsets are whole sets here: spread is rounding, theirs in float32
    assert (std, theirs["kernel_inception_distance_std"]) == pytest.approx(
        (0, 0), abs=1e-4 * abs(mean)
    )
    # what goes wrong silently moves the number: half the brightness, and scaling left out
    darker = features(built[0], sets[0], lambda i: i.point(lambda v: v // 2))
    assert abs(frechet_distance(darker, other) / found - 1) > 0.1
    body = inception._body(built[1])
    unscaled = [
        torch.stack(
            [built[0].transform(Image.open(p).resize((299, 299))) for p in sorted(f.glob("*.png"))]
        )
        for f in sets
    ]
    with torch.no_grad():
        assert (
            abs(
                frechet_distance(*(body(u.permute(0, 3, 1, 2).float()) for u in unscaled)) / found
                - 1
            )
            > 0.1
        )


def test_the_published_scale_is_what_the_page_says(sets, built):
    """Short side 299, centre crop, to [-1, 1], then 2 x - 1, through the layers of pytorch-fid's
    network."""
    from torchvision.transforms import v2

    published = inception.published(*built, device=CPU)
    wide = Image.open(sets[0] / "0.png").resize((80, 60))
    steps = v2.Compose(
        [
            v2.Resize(299),
            v2.CenterCrop(299),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    x = 2 * steps(wide)[None] - 1
    assert x.min() < -2  # inputs in [-3, 1]
    seen = {}
    handle = built[1].Conv2d_1a_3x3.register_forward_pre_hook(
        lambda module, inputs: seen.update(x=inputs[0])
    )
    with torch.no_grad():
        found = published.network(published.transform(wide)[None])
    handle.remove()
    torch.testing.assert_close(seen["x"], x, atol=1e-5, rtol=0)
    with torch.no_grad():
        for name, layer in built[1].named_children():
            x = x if name == "fc" else layer(x)
    torch.testing.assert_close(found, x.flatten(1))
    assert not published.as_generated
    assert built[0].as_generated
    assert (published.record["protocol"], built[0].record["protocol"]) == ("dcr", "standard")


def test_the_network_is_the_published_one(built):
    """The body alone gives what torch-fidelity's module does of its own scaling: no layer is lost
    or out of order."""
    pixels = torch.randint(
        0, 256, (2, 3, 299, 299), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        torch.testing.assert_close(
            inception._body(built[1])((pixels.float() - 128) / 128),
            built[0].network(pixels.permute(0, 2, 3, 1)),
        )


def test_absent_and_wrong_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        WeightsMissingError,
        match=r"FID needs pretrainedmodels/weights-inception.* --fid_weights, or use --metrics fd",
    ):
        inception.build(None, device=CPU)
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(
        DataError, match="w.pth: does not hold weights of the Inception network of FID"
    ):
        inception.build(str(tmp_path / "w.pth"), device=CPU)
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(DataError, match="page.pth: is a web page saved as weights"):
        inception.build(str(tmp_path / "page.pth"), device=CPU)
