"""The flags of diff_train.py about training images, captions and how they are drawn."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag, switch
from utils.cli.kinds import MOST_PIXELS, PATH, Kind, count, one_of, real, text_with
from utils.data import buckets
from utils.data.duplication import DUPLICATIONS
from utils.data.prompt_styles import CAPTION, PROMPT_STYLES
from utils.runtime.errors import UsageError


def _buckets(text: str) -> str | None:
    """The value of --aspect_ratio_buckets, without spaces."""
    sizes = buckets.listed(text)
    if sizes is None or max(map(max, sizes)) > MOST_PIXELS:
        return text if text == buckets.AUTO else None
    if len(set(sizes)) < len(sizes):
        raise ValueError("names a size twice")
    return ";".join(map(buckets.in_words, sizes))


BUCKETS = Kind(
    _buckets,
    f"{buckets.AUTO!r}, or sizes in pixels of at most {MOST_PIXELS}, such as '64,64;48,80;80,48'",
    "{auto,HEIGHT,WIDTH;...}",
)

# titles of --help
DATA = "training images and captions"
CONDITIONING = "conditioning and duplication"


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions(Options):
    """Flags of the training images and of their prompts."""

    # a resumed run compares images and text files by their content, so that paths may change
    instance_data_dir: str = flag(
        kind=PATH,
        group=DATA,
        help="training images: a folder, flat or with one subfolder per class, or tar shards",
        may_change_on_resume=True,
    )
    instance_prompt_loc: str | None = flag(
        None,
        kind=PATH,
        group=DATA,
        help="captions file: JSON of image path -> list of captions, or metadata.jsonl",
        unset="captions beside the images, if any",
        may_change_on_resume=True,
    )
    class_prompt: str = flag(
        "nolevel",
        kind=one_of(PROMPT_STYLES),
        group=CONDITIONING,
        help="prompts of the images: one for all, one per class, or captions",
    )
    instance_prompt: str | None = flag(
        None,
        group=CONDITIONING,
        help="prompt of all images under --class_prompt nolevel, such as 'a photo of sks cat'",
        unset="'An image'",
    )
    caption_template: str | None = flag(
        None,
        kind=text_with(CAPTION),
        group=CONDITIONING,
        help="text around every caption, such as 'a photo in sks style, {caption}'",
        unset="the captions as they are",
    )
    caption_dropout: float = flag(
        0.0,
        "--proportion_empty_prompts",
        "--class_dropout",
        kind=real(0, below=1),
        group=CONDITIONING,
        help="probability that a draw has the empty prompt, which guidance needs; 0 is off",
    )
    duplication: str = flag(
        "nodup",
        kind=one_of(DUPLICATIONS),
        group=CONDITIONING,
        help=(
            "duplication of images; dup_both: each with one caption, dup_image: each with several"
        ),
    )
    weight_pc: float = flag(
        0.05, kind=real(0, 1), group=CONDITIONING, help="share of the images that is duplicated"
    )
    dup_weight: float = flag(
        5.0,
        kind=real(above=0),
        group=CONDITIONING,
        help="weight of a duplicated image in the draw; others weigh 1",
    )
    weights_file: str | None = flag(
        None,
        kind=PATH,
        group=CONDITIONING,
        help="file of weights in the draw: JSON of image path -> weight; with --duplication nodup",
        may_change_on_resume=True,
    )
    no_folder_repeats: bool = switch(
        group=CONDITIONING,
        help="reading of folders such as 10_cat as the class '10_cat', not as the weight 10",
        may_change_on_resume=True,
    )
    trainsubset: float | None = flag(
        None,
        kind=real(above=0, high=1),
        group=DATA,
        help="share of the images to train on, drawn with --seed",
        unset="all images",
    )
    holdout: float = flag(
        0.0,
        kind=real(0, below=1),
        group=DATA,
        help=(
            "share of the images to set aside: they are never drawn, and diff_retrieval.py learns"
            " from them how alike pictures are that nobody copied; 0 sets none aside"
        ),
    )
    resolution: int = flag(
        512, kind=count(8, MOST_PIXELS), group=DATA, help="side of the training images in pixels"
    )
    aspect_ratio_buckets: str | None = flag(
        None,
        kind=BUCKETS,
        group=DATA,
        help=(
            "aspect-ratio buckets: an image is shown in the size nearest to its shape, and a"
            " micro-batch holds one size; auto: sizes with about the area of --resolution, or a"
            " list of height,width"
        ),
        unset="squares of --resolution",
    )
    center_crop: bool = switch(
        group=DATA, help="crop of the centre of an image, instead of a random crop"
    )
    random_flip: bool = switch(group=DATA, help="mirroring of a random half of the draws")

    def _check_captions(self) -> None:
        from utils.data import caption_layouts, data_sources, folder_repeats

        if self.instance_prompt_loc or not PROMPT_STYLES[self.class_prompt].needs_captions:
            return
        folder = self.instance_data_dir
        classes = not self.no_folder_repeats and folder_repeats.may_name(folder)
        if classes or data_sources.holding_files(folder) is not None:
            return
        if not caption_layouts.may_hold(folder):
            raise UsageError(caption_layouts.none_found(self.class_prompt, folder))

    def _check_instance_prompt(self) -> None:
        if self.instance_prompt and not PROMPT_STYLES[self.class_prompt].one_prompt:
            accepted = [name for name, style in PROMPT_STYLES.items() if style.one_prompt]
            raise UsageError(
                f"--instance_prompt={self.instance_prompt!r} is one prompt for all images;"
                f" --class_prompt={self.class_prompt!r} gives each its own; use --class_prompt"
                f" {' or '.join(accepted)}, or --caption_template"
            )

    def _check_caption_template(self) -> None:
        if self.caption_template and not PROMPT_STYLES[self.class_prompt].uses_captions:
            accepted = [name for name, style in PROMPT_STYLES.items() if style.uses_captions]
            raise UsageError(
                f"--caption_template={self.caption_template!r} stands around captions;"
                f" --class_prompt={self.class_prompt!r} has none; use --class_prompt"
                f" {' or '.join(accepted)}"
            )

    def _check_duplication(self) -> None:
        choice = DUPLICATIONS[self.duplication]
        if choice.varies and PROMPT_STYLES[self.class_prompt].one_caption:
            accepted = [name for name, other in DUPLICATIONS.items() if not other.varies]
            raise UsageError(
                f"--duplication={self.duplication!r} draws among an image's captions;"
                f" --class_prompt={self.class_prompt!r} has one per image; use --duplication"
                f" {' or '.join(accepted)}"
            )
        if self.weights_file and choice.duplicates:
            accepted = [name for name, other in DUPLICATIONS.items() if not other.duplicates]
            raise UsageError(
                f"--weights_file={self.weights_file!r} and --duplication={self.duplication!r} both"
                f" set the weights of the draw; use --duplication {' or '.join(accepted)}"
            )
