"""Generate images from a training run, or from any pipeline folder, and write their manifest."""

from pathlib import Path

from utils.cli import exits, flags, generation_options


def main(argv: list[str] | None = None) -> None:
    """Run the script. argv: its arguments, by default those of the command line."""
    with exits.exit_on_user_error("diff_inference.py"):
        opts = flags.parse(generation_options.GenerationOptions, argv, description=__doc__)
        from utils.generation.generation_stage import generate_folders
        from utils.reports.progress import progress

        name = Path(opts.modelpath or opts.pretrained_model_name_or_path or opts.default_model).name
        generate_folders(
            opts,
            default_root=Path("inferences") / name,
            beside_run=True,
            progress=progress,
        )


if __name__ == "__main__":
    main()
