"""Fine-tune a text-to-image diffusion model, with a choice of duplication, captions and mitigations
of copying.

Ordinary training, or iterative ensemble training (--clients_num, --total_round) with anti-gradient
control (--mem_ratio). A run that was stopped or killed continues with --resume_from_checkpoint
latest."""

from __future__ import annotations

import os

from utils.cli import exits, flags, train_options


def main(argv: list[str] | None = None) -> None:
    """Run the script. argv: its arguments, by default those of the command line."""
    with exits.exit_on_user_error("diff_train.py"):
        opts = flags.parse(train_options.TrainOptions, argv, description=__doc__)
        if opts.local_rank >= 0 and "RANK" in os.environ:
            # old launchers pass it by flag alone
            os.environ.setdefault("LOCAL_RANK", str(opts.local_rank))
        from utils.training import training_stage
        from utils.watch import watch_stage

        training_stage.train(opts, watching=watch_stage.watch_of)


if __name__ == "__main__":
    main()
