"""CLIP by open_clip: its image tower as a descriptor, and both towers for the alignment of images
with prompts."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from utils.data import transforms
from utils.files import hub, whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor, on_scaled_input
from utils.runtime.errors import DataError, UsageError, first_line

# published --arch of --pt_style clip -> open_clip's name with the activation that OpenAI's weights
# were trained with
ARCHS = {
    "vit_base": "ViT-B-16-quickgelu",
    "vit_large": "ViT-L-14-quickgelu",
    "resnet50": "RN50x16-quickgelu",
}


@dataclass(frozen=True)
class Clip:
    """model: of open_clip; preprocess: its PIL -> tensor; tokenizer: [str] -> [B, T]; record: what
    made the numbers."""

    model: object
    preprocess: Callable
    tokenizer: Callable
    record: dict
    wanted: object

    def images(self, protocol="standard"):
        """The image tower as an Extractor, under CLIP's own preprocessing; protocol dcr: under
        SSCD's, as published."""
        if protocol == "dcr":
            _short, side, _crop, mean, std = transforms.SSCD_PRESETS["dcr"]
            if self.record["imsize"] not in (side, (side, side)):
                raise UsageError(
                    f"--clip_protocol='dcr' feeds {side} pixels;"
                    f" --clip_model={self.record['model']!r} takes {self.record['imsize']}, choose"
                    " another"
                )
            transform = transforms.sscd_input("dcr")
        else:
            transform, mean, std = _split(self.preprocess)
        forward = on_scaled_input(self.model.encode_image, mean, std, self.wanted)
        record = self.record | {"protocol": protocol}
        return Extractor(transform, forward, record, texts=self.texts)

    def texts(self, prompts, *, batch_size=256):
        """Embeddings of prompts, normalised. Returns: [len(prompts), D] float32 on the CPU."""
        import torch
        from torch.nn.functional import normalize

        rows = []
        with torch.no_grad():
            for start in range(0, len(prompts), batch_size):
                tokens = self.tokenizer(prompts[start : start + batch_size]).to(self.wanted.device)
                rows.append(normalize(self.model.encode_text(tokens).float(), dim=1).cpu())
        return torch.cat(rows)


def build(wanted):
    """Extractor of CLIP's image tower: wanted.arch is a published name or open_clip's, `model` or
    `model:tag`."""
    wanted.refuse("clip", "layer", "multiscale", "isvit")
    name, _, tag = wanted.arch.partition(":")
    found = load(
        ARCHS.get(name, name),
        wanted.weights or tag or "openai",
        wanted,
        flag="--arch",
        weights_flag="--weights",
    )
    extractor = found.images()
    return replace(extractor, record=extractor.record | {"arch": wanted.arch})


def load(name, pretrained, wanted, *, flag, weights_flag):
    """A CLIP model by open_clip's name with a tag of its or a file of weights. Returns: Clip.

    UsageError for an unknown model or tag and for a tag trained with another activation, of which
    open_clip only warns: the scores would be wrong. WeightsMissingError when they cannot be
    fetched."""
    import open_clip

    if name not in open_clip.list_models():
        raise UsageError(
            f"{flag}={name!r} is not a model of open_clip; takes one of open_clip.list_models()"
        )
    is_file = Path(pretrained).suffix != "" or "/" in pretrained
    if is_file:
        if not Path(pretrained).is_file():
            raise UsageError(
                f"{weights_flag}={pretrained!r} does not exist; give an existing file, or a tag of"
                " open_clip"
            )
        weights.read(pretrained)  # said here in one line, whatever open_clip would make of it
    else:
        _require_tag(name, pretrained, flag, weights_flag)
        hub.offline_if_unreachable()
    size = {"force_image_size": wanted.imsize} if wanted.imsize else {}
    try:
        with _quiet():
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, **size
            )
    except (OSError, RuntimeError, *hub.connection_errors()) as error:
        if is_file:
            raise DataError(
                f"{weights_flag}={pretrained!r} does not fit {name} ({first_line(error, 120)})"
            ) from None
        raise weights.WeightsMissingError(
            f"{flag}={name!r}: weights {pretrained!r} could not be had ({first_line(error, 300)});"
            f" give a file of them with {weights_flag}"
        ) from None
    model.eval().requires_grad_(False).to(wanted.device, wanted.dtype)
    record = {
        "model": name,
        "pretrained": Path(pretrained).name if is_file else pretrained,
        "dtype": str(wanted.dtype),
        "imsize": model.visual.image_size,
    }
    record |= (
        {"weights_sha256": whole_files.file_sha256(pretrained)}
        if is_file
        else {"state_sha256": weights.state_sha256(model)}
    )
    return Clip(model, preprocess, open_clip.get_tokenizer(name), record, wanted)


def _require_tag(name, tag, flag, weights_flag):
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise UsageError(
            f"{weights_flag}={tag!r} is not a tag of {name} in open_clip; takes a file of weights,"
            f" or one of: {', '.join(tags)}"
        )
    trained = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
    # where there is no twin the model's own configuration is right and the tag's is silent
    has_twin = tag in open_clip.list_pretrained_tags_by_model(other)
    if has_twin and trained != open_clip.get_model_config(name).get("quick_gelu", False):
        raise UsageError(
            f"{flag}={name!r}: weights {tag!r} were trained with"
            f" {'quick-gelu' if trained else 'gelu'}, this model computes with the other; takes"
            f" {other}"
        )


def _split(preprocess):
    """open_clip's preprocessing as (PIL -> uint8 [H, W, 3], mean, std): scaling, the end of it, is
    done on the device."""
    from torchvision import transforms as theirs

    *steps, to_tensor, normalize = preprocess.transforms
    if not (isinstance(to_tensor, theirs.ToTensor) and isinstance(normalize, theirs.Normalize)):
        raise DataError(
            f"open_clip's preprocessing ends in {preprocess.transforms[-2:]}; takes a version that"
            " scales last"
        )
    return (
        theirs.Compose([*steps, transforms.to_bytes]),
        tuple(normalize.mean),
        tuple(normalize.std),
    )


@contextlib.contextmanager
def _quiet():
    """Without open_clip's log: what matters of it is an error of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
