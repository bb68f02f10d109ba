"""The prompts of a generation: from a file, from the command line, or drawn from what a run was
trained on."""

import json
from pathlib import Path

from utils.data import captions, image_sets
from utils.files import whole_files
from utils.generation.sampling import Prompt
from utils.models import loading
from utils.runtime import seeding
from utils.runtime.errors import DataError, UsageError, require_file


def read_prompts(path):
    """Prompts of a file: .txt one a line, .jsonl with `prompt`, .json a list or a captions file.
    Returns: [Prompt].

    A captions file gives caption 0 of each image, and the image's key as source_image.
    """
    path = require_file("--prompts", path)
    if path.suffix == ".json":
        data = whole_files.read_json(path)
        if isinstance(data, dict):
            firsts = ((key, v[0] if isinstance(v, list) and v else v) for key, v in data.items())
            found = [Prompt(text, key) for key, text in firsts]
        else:
            found = [Prompt(text) for text in data] if isinstance(data, list) else []
    elif path.suffix in (".txt", ".jsonl"):
        try:
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
            found = [
                Prompt(json.loads(line)["prompt"] if path.suffix == ".jsonl" else line.strip("\r"))
                for line in lines
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"--prompts={str(path)!r}: not UTF-8 text, or a line without a prompt ({error})"
            ) from None
    else:
        raise UsageError(
            f"--prompts={str(path)!r} is of an unknown form; takes .txt, .json or .jsonl"
        )
    if not found or not all(isinstance(p.text, str) for p in found):
        raise DataError(f"--prompts={str(path)!r} holds no prompts, or entries that are not text")
    return found


def _styled_captions(opts, model, style):
    """{image key: prompts} of a prompt style: as the run resolved them, or anew where the options
    ask for others."""
    recorded = model.run.options if model.run else {}
    if model.run and style == recorded["class_prompt"] and not opts.instance_prompt_loc:
        return model.run.captions()
    recorded_place = model.run.located("instance_prompt_loc") if model.run else None
    location = opts.instance_prompt_loc or recorded_place
    if style in captions.USES_CAPTIONS and style != "instancelevel_random" and not location:
        raise UsageError(f"--capstyle={style!r} needs --instance_prompt_loc, a captions JSON")
    if model.run:
        # what it was trained on, no more
        keys, root = tuple(model.run.captions()), model.run.located("instance_data_dir")
    else:
        found = whole_files.read_json(require_file("--instance_prompt_loc", location))
        keys, root = tuple(sorted(found, key=image_sets.natural_key)), Path(location).parent
    images = image_sets.ImageSet(root, keys, (0,) * len(keys))
    texts = (
        captions.read_captions(location, images)[0]
        if location and style in captions.USES_CAPTIONS
        else None
    )
    tokenizer = (
        loading.load_tokenizer(model.flag, model.source)
        if style == "instancelevel_random"
        else None
    )
    return captions.resolve_prompts(
        style, images, captions=texts, tokenizer=tokenizer, seed=opts.seed
    )


def draw_prompts(resolved, style, *, count, seed):
    """`count` draws with replacement: uniform over classes under classlevel, else over images.
    Returns: [Prompt]."""
    distinct = list(dict.fromkeys(p[0] for p in resolved.values()))
    keys = list(resolved)
    drawn = []
    for number in range(count):
        rng = seeding.numpy_rng(seed, "prompt", number)
        if style in ("classlevel", "nolevel"):
            drawn.append(Prompt(distinct[rng.integers(len(distinct))]))
        else:
            key = keys[rng.integers(len(keys))]
            drawn.append(Prompt(resolved[key][0], key))
    return drawn


def choose_prompts(opts, model, default_prompts, *, say):
    """The prompts of a generation, in order, and the style they were drawn with, if any. Returns:
    ([Prompt], style)."""
    given = (
        read_prompts(opts.prompts)
        if opts.prompts
        else [Prompt(text) for text in opts.prompt or default_prompts]
    )
    if given:
        count = opts.nbatches or len(given)
        if count > len(given):
            say(
                f"-nb {count} is more than the {len(given)} prompts given; they are used again in"
                " order"
            )
        return [given[i % len(given)] for i in range(count)], None
    style = opts.capstyle or (model.run.options["class_prompt"] if model.run else None)
    if style is None or (model.run is None and not opts.instance_prompt_loc):
        raise UsageError(
            f"{model.source!r} has no run.json to draw prompts from; give --prompts, --prompt, or"
            " --capstyle with --instance_prompt_loc"
        )
    return (
        draw_prompts(
            _styled_captions(opts, model, style), style, count=opts.nbatches, seed=opts.seed
        ),
        style,
    )
