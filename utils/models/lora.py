"""LoRA weights of --lora and of checkpoints: check the place, name the weights, add them to a
pipeline."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import adapter_folder, weight_files, whole_files
from utils.models import fingerprints, networks
from utils.models.pipeline_files import loading_errors
from utils.runtime.errors import UsageError
from utils.runtime.regular_files import NEVER_OPENED, irregular

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from utils.files.adapter_folder import Base

ACCEPTED = "use a .safetensors file, a folder that holds one, or a hub name owner/model"


LONGEST_REASON = 400  # characters of a library's message
# kinds of weights that are shared beside LoRA -> what their names contain
OTHER_KINDS = {"LoHa": ".hada_w", "LoKr": ".lokr_w", "GLoRA": ".a1.weight", "(IA)^3": ".on_input"}
# pipelines whose loader takes LoRA weights with names and alphas of kohya's trainer
BAKED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
DOWN, UP = (
    re.compile(r"lora_A\b|lora_down|lora\.down|layer\.down"),
    re.compile(r"lora_B\b|lora_up|lora\.up|layer\.up"),
)
OLD_ATTENTION = re.compile(r"\.to_(q|k|v|out)_lora\.")


def require_lora(place: str) -> None:
    """Raise UsageError unless --lora can be used: peft is installed, and a place that looks like a
    path is a .safetensors file, or a folder that holds one, whose names are those of LoRA weights.

    place: the value of --lora.
    """
    if importlib.util.find_spec("peft") is None:
        raise UsageError(
            f"--lora={place!r} needs the package peft, which is not installed: pip install peft"
        )
    path = Path(place)
    if (reason := irregular(path)) in NEVER_OPENED:
        raise UsageError(f"--lora={place!r} {reason}; {ACCEPTED}")
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(
            f"--lora={place!r} is not a .safetensors file, and other formats are not opened;"
            f" {ACCEPTED}"
        )
    if path.is_dir():
        count = len(list(path.glob("*.safetensors")))
        if count != 1 and not (path / adapter_folder.WEIGHTS).is_file():
            raise UsageError(f"--lora={place!r} holds {count} .safetensors files; {ACCEPTED}")
    if not path.exists() and (_looks_like_a_path(place) or place.count("/") != 1):
        raise UsageError(f"--lora={place!r} does not exist; {ACCEPTED}")
    if path.exists():
        _require_names("--lora", place, _lora_file(place))


def _looks_like_a_path(place: str) -> bool:
    path = Path(place)
    return (
        path.is_absolute()
        or place.startswith(".")
        or place.endswith(".safetensors")
        or path.parent.is_dir()
    )


def _lora_file(place: str) -> Path:
    path = Path(place)
    if not path.is_dir():
        return path
    # of several files the one that diffusers would read
    usual = path / adapter_folder.WEIGHTS
    return usual if usual.is_file() else next(path.glob("*.safetensors"))


def lora_id(place: str) -> str:
    """A name of LoRA weights that does not depend on their path: of a local file the first 16 hex
    digits of its SHA-256, else the hub's name."""
    path = _lora_file(place)
    return whole_files.file_sha256(path)[:16] if path.is_file() else place


def _require_names(flag: str, place: str, path: Path) -> None:
    """Raise UsageError unless the names of a file are those of LoRA weights; reads its header."""
    names = list(weight_files.shapes(path))
    for kind, mark in OTHER_KINDS.items():
        found = [name for name in names if mark in name]
        if found:
            raise UsageError(
                f"{flag}={place!r} holds {kind} weights ({len(found)} names such as {found[0]!r}),"
                " and only LoRA (a product of two matrices, `down` and `up`) can be added; extract"
                " LoRA weights from it, or give the model with these weights merged into it"
            )
    if not any("lora" in name for name in names):
        raise UsageError(
            f"{flag}={place!r} holds no LoRA weights: none of its {len(names)} names contains"
            f" 'lora', the first is {names[0] if names else None!r}; {ACCEPTED}"
        )


def _baked(state: dict[str, Any], alphas: Mapping[str, float]) -> dict[str, Any]:
    """LoRA weights with the scale alpha / rank multiplied into `up`, so that they need none, and
    with names of a text encoder that are loaded: diffusers gives the attention of text encoders
    written by kohya's trainer names that its own loader then leaves out.

    state: as converted by diffusers; alphas: {name of a layer or of its `down`, and .alpha: value};
    KeyError for one without a layer."""
    baked = {name: tensor for name, tensor in state.items() if not name.endswith(".alpha")}
    pairs = {name.split("lora")[0]: name for name in baked if DOWN.search(name)}
    for name, alpha in alphas.items():
        stem = name.removesuffix(".alpha")
        # of a layer, or of the name of its `down`
        down = pairs[stem.split("lora")[0] if "lora" in stem else f"{stem}."]
        up = down.replace(".down.", ".up.").replace(".lora_A.", ".lora_B.")
        baked[up] = baked[up] * (float(alpha) / baked[down].shape[0])
    return {
        OLD_ATTENTION.sub(_new_attention, name) if name.startswith("text_encoder") else name: value
        for name, value in baked.items()
    }


def _new_attention(match: re.Match[str]) -> str:
    return f".{match[1]}_proj.lora_linear_layer."


def _halves(names: Iterable[str]) -> tuple[int, int]:
    """How many of the names are `down` and how many `up` matrices."""
    names = list(names)
    return sum(bool(DOWN.search(name)) for name in names), sum(
        bool(UP.search(name)) for name in names
    )


def _applied(pipeline: DiffusionPipeline) -> list[str]:
    """Names of the LoRA tensors within a pipeline's networks, with the part in front."""
    import torch

    return [
        f"{part}.{name}"
        for part, network in pipeline.components.items()
        if isinstance(network, torch.nn.Module)
        for name, _ in network.named_parameters()
        if "lora_" in name
    ]


def _layer(name: str) -> str:
    """The layer that a LoRA tensor changes, without differences in how it is written."""
    plain = name.replace(".processor", "").replace(".text_model", "").replace("_lora.", ".lora.")
    return plain.split(".lora")[0].removesuffix(".0")


def _require_all_applied(flag: str, place: str, given: Iterable[str], applied: list[str]) -> None:
    """Raise UsageError unless every tensor of a file was added. given: names of the file."""
    names = [name for name in given if DOWN.search(name) or UP.search(name)]
    if _halves(names) == _halves(applied):
        return
    layers = {_layer(name) for name in applied}
    lost = [name for name in names if _layer(name) not in layers]
    fit = min(len(applied), len(names))
    number = len(lost) or abs(len(names) - fit) or 1
    first = f", the first {lost[0]!r}" if lost else ", one half of a pair is missing"
    raise UsageError(
        f"{flag}={place!r}: {number} of {len(names)} tensors fit no layer of the model{first}; use"
        " LoRA weights that were trained on this architecture"
    )


def _add(pipeline: DiffusionPipeline, source: Any, **options: Any) -> list[str]:
    """Load LoRA weights as adapters. source: file, folder, hub name, or tensors by name. Returns:
    names of the tensors as diffusers calls them."""
    found = pipeline.lora_state_dict(source, **options)
    state, alphas = found[:2] if isinstance(found, tuple) else (found, None)
    if alphas and type(pipeline).__name__ in BAKED:
        state = _baked(state, alphas)
        pipeline.load_lora_weights(state)
    else:
        pipeline.load_lora_weights(source, **options)
    return list(state)


def load_lora(
    pipeline: DiffusionPipeline,
    place: str,
    say: Callable[[str], None] = lambda line: None,
    *,
    flag: str = "--lora",
) -> None:
    """Add LoRA weights to a pipeline's networks for good, so that generating costs what it does
    without them: `alpha / rank * up @ down` to each weight, with alpha = rank where a file gives
    none. say: prints a line; flag: that named the place, for errors.

    UsageError if they cannot be loaded, or any of them does not fit; DataError if they are not
    finite."""
    path = _lora_file(place)
    local = path.is_file()
    errors: tuple[type[Exception], ...] = (*loading_errors(), RuntimeError)
    options: dict[str, Any] = {"use_safetensors": True}
    source: Any = place
    if local:
        _require_names(flag, place, path)
        source, options = str(path.parent), options | {"weight_name": path.name}
        if weight_files.has_prefixes(weight_files.shapes(path)):
            state = weight_files.read(path)
            source = {weight_files.clean(name): state[name] for name in state}
            options = {}
            say(f"{path}: its names have a prefix of torch.compile or of data-parallel training")
    try:
        with networks.silent():
            given = _add(pipeline, source, **options)
    except errors as error:
        raise _not_loaded(pipeline, flag, place, error, local=local) from None
    if not pipeline.get_active_adapters():
        raise UsageError(f"{flag}={place!r} holds no LoRA weights for a {type(pipeline).__name__}")
    _require_all_applied(flag, place, given, _applied(pipeline))
    # all of them: of a FluxPipeline fuse_lora leaves the text encoder out unless it is named
    pipeline.fuse_lora(components=list(pipeline._lora_loadable_modules))
    pipeline.unload_lora_weights()
    for network in networks.of_pipeline(pipeline).values():
        networks.require_finite(f"{flag}={place!r}", network)


def _not_loaded(
    pipeline: DiffusionPipeline, flag: str, place: str, error: Exception, *, local: bool
) -> UsageError:
    reason = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
    if local:
        return UsageError(f"{flag}={place!r} does not fit a {type(pipeline).__name__}: {reason}")
    return UsageError(
        f"{flag}={place!r} is not a local file and could not be loaded from the hub"
        f" ({reason}); download it on a machine with a network and pass the"
        " .safetensors file"
    )


def require_base(
    flag: str,
    place: str,
    base: Base,
    pipeline: DiffusionPipeline,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Raise UsageError unless a pipeline has the weights that an adapter was trained on.

    flag, place: that named the adapter; base: what it records of them. say: prints a line if they
    cannot be compared, because training and this pipeline use different half precisions."""
    here = networks.of_pipeline(pipeline)
    for part, recorded in base.fingerprints.items():
        known = [p for p in fingerprints.precisions(here[part]) if p in recorded]
        if not known:
            say(
                f"{flag}={place!r}: whether {part} is the one that the adapter was trained on is"
                f" not known: that one was read in {' or '.join(recorded)}, this one in"
                f" {here[part].dtype}"
            )
        elif fingerprints.in_precision(here[part], known[0]) != recorded[known[0]]:
            raise UsageError(
                f"{flag}={place!r} was trained on other weights: {part} of {base.source!r} differs"
                " from the one that the adapter changes; name the model that it was trained on with"
                " --pretrained_model_name_or_path"
            )
