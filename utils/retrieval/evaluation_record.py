"""What is recorded of how an evaluation was made, and what a reader of its numbers is told."""

from utils.retrieval import evaluation_files
from utils.runtime import environment


def settings_of(opts, sets, fingerprints, networks, measured, processes, dtype):
    """What made the numbers; stored beside them, because scales of descriptors do not agree."""
    records = {
        name: networks.record(name) for name in ("fd", "fid", "fid_dcr", "clip", "clip_dcr", "mq")
    }
    index = sets.index
    shards = {} if index is None else {"index_shards": [len(index.shards), len(index.planned)]}
    return {
        "query_dir": opts.query_dir,
        "val_dir": opts.val_dir,
        **shards,
        **sets.search,
        "metrics": opts.metrics,
        "num_matches": opts.num_matches,
        "pt_style": opts.pt_style,
        "similarity_metric": opts.chunked,
        "num_loss_chunks": measured.chunks,
        "copy_threshold": measured.threshold,
        **networks.record("descriptor"),
        **records,
        "kid_prdc_network": measured.distance_network,
        "mq_flip": opts.mq_flip,
        **fingerprints,
        "seed": opts.seed,
        "device": processes.device.type,
        "processes": processes.count,
        "dtype": str(dtype),
        "run": opts.run or (sets.manifest or {}).get("run"),
        "environment": environment.environment(),
    }


def counted(number, noun):
    """A number with its noun, which takes an s unless there is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def said(opts, sets, left_out, measured, settings, path):
    """Lines on what a reader of the numbers should know. path: of the evaluation."""
    for flag in ("keephead", "keeppredictor"):
        if getattr(opts, flag):
            yield f"--{flag} is accepted as published, where it never had an effect"
    for why in dict.fromkeys(left_out.values()):  # of an index six metrics lack the same
        yield (
            f"left out: {', '.join(name for name, other in left_out.items() if other == why)}:"
            f" {why}"
        )
    yield from (f"left out: {key}: {why}" for key, why in (*sets.generated.bad, *sets.training.bad))
    if sets.index is not None and (bad := sets.index.bad):
        key, why = bad[0]
        yield (
            f"{counted(len(bad), 'image')} could not be read when the index was built, first"
            f" {key!r} ({why}); the metadata of {sets.index.root}/shards/*.parquet list all"
        )
    if sets.index is not None and (damaged := sets.index.damaged):
        yield (
            f"{counted(len(damaged), 'tar file')} could not be read to the end when the index was"
            f" built, first {damaged[0][0]!r}: what comes after is in no number"
        )
    if opts.chunked != "dotproduct" and settings["num_loss_chunks"] == 1:
        yield f"{opts.chunked} of 1 chunk is dotproduct; --num_loss_chunks cuts descriptors"
    if (path / "metrics.json").exists():
        yield f"the evaluation in {path} is replaced; --output_dir would keep both"
    if measured.threshold is None:
        yield (
            f"left out: copy_share: the field has no threshold for {opts.pt_style}; give one with"
            " --copy_threshold"
        )
    if equal := evaluation_files.equal_best(measured):
        have = "has" if equal == 1 else "have"
        yield (
            f"{counted(equal, 'generation')} {have} best matches of equal score: the first in order"
            " is named"
        )
