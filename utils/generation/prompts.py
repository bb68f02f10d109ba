"""The prompts of a generation: from a file, from the command line, or drawn from the prompts that a
run was trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data import caption_files, caption_layouts, data_sources, image_sets, prompt_styles
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.generation.model_source import ModelSource
from utils.generation.prompt_files import read_prompts
from utils.generation.sampling import Prompt
from utils.models import loading, single_files
from utils.runtime import seeding
from utils.runtime.errors import UsageError, require_file


@dataclass(frozen=True)
class PromptRequest:
    """The prompts that the options ask for."""

    # --prompts: a file
    file: str | None = None
    # --prompt, or the script's own list
    texts: tuple[str, ...] = ()
    # -nb: number of prompts; None is all of the file or of `texts`
    count: int | None = None
    # --capstyle: style of the prompts that are drawn; None is the run's
    style: str | None = None
    # --instance_prompt_loc: captions file to draw from; None is the run's
    captions: str | None = None
    # --seed
    seed: int = 0
    # --caption_column, --image_column: of the files
    columns: Columns = USUAL


def _captions_beside(
    style: str, images: ImageSet, columns: Columns, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Captions that lie in the folder of the images that a run was trained on. UsageError if there
    are none, DataError if an image has none."""
    if Path(images.root).is_dir() and data_sources.holding_files(images.root) is None:
        found = caption_layouts.find(images, columns)
        if found:
            say(found.line)
            return caption_files.require_all(
                images.root, found.captions, images, within=found.layout
            )
    raise UsageError(f"--capstyle={style!r} needs --instance_prompt_loc, a captions file")


def _columns(request: PromptRequest, model: ModelSource) -> Columns:
    """The columns of the captions file: those that are named, else those of the run if the file is
    the run's."""
    if request.captions or request.columns.named() or model.run is None:
        return request.columns
    options = model.run.options
    return Columns(options.get("caption_column"), options.get("image_column"))


def _images(model: ModelSource, location: str | Path | None, columns: Columns) -> ImageSet:
    """The images whose prompts are drawn: those that the run was trained on, else those that the
    captions file at `location` names."""
    if model.run:
        keys, root = tuple(model.run.captions()), model.run.located("instance_data_dir")
        assert root is not None  # every run records it
    else:
        assert location is not None  # `choose_prompts` refuses a model without a run or captions
        entries = caption_files.read_file(require_file("--instance_prompt_loc", location), columns)
        keys, root = tuple(sorted(entries, key=image_sets.natural_key)), Path(location).parent
    classes = model.run.record.get("folder_classes", {}) if model.run else {}
    return ImageSet(root, keys, (0,) * len(keys), classes=classes)


def _styled_captions(
    request: PromptRequest, model: ModelSource, style: str, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """The prompts of a style: {image key: prompts}. They are the recorded prompts of the run, or
    are resolved again if the options ask for others."""
    run, chosen = model.run, prompt_styles.PROMPT_STYLES[style]
    if run and style == run.options["class_prompt"] and not request.captions:
        return run.captions()
    location = request.captions or (run.located("instance_prompt_loc") if run else None)
    columns = _columns(request, model)
    images, texts = _images(model, location, columns), None
    if location and chosen.uses_captions:
        texts, _ = caption_files.read_captions(location, images, columns)
    elif chosen.needs_captions:
        texts = _captions_beside(style, images, columns, say)
    tokenizer = None
    if chosen.needs_tokenizer:
        place = single_files.configuration_of(model.flag, model.source, model.choice.config)
        tokenizer = loading.load_tokenizer(place.flag, place.source)
    return prompt_styles.resolve_prompts(
        style,
        images,
        captions=texts,
        tokenizer=tokenizer,
        seed=request.seed,
        template=run.options.get("caption_template") if run else None,
        prompt=run.options.get("instance_prompt") if run else None,
    )


def draw_prompts(
    resolved: dict[str, list[str]], style: str, *, count: int, seed: int
) -> list[Prompt]:
    """Draw prompts with replacement, uniform over images or over distinct prompts.

    resolved: {image key: prompts}, of which the first is used.
    style: a key of PROMPT_STYLES, which says how prompts are drawn.
    """
    distinct = list(dict.fromkeys(texts[0] for texts in resolved.values()))
    keys = list(resolved)
    drawn = []
    for number in range(count):
        rng = seeding.numpy_rng(seed, "prompt", number)
        if prompt_styles.PROMPT_STYLES[style].drawn_by_image:
            key = keys[rng.integers(len(keys))]
            drawn.append(Prompt(resolved[key][0], key))
        else:
            drawn.append(Prompt(distinct[rng.integers(len(distinct))]))
    return drawn


def _shuffled(keys: Sequence[str], seed: int, group: int) -> list[str]:
    order = seeding.numpy_rng(seed, "card-prompts", group).permutation(len(keys))
    return [keys[i] for i in order]


def drawn_evenly(
    captions: Mapping[str, str], duplicated: Collection[str], *, most: int, seed: int
) -> list[Prompt]:
    """Draw captions evenly over duplicated and other pictures, by turns, so that any beginning of
    the list is as even; where one kind runs out, the other one follows.

    captions: {key: caption}; most: number of prompts, fewer if there are fewer captions."""
    many = _shuffled([key for key in captions if key in duplicated], seed, 0)
    others = _shuffled([key for key in captions if key not in duplicated], seed, 1)
    both = min(len(many), len(others))
    turns = [key for pair in zip(many, others, strict=False) for key in pair]
    order = [*turns, *many[both:], *others[both:]][:most]
    return [Prompt(captions[key], key) for key in order]


def choose_prompts(
    request: PromptRequest, model: ModelSource, *, say: Callable[[str], None]
) -> tuple[list[Prompt], str | None]:
    """The prompts of a generation, in order.

    say: prints a line for the user.
    Returns: (prompts, the style that they were drawn with, or None if they were given).
    """
    given = [Prompt(text) for text in request.texts]
    if request.file:
        given = read_prompts(request.file, request.columns)
    if given:
        count = request.count or len(given)
        if count > len(given):
            say(
                f"-nb {count} is more than the {len(given)} prompts given; they are used again in"
                " order"
            )
        return [given[i % len(given)] for i in range(count)], None
    style = request.style or (model.run.options["class_prompt"] if model.run else None)
    if style is None or (model.run is None and not request.captions):
        raise UsageError(
            f"{model.source!r} has no run.json to draw prompts from; give --prompts, --prompt, or"
            " --capstyle with --instance_prompt_loc"
        )
    assert request.count is not None  # the options require -nb where prompts are drawn
    resolved = _styled_captions(request, model, style, say)
    return draw_prompts(resolved, style, count=request.count, seed=request.seed), style
