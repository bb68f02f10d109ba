"""The flags of diff_train.py that check for copies while a model trains."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag
from utils.cli.kinds import MOST_PROMPTS, PATH, count, one_of, real
from utils.runtime.errors import UsageError, require_dir

COPY_CHECK_STEPS = 500  # benchmarks/copy_check.py measures what checks cost at this distance

# descriptors for which the field has a threshold of a copy
CHECKED_BY = ("pixel", "sscd")

COPY_CHECKS = "checks of copies"  # title of --help


@dataclass(frozen=True, kw_only=True)
class CopyCheckOptions(Options):
    """Flags of the checks of copies."""

    copy_check_steps: int | None = flag(
        None,
        kind=count(1),
        bare=str(COPY_CHECK_STEPS),
        group=COPY_CHECKS,
        help=(
            "number of optimizer steps between checks of copies: images of fixed training captions"
            " are compared with the training images"
        ),
        unset="no checks",
        may_change_on_resume=True,
    )
    copy_check_prompts: int = flag(
        32,
        kind=count(1, MOST_PROMPTS),
        group=COPY_CHECKS,
        help="number of training captions of a check, each with one image of fixed noise",
    )
    copy_check_descriptor: str = flag(
        "pixel",
        kind=one_of(CHECKED_BY),
        group=COPY_CHECKS,
        help="descriptor that finds the training images nearest to an image of a check",
    )
    copy_check_guidance: float | None = flag(
        None,
        kind=real(0),
        group=COPY_CHECKS,
        help="guidance scale of the images of a check; 1 or less turns guidance off",
        unset="that of the previews: 7.5 for Stable Diffusion 1, 2 and XL, else the pipeline's",
    )
    innocent_dir: str | None = flag(
        None,
        kind=PATH,
        group=COPY_CHECKS,
        help=(
            "folder of pictures like the training images that are not among them: checks learn from"
            " them how alike pictures are that nobody copied"
        ),
        unset="the images of --holdout",
    )
    stop_at_copy_share: float | None = flag(
        None,
        kind=real(above=0, below=1),
        group=COPY_CHECKS,
        help=(
            "share of copies that ends the run, when the lower end of its interval is above it; the"
            " checkpoint of the last check below is kept in checkpoint_best"
        ),
        unset="a run is not ended",
        may_change_on_resume=True,
    )

    def _check_copy_checks(self) -> None:
        if self.innocent_dir is not None:
            require_dir("--innocent_dir", self.innocent_dir)
            if self.copy_check_steps is None:
                raise UsageError(
                    f"--innocent_dir={self.innocent_dir!r} is for checks of copies; give"
                    " --copy_check_steps too"
                )
        if self.stop_at_copy_share is not None and self.copy_check_steps is None:
            raise UsageError(
                f"--stop_at_copy_share={self.stop_at_copy_share!r} is a limit of what checks of"
                " copies find; give --copy_check_steps too"
            )
