"""The flags of diff_train.py about batches, the optimizer and the loss."""

from dataclasses import dataclass

from utils.cli.base_model_options import BaseModelOptions
from utils.cli.flags import flag, switch
from utils.cli.kinds import MOST_AT_ONCE, count, one_of, real
from utils.runtime.errors import UsageError
from utils.training.optimizers import OPTIMIZERS

LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
)
POLYNOMIAL_END = 1e-7  # learning rate at the end of --lr_scheduler polynomial

OPTIMISATION = "optimisation"  # title of --help


@dataclass(frozen=True, kw_only=True)
class OptimisationOptions(BaseModelOptions):
    """Flags of the optimisation."""

    train_batch_size: int = flag(
        4,
        kind=count(1, MOST_AT_ONCE),
        group=OPTIMISATION,
        help="number of images per process and micro-batch",
    )
    num_train_epochs: int = flag(
        1,
        kind=count(1),
        group=OPTIMISATION,
        help="number of epochs, where --max_train_steps is not given",
        may_change_on_resume=True,
    )
    max_train_steps: int | None = flag(
        None,
        kind=count(1),
        group=OPTIMISATION,
        help="number of optimizer steps of a copy per round",
        unset="--num_train_epochs",
        may_change_on_resume=True,
    )
    gradient_accumulation_steps: int = flag(
        1,
        kind=count(1),
        group=OPTIMISATION,
        help=(
            "number of micro-batches per optimizer step; without the flag, that of accelerate"
            " launch"
        ),
        launcher="ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    )
    optimizer: str | None = flag(
        None,
        kind=one_of(OPTIMIZERS),
        group=OPTIMISATION,
        help=(
            "optimizer; adamw8bit: moments of 8 bits, by bitsandbytes; prodigy: finds its learning"
            " rate by itself, by prodigyopt"
        ),
        unset="adamw, or adamw8bit with --use_8bit_adam",
    )
    learning_rate: float = flag(
        5e-6,
        kind=real(above=0),
        group=OPTIMISATION,
        help="learning rate; with --optimizer prodigy a factor on its own, and 1 is usual",
    )
    text_encoder_lr: float | None = flag(
        None,
        kind=real(above=0),
        group=OPTIMISATION,
        help="learning rate of the text encoder; with --train_text_encoder",
        unset="--learning_rate",
    )
    scale_lr: bool = switch(
        group=OPTIMISATION,
        help="learning rate multiplied by the number of images of an optimizer step",
    )
    lr_scheduler: str = flag(
        "constant", kind=one_of(LR_SCHEDULERS), group=OPTIMISATION, help="learning-rate schedule"
    )
    lr_warmup_steps: int = flag(
        500, kind=count(0), group=OPTIMISATION, help="number of optimizer steps of warm-up"
    )
    use_8bit_adam: bool = switch(group=OPTIMISATION, help="older name of --optimizer adamw8bit")
    adam_beta1: float = flag(
        0.9, kind=real(0, below=1), group=OPTIMISATION, help="decay of AdamW's first moment"
    )
    adam_beta2: float = flag(
        0.999, kind=real(0, below=1), group=OPTIMISATION, help="decay of AdamW's second moment"
    )
    adam_weight_decay: float = flag(
        1e-2, kind=real(0), group=OPTIMISATION, help="weight decay of AdamW"
    )
    adam_epsilon: float = flag(
        1e-8, kind=real(above=0), group=OPTIMISATION, help="epsilon of AdamW's denominator"
    )
    max_grad_norm: float = flag(
        1.0, kind=real(above=0), group=OPTIMISATION, help="norm to which gradients are clipped"
    )
    snr_gamma: float | None = flag(
        None,
        kind=real(above=0),
        group=OPTIMISATION,
        help="gamma of Min-SNR loss weights (Hang et al. 2023), of diffusion; 5 is usual",
        unset="no weights",
    )
    noise_offset: float = flag(
        0.0,
        kind=real(0),
        group=OPTIMISATION,
        help=(
            "standard deviation of one more number for each channel of an image's noise, so that"
            " darker and lighter images can be learned; 0.05 to 0.1 is usual, 0 adds none"
        ),
    )
    use_ema: bool = switch(
        group=OPTIMISATION,
        help="moving average of the weights (decay 0.9999); checkpoints then hold the average",
    )

    @property
    def optimizer_name(self) -> str:
        """The optimizer of the run, by --optimizer or --use_8bit_adam."""
        return self.optimizer or ("adamw8bit" if self.use_8bit_adam else "adamw")

    def _check_learning_rate(self) -> None:
        if self.lr_scheduler == "polynomial" and self.learning_rate <= POLYNOMIAL_END:
            raise UsageError(
                f"--learning_rate={self.learning_rate!r} is not above 1e-7, where --lr_scheduler"
                " polynomial ends; use a number above 1e-7"
            )

    def _check_optimizer(self) -> None:
        if self.use_8bit_adam and self.optimizer_name != "adamw8bit":
            raise UsageError(
                f"--optimizer={self.optimizer!r} and --use_8bit_adam name two optimizers; give"
                " one of them"
            )

    def _check_text_encoder_rate(self) -> None:
        if self.text_encoder_lr is None:
            return
        if not self.train_text_encoder:
            raise UsageError(
                f"--text_encoder_lr={self.text_encoder_lr!r} is the learning rate of"
                " --train_text_encoder; give that flag too"
            )
        if OPTIMIZERS[self.optimizer_name].finds_rate:
            raise UsageError(
                f"--text_encoder_lr={self.text_encoder_lr!r}: --optimizer {self.optimizer_name}"
                " finds one learning rate for all weights; leave --text_encoder_lr out"
            )
