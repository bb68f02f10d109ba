"""The flags of diff_train.py that keep what the base model knows."""

from dataclasses import dataclass

from utils.cli.base_model_options import BaseModelOptions
from utils.cli.flags import flag, switch
from utils.cli.kinds import MOST_IMAGES, PATH, count, real
from utils.cli.training_data_options import TrainingDataOptions
from utils.data import caption_edits
from utils.data.prompt_styles import PROMPT_STYLES
from utils.runtime.errors import UsageError

PRESERVATION = "preservation of what the base model knows"  # title of --help


@dataclass(frozen=True, kw_only=True)
class PreservationOptions(BaseModelOptions, TrainingDataOptions):
    """Flags of prior preservation and of trigger words."""

    with_prior_preservation: bool = switch(
        group=PRESERVATION,
        help="prior preservation: as many class images as training images, with a loss of theirs",
    )
    class_data_dir: str | None = flag(
        None,
        kind=PATH,
        group=PRESERVATION,
        help="folder of class images; the base model adds what is missing",
        may_change_on_resume=True,
    )
    class_data_prompt: str | None = flag(
        None,
        group=PRESERVATION,
        help="prompt of the class images, such as 'a photo of a dog'; diffusers: --class_prompt",
    )
    prior_loss_weight: float = flag(
        1.0,
        kind=real(above=0),
        group=PRESERVATION,
        help="weight of the loss of the class images",
    )
    num_class_images: int = flag(
        100, kind=count(1, MOST_IMAGES), group=PRESERVATION, help="number of class images"
    )
    trigger_word: str | None = flag(
        None,
        group=PRESERVATION,
        help=(
            "word of the captions that stands for what is learnt; with --trigger_class, captions"
            " of the class keep the prediction of the base model"
        ),
        unset="off",
    )
    trigger_class: str | None = flag(
        None,
        group=PRESERVATION,
        help="word of the class, in the place of --trigger_word",
        unset="off",
    )
    preservation_weight: float = flag(
        1.0,
        kind=real(above=0),
        group=PRESERVATION,
        help="weight of the loss of --trigger_class",
    )

    def _check_prior_preservation(self) -> None:
        if not self.with_prior_preservation:
            return
        for name in ("class_data_dir", "class_data_prompt"):
            if getattr(self, name) is None:
                raise UsageError(
                    f"--with_prior_preservation needs --{name}, such as"
                    " --class_data_dir dogs --class_data_prompt 'a photo of a dog'"
                )
        self._require_pretrained("--with_prior_preservation")

    def _check_output_preservation(self) -> None:
        word, other = self.trigger_word, self.trigger_class
        if (word is None) != (other is None):
            given = "--trigger_word" if other is None else "--trigger_class"
            raise UsageError(
                f"{given}={word or other!r}: --trigger_word is what --trigger_class replaces; give"
                " both or neither"
            )
        if word is None or other is None:
            return
        if caption_edits.has_word(other, word):
            raise UsageError(
                f"--trigger_class={other!r} holds --trigger_word={word!r}, which it replaces; use"
                " the word of the class alone"
            )
        if PROMPT_STYLES[self.class_prompt].needs_tokenizer:
            raise UsageError(
                f"--trigger_word={word!r} is a word of captions, and those of"
                f" --class_prompt={self.class_prompt!r} are random tokens; use another style"
            )
        self._require_pretrained("--trigger_class")
