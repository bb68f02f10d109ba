"""Generate from a stock model with an inference-time mitigation, on prompts for which
it is known to copy training images."""

from pathlib import Path

from utils.cli import exits, flags, generation_options

# Captions that the literature reports as replicated by Stable Diffusion 1.4 (Somepalli et al. 2023,
# Carlini et al. 2023)
REPLICATED_PROMPTS = (
    "Wall View 002",
    "Wall View 003",
    "Chamberly - Alloy 5 Piece Sectional",
    "Hopped-Up Gaming: East",
    "Pantomine - Driftwood 4 Piece Sectional",
    "Cresson - Pewter 4 Piece Sectional",
    "Jinllingsly - Chocolate 3 Piece Sectional",
    "Maier - Charcoal 2 Piece Sectional",
    "Classic Cars for Sale",
    "Mothers influence on her young hippo",
    "Living in the Light with Ann Graham Lotz",
    "The No Limits Business Woman Podcast",
)


def main(argv: list[str] | None = None) -> None:
    """Run the script. argv: its arguments, by default those of the command line."""
    with exits.exit_on_user_error("sd_mitigation.py"):
        opts = flags.parse(generation_options.MitigationOptions, argv, description=__doc__)
        from utils.generation.generation_stage import generate_folders
        from utils.reports.progress import progress

        # --capstyle draws prompts of the model's run instead of the published list
        prompts = () if opts.capstyle else REPLICATED_PROMPTS
        generate_folders(
            opts,
            default_prompts=prompts,
            default_root=Path("mitigationSD") / f"inf_{opts.seed}",
            beside_run=False,
            progress=progress,
        )


if __name__ == "__main__":
    main()
