"""Image-to-text models of transformers: loads one, and samples captions of images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from utils.captioning import nucleus
from utils.files import hub
from utils.models import pipeline_files
from utils.runtime.errors import DataError, UsageError, first_line

ACCEPTED = (
    "use a folder as transformers' save_pretrained writes it, or a hub name owner/model, of a model"
    " that turns an image into text"
)
# what the code of a model raises on inputs that it does not expect
MODEL_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ImportError,
    NotImplementedError,
    RuntimeError,
)
# two sizes of picture, by which a model shows that it makes every picture one size
PROBES = ((40, 30), (30, 40))


@dataclass(frozen=True)
class Sampling:
    """How the captions of an image are sampled."""

    captions: int  # of an image
    top_p: float  # probability of the nucleus, in (0, 1]
    min_length: int  # tokens of a caption, its start token included
    max_length: int  # as min_length
    seed: int

    @property
    def drawn(self) -> int:
        """Largest number of tokens that are drawn for a caption."""
        return self.max_length - 1

    def numbers(self, key: str) -> torch.Tensor:
        """The random numbers of an image's captions, [captions, drawn], see `numbers_of_image`."""
        return torch.from_numpy(
            nucleus.numbers_of_image(key, seed=self.seed, captions=self.captions, tokens=self.drawn)
        )


@dataclass(frozen=True)
class Preparation:
    """Turns an image into what a model sees of it."""

    image_processor: Any  # of transformers

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """image: PIL RGB. Returns: [3, H, W]."""
        return self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]


class Captioner:
    """An image-to-text model with the preparation of its images and its tokenizer."""

    def __init__(self, model: Any, prepare: Preparation, tokenizer: Any) -> None:
        """model: of transformers, on its device; tokenizer: turns tokens into text."""
        self.model, self.prepare, self.tokenizer = model, prepare, tokenizer
        for module in model.modules():
            # lengths of the model's own, which would compete with those of the sampling
            if getattr(module, "generation_config", None) is not None:
                module.generation_config.max_length = None
                module.generation_config.min_length = None

    @torch.no_grad()
    def tokens(
        self, pixels: torch.Tensor, numbers: torch.Tensor, sampling: Sampling
    ) -> torch.Tensor:
        """Sample captions of a batch of images; each image is encoded once.

        pixels: [B, 3, H, W]; numbers: [B, captions, drawn], as `Sampling.numbers` gives them for
        each image.
        Returns: int64 [B * captions, T], the captions of the first image first."""
        device, dtype = self.model.device, self.model.dtype
        own = nucleus.OwnNucleus(numbers.flatten(0, 1).to(device), sampling.top_p)
        return self.model.generate(
            pixel_values=pixels.to(device, dtype),
            num_return_sequences=numbers.shape[1],
            min_new_tokens=sampling.min_length - 1,
            max_new_tokens=sampling.drawn,
            logits_processor=[own],
            # one token is left for the library to draw, which its own settings cannot change
            do_sample=True,
            num_beams=1,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
        )

    def captions(
        self, pixels: torch.Tensor, numbers: torch.Tensor, sampling: Sampling
    ) -> list[list[str]]:
        """Sample captions of a batch of images, as `tokens`. Returns: the captions of each image,
        in the order in which they were drawn; equal ones are kept."""
        drawn = self.tokens(pixels, numbers, sampling)
        texts = self.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        texts = [" ".join(text.split()) for text in texts]
        each = numbers.shape[1]
        return [texts[i : i + each] for i in range(0, len(texts), each)]


# Loading ------------------------------------------------------------------------------------------


def require_source(source: str) -> None:
    """Raise UsageError if a model is named by a path that is no folder of a model; a hub name
    passes."""
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(
            f"--captioner={source!r} is not a model: it has no config.json; {ACCEPTED}"
        )
    looks_local = path.is_absolute() or source.startswith(".") or source.count("/") > 1
    if not path.is_dir() and (path.exists() or looks_local):
        problem = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"--captioner={source!r} {problem}; {ACCEPTED}")


def identity(source: str) -> Any:
    """What tells a model from another one of the same name, as JSON types: of a folder the names,
    sizes and times of its files, of a hub name that name."""
    path = Path(source)
    if not path.is_dir():
        return source
    files = sorted(file for file in path.iterdir() if file.is_file())
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _not_loaded(source: str, error: Exception) -> UsageError:
    reason = first_line(error)
    if Path(source).is_dir():
        return UsageError(f"--captioner={source!r} cannot be loaded: {reason}; {ACCEPTED}")
    tried = (
        "the local cache (HF_HUB_OFFLINE is set)"
        if os.environ.get("HF_HUB_OFFLINE")
        else "the hub and its cache"
    )
    return UsageError(
        f"--captioner={source!r} is not a local folder and could not be loaded from {tried}"
        f" ({reason}); download it on a machine with a network (hf download {source} --local-dir"
        " FOLDER) and pass --captioner FOLDER"
    )


def _require_whole(source: str, loaded: dict[str, Any]) -> None:
    """Raise UsageError if weights are missing: the library would draw them at random."""
    missing = sorted(loaded["missing_keys"]) + sorted(str(k) for k in loaded["mismatched_keys"])
    if missing:
        raise UsageError(
            f"--captioner={source!r}: its weights lack {len(missing)} of the model's tensors, first"
            f" {missing[0]!r}; {ACCEPTED}"
        )


def _probe(captioner: Captioner, source: str, sampling: Sampling) -> None:
    """Caption two empty pictures, so that a model that cannot do it is refused before the first
    image. UsageError with the reason."""
    blank = [Image.new("RGB", size, (128, 128, 128)) for size in PROBES]
    try:
        pixels = torch.stack([captioner.prepare(image) for image in blank])
        numbers = torch.stack([sampling.numbers("")[:1] for _ in blank])
        captioner.captions(pixels, numbers, sampling)
    except DataError:
        raise
    except MODEL_ERRORS as error:
        raise UsageError(
            f"--captioner={source!r} does not caption a picture alone"
            f" ({type(error).__name__}: {first_line(error)}); {ACCEPTED}"
        ) from None


def load(source: str, sampling: Sampling, *, device: torch.device, dtype: torch.dtype) -> Captioner:
    """Load an image-to-text model, and caption two empty pictures with it.

    No code of the model's repository is run, and no pickle is trusted.
    source: --captioner, a folder or a hub name.
    UsageError if it cannot be loaded, is not whole, or does not caption a picture without text; it
    says what was tried and how to give a folder."""
    import transformers

    if not Path(source).is_dir():
        hub.offline_if_unreachable()
    transformers.utils.logging.disable_progress_bar()
    options = {"trust_remote_code": False}
    errors: tuple[type[Exception], ...] = (*pipeline_files.loading_errors(), *MODEL_ERRORS)
    try:
        model, loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, output_loading_info=True, **options
        )
        image_processor = transformers.AutoImageProcessor.from_pretrained(source, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except errors as error:
        raise _not_loaded(source, error) from None
    _require_whole(source, loaded)
    captioner = Captioner(model.eval().to(device), Preparation(image_processor), tokenizer)
    _probe(captioner, source, sampling)
    return captioner
