"""CLIP by open_clip: the image tower as a descriptor, and both towers for the CLIP score."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data import transforms
from utils.files import hub, whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor, Wanted, on_scaled_input, ready
from utils.runtime.errors import DataError, UsageError, first_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

# published --arch of --pt_style clip -> open_clip's name, with the activation function of OpenAI's
# training
ARCHS = {
    "vit_base": "ViT-B-16-quickgelu",
    "vit_large": "ViT-L-14-quickgelu",
    "resnet50": "RN50x16-quickgelu",
}


@dataclass(frozen=True)
class Clip:
    """Both towers of a CLIP model."""

    model: Any  # of open_clip
    preprocess: Any  # open_clip's transform, PIL RGB -> [3, H, W]
    tokenizer: Callable[[list[str]], torch.Tensor]  # [n] -> [n, T]
    record: dict[str, Any]  # what determines the features, of JSON types
    wanted: Wanted

    def images(self, protocol: str = "standard") -> Extractor:
        """The image tower as an Extractor. protocol: "standard", with CLIP's own preprocessing, or
        "dcr", with SSCD's, as published."""
        if protocol == "standard":
            transform, mean, std = _split(self.preprocess)
        else:
            _short, side, _crop, mean, std = transforms.SSCD_PRESETS["dcr"]
            if self.record["imsize"] not in (side, (side, side)):
                raise UsageError(
                    f"--clip_protocol='dcr' crops to {side} pixels;"
                    f" --clip_model={self.record['model']!r} needs {self.record['imsize']}; choose"
                    " another"
                )
            transform = transforms.sscd_input("dcr")
        forward = on_scaled_input(self.model.encode_image, mean, std, self.wanted)
        record = self.record | {"protocol": protocol}
        return Extractor(transform, forward, record, texts=self.texts)

    def texts(self, prompts: list[str], *, batch_size: int = 256) -> torch.Tensor:
        """Embed prompts. Returns: [len(prompts), D] float32, normalised, on the CPU."""
        import torch
        from torch.nn.functional import normalize

        rows = []
        with torch.no_grad():
            for start in range(0, len(prompts), batch_size):
                tokens = self.tokenizer(prompts[start : start + batch_size]).to(self.wanted.device)
                rows.append(normalize(self.model.encode_text(tokens).float(), dim=1).cpu())
        return torch.cat(rows)


def build(wanted: Wanted) -> Extractor:
    """Build the extractor of CLIP's image tower. wanted.choice.arch: a published name, or
    open_clip's `model` or `model:tag`."""
    wanted.refuse("clip", "layer", "multiscale", "isvit")
    name, _, tag = (wanted.choice.arch or "").partition(":")
    towers = load(
        ARCHS.get(name, name),
        wanted.choice.weights or tag or "openai",
        wanted,
        flag="--arch",
        weights_flag="--weights",
    )
    extractor = towers.images()
    return replace(extractor, record=extractor.record | {"arch": wanted.choice.arch})


def load(name: str, pretrained: str, wanted: Wanted, *, flag: str, weights_flag: str) -> Clip:
    """Load a CLIP model of open_clip.

    name: of the model, in open_clip
    pretrained: a tag of its weights, or a file
    flag, weights_flag: that gave them, for errors

    UsageError for an unknown model or tag, and for a tag whose weights were trained with another
    activation function: open_clip only warns, and the scores would be wrong. WeightsMissingError if
    the weights cannot be downloaded."""
    import open_clip

    if name not in open_clip.list_models():
        raise UsageError(
            f"{flag}={name!r} is not a model of open_clip; give one of open_clip.list_models()"
        )
    is_file = Path(pretrained).suffix != "" or "/" in pretrained
    if is_file:
        _require_weights(pretrained, weights_flag)
    else:
        _require_tag(name, pretrained, flag, weights_flag)
        hub.offline_if_unreachable()
    model, preprocess = _create(
        name, pretrained, wanted, is_file=is_file, flag=flag, weights_flag=weights_flag
    )
    ready(model, wanted).requires_grad_(False)
    record = _record(name, pretrained, model, wanted, is_file=is_file)
    return Clip(model, preprocess, open_clip.get_tokenizer(name), record, wanted)


def _create(
    name: str, pretrained: str, wanted: Wanted, *, is_file: bool, flag: str, weights_flag: str
) -> tuple[Any, Any]:
    """Create a model of open_clip with its weights. Returns: model, preprocessing.

    is_file: whether `pretrained` is a file, not a tag

    DataError if the file does not fit the model, WeightsMissingError if the weights of the tag
    cannot be downloaded."""
    import open_clip

    size = {"force_image_size": wanted.choice.imsize} if wanted.choice.imsize else {}
    refusals: tuple[type[Exception], ...] = (OSError, RuntimeError, *hub.connection_errors())
    try:
        with _quiet():
            model, _, preprocess = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, **size
            )
            return model, preprocess
    except refusals as error:
        if is_file:
            raise DataError(
                f"{weights_flag}={pretrained!r} does not fit {name} ({first_line(error, 120)})"
            ) from None
        raise weights.WeightsMissingError(
            f"{flag}={name!r}: weights {pretrained!r} could not be fetched"
            f" ({first_line(error, 300)}); give a file of them with {weights_flag}"
        ) from None


def _require_weights(path: str, flag: str) -> None:
    """Raise UsageError or DataError, in one line, unless a file holds weights alone."""
    if not Path(path).is_file():
        raise UsageError(
            f"{flag}={path!r} does not exist; give an existing file, or a tag of open_clip"
        )
    weights.read(path)


def _record(
    name: str, pretrained: str, model: Any, wanted: Wanted, *, is_file: bool
) -> dict[str, Any]:
    """What determines the features of a model, with the hash of its weights."""
    record = {
        "model": name,
        "pretrained": Path(pretrained).name if is_file else pretrained,
        "dtype": str(wanted.dtype),
        "imsize": model.visual.image_size,
    }
    if is_file:
        return record | {"weights_sha256": whole_files.file_sha256(pretrained)}
    return record | {"state_sha256": weights.state_sha256(model)}


def _require_tag(name: str, tag: str, flag: str, weights_flag: str) -> None:
    """Raise UsageError unless a tag has weights for this model, trained with its activation
    function."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise UsageError(
            f"{weights_flag}={tag!r} is not a tag of {name} in open_clip; give a file of weights,"
            f" or one of: {', '.join(tags)}"
        )
    trained = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
    # without a model of the other activation, this one is right, whatever the tag says
    has_twin = tag in open_clip.list_pretrained_tags_by_model(other)
    if has_twin and trained != open_clip.get_model_config(name).get("quick_gelu", False):
        raise UsageError(
            f"{flag}={name!r}: weights {tag!r} were trained with"
            f" {'quick-gelu' if trained else 'gelu'}, this model computes with the other; use"
            f" {other}"
        )


def _split(
    preprocess: Any,
) -> tuple[Callable[[Image.Image], torch.Tensor], tuple[float, ...], tuple[float, ...]]:
    """Split open_clip's preprocessing before its last step, scaling, which is done on the device.
    Returns: PIL -> uint8 [H, W, 3], mean, std."""
    from torchvision import transforms as theirs

    *steps, to_tensor, normalize = preprocess.transforms
    if not (isinstance(to_tensor, theirs.ToTensor) and isinstance(normalize, theirs.Normalize)):
        raise DataError(
            f"open_clip's preprocessing ends in {preprocess.transforms[-2:]}; use a version that"
            " scales last"
        )
    return (
        theirs.Compose([*steps, transforms.to_bytes]),
        tuple(normalize.mean),
        tuple(normalize.std),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's log: where it matters, we raise an error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
