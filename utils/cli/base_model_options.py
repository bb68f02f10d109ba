"""The flags of diff_train.py that name the base model and what of it learns."""

from dataclasses import dataclass

from utils.cli.common_options import MODEL
from utils.cli.flags import Options, flag, switch
from utils.cli.kinds import PATH, one_of
from utils.runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BaseModelOptions(Options):
    """Flags of the model that a run starts from."""

    # a resumed run compares the weights by their content, so that their path may change
    pretrained_model_name_or_path: str = flag(
        "",
        kind=PATH,
        group=MODEL,
        help="base model: a pipeline folder, a name on the hub, or one file of weights",
        unset="required, unless --unconditional_arch is given",
        may_change_on_resume=True,
    )
    unconditional_arch: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help=(
            "a new DDPM, which reads no text, instead of a base model: cifar or afhq (the"
            " published networks, for 32 and 64 px), or a config.json of UNet2DModel"
        ),
        unset="none: a base model is trained",
    )
    revision: str | None = flag(
        None,
        group=MODEL,
        help="revision of a model on the hub",
        unset="the hub's main revision",
        may_change_on_resume=True,
    )
    tokenizer_name: str | None = flag(
        None,
        kind=PATH,
        group=MODEL,
        help="tokenizer: a folder or a name on the hub",
        unset="the base model's own",
    )
    unet_from_scratch: str = flag(
        "no",
        kind=one_of(("yes", "no")),
        group=MODEL,
        help="start of the U-Net; yes: random weights in the base model's architecture",
    )
    train_text_encoder: bool = switch(group=MODEL, help="training of the text encoder too")

    def _check_base_model(self) -> None:
        if not self.pretrained_model_name_or_path and self.unconditional_arch is None:
            raise UsageError(
                "--pretrained_model_name_or_path is required; give the base model: a pipeline"
                " folder, a name on the hub, or one file of weights; or --unconditional_arch"
            )
        if self.pretrained_model_name_or_path and self.unconditional_arch is not None:
            raise UsageError(
                f"--unconditional_arch={self.unconditional_arch!r} starts without a base model, and"
                f" --pretrained_model_name_or_path={self.pretrained_model_name_or_path!r} names"
                " one; give one of them"
            )

    def _require_pretrained(self, name: str) -> None:
        if self.unet_from_scratch == "yes":
            raise UsageError(
                f"{name} preserves what the base model knows, and --unet_from_scratch=yes starts"
                " from random weights; leave one of them out"
            )
