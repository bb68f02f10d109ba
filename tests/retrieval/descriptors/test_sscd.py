import pytest
import torch
from PIL import Image

from utils.retrieval.descriptors import sscd
from utils.runtime.errors import DataError, UsageError


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory):
    """A TorchScript network with a fixed answer: mean and spread of each channel, SSCD's form of
    file."""

    class Network(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)

    path = tmp_path_factory.mktemp("weights") / "sscd.torchscript.pt"
    torch.jit.trace(Network(), torch.rand(1, 3, 224, 224)).save(str(path))
    return path


@pytest.mark.parametrize(
    ("preset", "mean", "std", "shape"),
    [
        ("dcr", 0.5, 0.5, (224, 224)),
        ("dcr-search", 0.485, 0.229, (224, 224)),
        ("sscd", 0.485, 0.229, (288, 576)),
        ("sscd-square", 0.485, 0.229, (320, 320)),
    ],
)
def test_a_torchscript_file_gets_its_presets_input(wanted, torchscript, preset, mean, std, shape):
    built = sscd.build(wanted(arch="resnet50_disc", preset=preset, weights=str(torchscript)))
    pixels = built.transform(Image.new("RGB", (800, 400), (51, 51, 51)))
    assert tuple(pixels.shape) == (*shape, 3)
    found = built.network(pixels[None])
    assert found[0, 0].item() == pytest.approx((0.2 - mean) / std, abs=1e-4)  # normalised once
    assert built.copy_threshold == 0.5
    assert (built.record["preset"], built.record["arch"]) == (preset, "resnet50_disc")
    assert len(built.record["weights_sha256"]) == 64


def test_the_dcr_preset_agrees_with_torchvision(wanted, torchscript, noise):
    from torchvision.transforms import v2

    built = sscd.build(wanted(arch="resnet50", preset="dcr", weights=str(torchscript)))
    theirs = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    image = noise(0, 300, 407)
    expected = torch.jit.load(str(torchscript))(theirs(image)[None])
    torch.testing.assert_close(
        built.network(built.transform(image)[None]), expected, atol=1e-5, rtol=0
    )


def test_weights_are_found_in_their_folder_or_an_error_helps(
    wanted, tmp_path, monkeypatch, torchscript
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        sscd.build(wanted(arch="resnet50_disc", preset="dcr"))
    for part in (
        "pretrainedmodels/sscd_disc_large.torchscript.pt",
        "https://",
        "--weights",
        "--pt_style pixel",
    ):
        assert part in str(error.value)
    (tmp_path / "pretrainedmodels").mkdir()
    for arch, name in sscd.FILES.items():
        (tmp_path / "pretrainedmodels" / f"{name}.torchscript.pt").write_bytes(
            torchscript.read_bytes()
        )
        assert (
            sscd.build(wanted(arch=arch, preset="dcr")).record["weights"]
            == f"{name}.torchscript.pt"
        )
    with pytest.raises(
        UsageError,
        match="--arch='vit' is unknown; choose one of: resnet50, resnet50_disc, resnet50_im",
    ):
        sscd.build(wanted(arch="vit", preset="dcr"))


def test_files_that_are_no_sscd_are_named_before_any_image_is_read(wanted, tmp_path):
    def build(name):
        return sscd.build(wanted(arch="resnet50", preset="dcr", weights=str(tmp_path / name)))

    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.pt: is a web page saved as weights"):
        build("page.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(DataError, match=r"text\.pt' is not a TorchScript file"):
        build("text.pt")
    torch.jit.trace(torch.nn.Linear(4, 2), torch.rand(1, 4)).save(str(tmp_path / "linear.pt"))
    with pytest.raises(
        UsageError, match=r"linear\.pt' does not accept images .*; give an SSCD model"
    ):
        build("linear.pt")
    torch.jit.trace(torch.nn.Conv2d(3, 2, 3), torch.rand(1, 3, 8, 8)).save(str(tmp_path / "map.pt"))
    with pytest.raises(
        UsageError,
        match=(
            r"map\.pt' gives \(2, 2, 222, 222\) for two images; give a model that returns \[2, D\]"
        ),
    ):
        build("map.pt")
