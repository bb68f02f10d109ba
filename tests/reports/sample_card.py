"""A memorization card with drawn pictures, as a measured one would be, for the tests of its pages.

    python -m tests.reports.sample_card FOLDER

writes the card, to look at."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.card import card_record as record
from utils.card.card_files import write_card
from utils.data import scenes

ATTACKS = (
    '<img src=x onerror="window.ran = 1">',
    "</script><script>window.ran = 2</script>",
    '"><svg onload="window.ran = 3"></svg><!-- | [a](javascript:alert(1)) ![b](http://x.invalid/b)',
    "`code` | cell **bold** <https://x.invalid> www.x.invalid # title",
)
BOX = ((0.1, 0.0), (1.0, 0.0), (1.0, 0.9), (0.1, 0.9))
TILTED = ((0.12, 0.05), (0.95, 0.16), (0.86, 0.98), (0.03, 0.87))
LIMIT = 0.02


def jpeg(image):
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def share(value, lo, hi, n):
    return record.Share(value, lo, hi, n)


def numbers(copies, similarity, distance, clip=None):
    return record.Numbers(copies, similarity - 0.1, similarity, distance, "fd_pixel", clip)


def arm(name, label, copies, similarity, distance, *, clip=None, examples=()):
    commands = (
        f"python diff_inference.py --modelpath runs/mine --savepath card/{name} --im_batch 4",
        f"python diff_retrieval.py --query_dir card/{name} --val_dir pictures",
    )
    measured = numbers(copies, similarity, distance, clip)
    images = copies.n if copies else 128
    return record.Arm(name, label, images, images // 4, measured, commands, None, tuple(examples))


def answer(**changed):
    innocents = record.InnocentShare(64, "holdout", 0.016, 0.22, void=True)
    threshold = record.Threshold(
        0.834, 0.801, 0.862, "aligned", True, "1 % of 64 held-out pictures exceed it", innocents
    )
    given = {
        "sentence": "12 % (8 to 17) of 256 images made from training captions are copies; of"
        " pictures that nobody copied 1.6 % would count.",
        "share": share(0.12, 0.08, 0.17, 256),
        "parts": share(0.031, 0.012, 0.058, 256),
        "threshold": threshold,
        "gate": record.Gate(LIMIT, 0.08, passed=False),
        "max_copy_share": LIMIT,
    }
    return record.Answer(**given | changed)


# Pictures -----------------------------------------------------------------------------------------


def changed_picture(image, kind):
    """What a model does to a picture that it hands back."""
    if kind == 1:
        return ImageOps.mirror(image)
    if kind == 2:
        return image.rotate(7, fillcolor=(128, 128, 128))
    noise = np.random.default_rng(kind).normal(0, 9, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def agreement(image):
    """A map that is bright in one corner."""
    ramp = np.linspace(0, 255, image.width)
    grid = np.minimum.outer(ramp, np.full(image.height, 255.0)).T.astype(np.uint8)
    return Image.blend(image.convert("RGB"), Image.fromarray(grid).convert("RGB"), 0.6)


def returned(index, number):
    kinds = ("as it is", "mirrored", "turned by 7 degrees, 91 % crop", "recoloured")
    boxes = ((BOX, BOX), (BOX, BOX), (TILTED, BOX), (BOX, TILTED))[number]
    aligned = record.Alignment(kinds[number], *boxes, "agreement" if number == 2 else None)
    return record.Returned(
        f"images/{4 * index + number:06d}.png",
        f"copy{index}_{number}",
        0.97 - 0.012 * number - 0.007 * index,
        f"a prompt {index}" if index else ATTACKS[0],
        1000 + number,
        aligned if number < 3 else None,
    )


def offender(index, scene):
    copies = (7, 6, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1)[index]
    shown = tuple(returned(index, number) for number in range(min(copies, 4)))
    captions = [*ATTACKS, *[None] * (index == 6)]
    caption = captions[index] if index < len(captions) else scene.captions[0]
    near = tuple(f"star/{index + n}_copy.png" for n in range((3, 0, 1, 12)[index % 4]))
    skipped = None if index % 3 else 2 * index
    drawn = 160 - 9 * index
    training = record.Training(index < 5, near, drawn, skipped)
    key = ATTACKS[1] if index == 1 else f"star/{index:04d}.png"
    return record.Offender(
        key, f"own{index}", caption, copies, 8, 0.97 - 0.007 * index, shown, training
    )


def pictures(count=12, size=128):
    """{name: JPEG} of all pictures of the card."""
    drawn = [scenes.scene_at(i, size=size).image for i in range(count)]
    drawn[3] = drawn[3].crop((0, size // 6, size, size - size // 6))  # one that is no square
    made = {f"own{i}": jpeg(image) for i, image in enumerate(drawn)}
    for i, image in enumerate(drawn):
        made |= {f"copy{i}_{n}": jpeg(changed_picture(image, n)) for n in range(4)}
    made["agreement"] = jpeg(agreement(drawn[0]))
    for n in range(6):
        made[f"fresh{n}"] = jpeg(scenes.scene_at(100 + n, size=size).image)
    return made


# Sections -----------------------------------------------------------------------------------------


def comparison():
    copied, fresh = [f"copy{i}_0" for i in range(6)], [f"fresh{i}" for i in range(6)]
    arms = (
        arm(
            "training",
            "this model, training captions",
            share(0.12, 0.08, 0.17, 256),
            0.93,
            41.2,
            clip=0.311,
            examples=copied,
        ),
        arm(
            "base",
            "base model, training captions",
            share(0.0, 0.0, 0.015, 256),
            0.71,
            88.0,
            clip=0.297,
            examples=fresh,
        ),
        arm(
            "heldout",
            "this model, held-out captions",
            share(0.031, 0.012, 0.061, 256),
            0.84,
            44.9,
            clip=0.308,
        ),
        arm("words", "this model, words replaced", share(0.055, 0.026, 0.09, 256), 0.88, 46.1),
    )
    findings = (
        "The training brings the pictures back: on the same prompts and noise the base model copies"
        " 0 %.",
        "The caption has a part in it: with other captions the share falls from 12 % to 3.1 %.",
    )
    return record.Comparison(arms, findings)


def course():
    shares = ((0.0, 0.0, 0.015), (0.008, 0.0, 0.019), (0.051, 0.02, 0.08), (0.12, 0.08, 0.17))
    moments = tuple(
        record.Moment(
            400 * (i + 1),
            i == 3,
            arm(f"step{i}", "checkpoint", share(*s, 256), 0.74 + 0.065 * i, 80 - 13.1 * i),
        )
        for i, s in enumerate(shares)
    )
    finding = "The checkpoint of step 800 is the last one below the limit of 2 %."
    return record.Course(moments, LIMIT, 800, finding)


def helping():
    copied, fresh = [f"copy{i}_0" for i in range(6)], [f"fresh{i}" for i in range(6)]
    plain = arm(
        "plain",
        "no mitigation",
        share(0.41, 0.3, 0.52, 128),
        0.97,
        39.0,
        clip=0.312,
        examples=copied,
    )
    noise = arm(
        "noise",
        "noise on the embedding",
        share(0.25, 0.16, 0.34, 128),
        0.93,
        47.0,
        clip=0.3,
        examples=copied[:3] + fresh[3:],
    )
    words = arm(
        "words",
        "random words in the prompt",
        share(0.04, 0.01, 0.09, 128),
        0.85,
        52.0,
        clip=0.291,
        examples=fresh,
    )
    trials = (
        record.Trial((), None, plain),
        record.Trial(("--rand_noise_lam", "0.1"), "Somepalli et al. 2023", noise),
        record.Trial(("--rand_augs", "rand_word_add"), "Somepalli et al. 2023", words),
    )
    finding = "Random words in the prompt help most here: 4 % copies instead of 41 %."
    command = "python diff_inference.py --modelpath runs/mine --rand_augs rand_word_add"
    sees = {"detect_wen": "marks 30 of 32 of the worst prompts"}
    return record.Help(32, trials, finding, command, sees)


def advice():
    return (
        record.Advice(
            "Thin out near-duplicates.",
            "14 groups of near-duplicates hold 61 of 150 pictures; 9 of the 12 worst offenders are"
            " among them.",
            "python diff_train.py --instance_data_dir pictures --weights card/weights.json",
            "weights.json",
            tuple(f"star/{i:04d}_copy.png" for i in range(30)),
        ),
        record.Advice(
            "Stop at step 800.",
            "It is the last checkpoint below the limit of 2 %.",
            "python diff_train.py --max_train_steps 800",
            None,
            (),
        ),
        record.Advice("Leave these pictures out.", ATTACKS[0], None, None, ("a.png", ATTACKS[1])),
    )


def card(**changed):
    made = record.Provenance(
        {"pt_style": "pixel", "num_candidates": 10, "prompts": ATTACKS[0]},
        {"training pictures": "6f1f5f2a", "weights": "0b2f9c11"},
        {"generation": 0},
        {"torch": "2.11", "commit": "abcdef0"},
    )
    given = {
        "model": "runs/mine",
        "command": "python diff_retrieval.py --modelpath runs/mine",
        "answer": answer(),
        "offenders": tuple(offender(i, scenes.scene_at(i)) for i in range(12)),
        "comparison": comparison(),
        "course": course(),
        "help": helping(),
        "advice": advice(),
        "provenance": made,
        "effort": record.Effort(1216, 1024, 2711.0, "2026-01-31T12:00:00Z"),
        "left_out": {"alignment with captions": "no CLIP weights <b>here</b>"},
    }
    return record.Card(**given | changed)


if __name__ == "__main__":
    write_card(Path(sys.argv[1]), card(), pictures())
