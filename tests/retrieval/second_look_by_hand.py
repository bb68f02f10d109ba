"""A second look and decisions by hand, for tests of files, pictures and rows."""

import dataclasses

import numpy as np

from utils.retrieval.aligning.aligned_pair import AlignedPair, Transformation
from utils.retrieval.decided import Decided
from utils.retrieval.second_look import SecondLook
from utils.retrieval.verdict import Innocents, Verdict

WHOLE = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
MIRRORED = ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0))


def pair(match, aligned, **changes):
    """A pair whose training image is found whole, mirrored."""
    fields = {
        "match": match,
        "aligned": aligned,
        "transformation": Transformation(mirrored=True, scale=1.22, shift=(0.09, 0.0)),
        "box_query": MIRRORED,
        "box_match": WHOLE,
        "copied_area": 0.815,
        "agreement": np.full((16, 16), 255, np.uint8),
    }
    return AlignedPair(**(fields | changes))


def looked(measured, pairs):
    """The same with a second look that found these pairs."""
    aligned = np.array([[np.nan if p is None else p.aligned] for p in pairs])
    candidates = np.array([[-1 if p is None else p.match] for p in pairs])
    return dataclasses.replace(measured, second_look=SecondLook(pairs, aligned, candidates))


def decided(threshold=0.6, *, of="aligned", **changes):
    """A calibrated threshold with four innocents."""
    scores = np.array([0.1, 0.2, 0.3, 0.55])
    fields = {
        "verdict": Verdict(threshold, 0.5, 0.7, of, 4, "holdout", 0.01, 0.0, void=False),
        "innocents": Innocents(scores, scores, "holdout"),
    }
    return Decided(**(fields | changes))
