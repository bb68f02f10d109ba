"""Caption images: several captions for each, sampled from an image-to-text model, as a captions
file that diff_train.py reads.

    python -m utils.captioning --instance_data_dir DIR --out captions.json
    torchrun --nproc_per_node 2 -m utils.captioning --instance_data_dir DIR --out captions.json
"""

from __future__ import annotations

from collections.abc import Sequence

from utils.cli import captioning_options, exits, flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. argv: its arguments, by default those of the command line."""
    with exits.exit_on_user_error("python -m utils.captioning"):
        opts = flags.parse(captioning_options.CaptioningOptions, argv, description=__doc__)
        from utils.captioning import caption_stage
        from utils.reports.progress import progress

        caption_stage.caption_images(opts, progress=progress)


if __name__ == "__main__":
    main()
