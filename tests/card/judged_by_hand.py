"""Rows of matches.csv and judged images by hand, for tests of a card."""

import math

from utils.card.card_verdicts import Judged


def row(query, match, score, *, rank=1, prompt="p", aligned=None, **others):
    cells = {"query": query, "rank": str(rank), "match": match, "score": str(score)}
    cells |= {"prompt": prompt, "source_image": "", "seed": "7"} | others
    return cells if aligned is None else cells | {"aligned": str(aligned)}


def image(name, prompt, *, picture="a.png", score=0.9, copy=True, source=None, **others):
    seen = {"detections": {}, "alignment": None, "seed": 1} | others
    return Judged(
        image=name,
        prompt=prompt,
        source=source,
        picture=picture,
        score=score if score is not None else math.nan,
        copy=copy,
        **seen,
    )
