"""The second look and the verdict where all training images were read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.retrieval import candidate_sources, innocents, measurement, second_look
from utils.retrieval import verdict_measurement as measuring
from utils.retrieval.candidate_sources import ReadTraining
from utils.retrieval.decided import UNDECIDED, Decided
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import EvaluationRequest
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.feature_cache import change_stamp
from utils.retrieval.features import ReaderSettings
from utils.retrieval.innocents import InnocentSet
from utils.retrieval.measured import Measured
from utils.retrieval.second_look import SecondLook

if TYPE_CHECKING:
    import torch


def measure(
    request: EvaluationRequest,
    sets: Sets,
    networks: Networks,
    read: measurement.Features,
    reading: ReaderSettings,
    listed: InnocentSet | None,
    measured: Measured | None,
    say: Callable[[str], None],
) -> tuple[SecondLook | None, Decided]:
    """Align the generated images with their candidates, and set the threshold by innocents.

    sets, read: as measurement.read_features returns them
    listed: innocents that are pictures of their own; None: training images stand in
    measured: None on processes other than the main one

    Returns: nothing decided on other processes."""
    how, processes = request.verdict, reading.processes
    assert how is not None
    source = source_of(request, networks, read, processes.device) if processes.main else None
    if processes.main and listed is None:
        assert source is not None
        listed = innocents.training_innocents(
            sets.training_images, source.own, seed=request.flags.seed, say=say
        )
    listed, source = processes.share(listed), source or ReadTraining()
    generated = {name: pair[0] for name, pair in read.items()}
    pictures = measuring.described(generated, how, main=processes.main)
    scored = measuring.score(pictures, source, None, how, processes, label="aligning")
    stamp = change_stamp(sets.training_images) if processes.main else {}
    found = measuring.score_innocents(listed, stamp, source, networks, how, reading)
    if scored is None or found is None or measured is None:
        return None, UNDECIDED
    fixed = measured.matches.threshold
    return scored.look, measuring.decide(
        request, scored, *found, fixed=fixed, groups=source.near_duplicates
    )


def source_of(
    request: EvaluationRequest,
    networks: Networks,
    read: measurement.Features,
    device: torch.device,
) -> ReadTraining:
    """The training images as a source of candidates. read: of the main process."""
    _, train = measurement.descriptors_of(read)
    thumbnails = read[second_look.PICTURE][1] if second_look.PICTURE in read else None
    options: dict[str, Any] = measurement.match_options(request, networks, device)
    labels = candidate_sources.labels_of(train, request.descriptor.pt_style, device)
    # alignment tells better which training images are the same picture twice
    own = labels
    if own is None or thumbnails is not None:
        own = np.arange(len(train))
    return ReadTraining(train, thumbnails, own, labels, options)
