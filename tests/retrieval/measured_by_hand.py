"""What an evaluation measured, by hand, for tests of metrics and of files."""

import dataclasses

from utils.cli.retrieval_options import RetrievalOptions
from utils.retrieval import evaluation_stage
from utils.retrieval.measured import Matches, Measured, NetworkFeatures, OnDemand, Origins


def measured(
    *,
    scores,
    matches,
    threshold,
    prompts,
    sources,
    source_scores,
    duplicated,
    find_background,
    find_complexity=None,
    features=None,
    alignment=None,
    missing=None,
    innocents=None,
    **flags,
):
    """Measured of the values of its parts. flags: changed values of MetricFlags."""
    defaults = evaluation_stage.request_of(RetrievalOptions(query_dir="g", val_dir="x")).flags
    return Measured(
        Matches(matches, scores, threshold),
        Origins(prompts, sources, source_scores, duplicated),
        NetworkFeatures(
            features or {},
            cosines=alignment or {},
            missing=missing or {},
            innocents=innocents or {},
        ),
        OnDemand(find_background, find_complexity),
        dataclasses.replace(defaults, **flags),
    )
