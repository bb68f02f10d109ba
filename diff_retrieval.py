"""Measure how much generated images copy training images: similarity, its background, matches, Frechet distance."""

import json
from pathlib import Path

from utils import flags, options


def settings_of(opts, sets, fingerprints, built, measured, device, dtype):
    """What made the numbers; stored beside them, because scales of descriptors do not agree."""
    from utils import runs

    return {
        "query_dir": opts.query_dir, "val_dir": opts.val_dir, "pt_style": opts.pt_style,
        "similarity_metric": opts.similarity_metric, "copy_threshold": measured.threshold, **built["descriptor"].record,
        "fd": built["fd"].record if "fd" in built else None, **fingerprints,
        "seed": opts.seed, "device": str(device), "dtype": str(dtype),
        "run": opts.run or (sets.manifest or {}).get("run"), "environment": runs.environment(),
    }  # fmt: skip


def report(opts, folder, row, tracker):
    """Say where the results are, and send them to the tracker."""
    tracker.log(row, 0)
    tracker.image("similarity", folder.path / "plots" / "similarity.png", 0)
    for page in sorted((folder.path / "gallery").glob("*.png"))[:3]:
        tracker.image(f"gallery/{page.stem}", page, 0)
    tracker.finish()
    shown = [k for k in ("sim_mean", "sim_95pc", "copy_share", "bg_95pc") if k in row]
    print("  ".join(f"{k} {row[k]:.4f}" for k in shown))
    print(f"report: {folder.path / 'report.html'}")
    if tracker.hint:
        print(tracker.hint)


def main(argv=None):
    with flags.exit_on_user_error("diff_retrieval.py"):
        opts = flags.parse(options.RetrievalOptions, argv, description=__doc__)
        from utils import devices
        from utils.reports import tracking
        from utils.reports.progress import progress
        from utils.stages import retrieval

        devices.one_process(opts.script)
        sets = retrieval.read_sets(opts, say=print)
        folder = retrieval.evaluation_folder(opts, sets)
        if opts.dry_run:
            print(json.dumps({"options": flags.as_dict(opts), "generated": len(sets.generated),
                              "training": len(sets.training), "writes": folder.planned()}, indent=1))  # fmt: skip
            return
        # of what was listed, as the folder's name: what turns out unreadable does not change it
        fingerprints = {"val_fingerprint": sets.training.fingerprint, "query_fingerprint": sets.generated.fingerprint}
        device = devices.default_device()
        dtype = devices.dtype_of(opts.mixed_precision or ("fp16" if device.type == "cuda" else "no"))
        built, missing = retrieval.build_extractors(opts, device=device, dtype=dtype)
        measured, sets = retrieval.measure(
            opts, sets, built, missing, wrap=lambda batches: progress(batches, total=len(batches), label="reading")
        )
        row, left_out = retrieval.compute(opts, measured)
        for name, why in left_out.items():
            print(f"left out: {name}: {why}")
        for key, why in (*sets.generated.bad, *sets.training.bad):
            print(f"left out: {key}: {why}")
        settings = settings_of(opts, sets, fingerprints, built, measured, device, dtype)
        with folder.writing() as part:
            retrieval.write(part, measured=measured, sets=sets, row=row, left_out=left_out, settings=settings, opts=opts)
        tracker = tracking.open_tracker(
            "none" if opts.noeval else opts.report_to, folder=Path(opts.query_dir) / "evaluations",
            project=tracking.project_name(opts.wandb_project, "imsimv2_retrieval"), name=opts.run_name, config=settings,
        )  # fmt: skip
        report(opts, folder, row, tracker)


if __name__ == "__main__":
    main()
