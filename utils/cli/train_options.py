"""The flags of diff_train.py."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli import flags
from utils.cli.common_options import (
    COLUMNS,
    MODEL,
    READING,
    RUNNING,
    SPEED,
    TRACKING,
    ColumnOptions,
    CommonOptions,
    ModelOptions,
    ReadingOptions,
    TrackingOptions,
)
from utils.cli.flags import flag, switch
from utils.cli.kinds import (
    MOST_AT_ONCE,
    MOST_IMAGES,
    MOST_PIXELS,
    MOST_PROMPTS,
    MOST_TOKENS,
    PATH,
    SEED,
    Kind,
    count,
    number_or,
    one_of,
    real,
    text_with,
)
from utils.data import buckets, caption_edits
from utils.data.caption_edits import TRAIN_EDITS
from utils.data.duplication import DUPLICATIONS
from utils.data.prompt_styles import CAPTION, PROMPT_STYLES
from utils.runtime.errors import UsageError
from utils.training.optimizers import OPTIMIZERS
from utils.training.process.flow_names import MODE_SCALES, WEIGHTING_SCHEMES

LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
)
COPY_CHECK_STEPS = 500  # benchmarks/copy_check.py measures what checks cost at this distance
MOST_BINS = 1000  # as many as there are steps of a diffusion
POLYNOMIAL_END = 1e-7  # learning rate at the end of --lr_scheduler polynomial

# descriptors for which the field has a threshold of a copy
CHECKED_BY = ("pixel", "sscd")


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
LORA = "LoRA"
MITIGATIONS = "mitigations"
PRESERVATION = "preservation of what the base model knows"
ENSEMBLE = "ensemble"
OPTIMISATION = "optimisation"
COPY_CHECKS = "checks of copies"
FLOWS = "flow matching and T5 (SD 3, Flux)"
SAVING = "what is saved"
RESUMING = "resuming"
UPLOAD = "upload"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(CommonOptions, ReadingOptions, ColumnOptions, TrackingOptions, ModelOptions):
    """Flags of diff_train.py."""

    script: ClassVar[str] = "diff_train.py"
    groups: ClassVar[tuple[str, ...]] = (
        MODEL,
        DATA,
        COLUMNS,
        CONDITIONING,
        LORA,
        MITIGATIONS,
        PRESERVATION,
        ENSEMBLE,
        OPTIMISATION,
        COPY_CHECKS,
        FLOWS,
        SPEED,
        READING,
        SAVING,
        RESUMING,
        TRACKING,
        UPLOAD,
        RUNNING,
    )
    example: ClassVar[str] = (
        "--pretrained_model_name_or_path assets/tiny-sd --instance_data_dir photos"
        " --class_prompt classlevel --resolution 64 --max_train_steps 100 --output_dir run"
    )

    # A resumed run compares the model, the images and the text files by their content, so their
    # paths may change.
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
    lora_rank: int | None = flag(
        None,
        "--rank",
        kind=count(1),
        group=LORA,
        help="rank of LoRA adapters, which learn instead of all weights; 4 to 64 are usual",
        unset="full weights",
    )
    lora_alpha: float | None = flag(
        None,
        kind=real(above=0),
        group=LORA,
        help="alpha of the adapters, which are scaled by alpha / rank",
        unset="--lora_rank",
    )
    lora_layers: str | None = flag(
        None,
        group=LORA,
        help=(
            "layers of the denoiser that are adapted, by the ends of their names:"
            " to_q,to_k,to_v,to_out.0,ff.net.2"
        ),
        unset="the attention's",
    )
    lora_dropout: float = flag(
        0.0,
        kind=real(0, below=1),
        group=LORA,
        help="probability that an input of an adapter is dropped in training",
    )
    use_dora: bool = switch(
        group=LORA, help="magnitude for each output too (DoRA, Liu et al. 2024); slower"
    )
    lora_freeze_a: bool = switch(
        group=LORA,
        help=(
            "training of the factor B alone (FFA-LoRA, Sun et al. 2024): an ensemble's average is"
            " then exact"
        ),
    )
    output_kohya_format: bool = switch(
        group=LORA,
        help="a second file in each checkpoint, with the names of kohya's trainer; of U-Nets",
        may_change_on_resume=True,
    )
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
    trainspecial: str | None = flag(
        None,
        kind=one_of(TRAIN_EDITS),
        group=MITIGATIONS,
        help="caption edit at every draw of an image",
    )
    trainspecial_prob: float = flag(
        0.1,
        kind=real(0, 1),
        group=MITIGATIONS,
        help="probability that --trainspecial edits a caption; allcaps applies always",
    )
    rand_noise_lam: float = flag(
        0.0,
        kind=real(0, 1),
        group=MITIGATIONS,
        help="standard deviation of Gaussian noise on text embeddings; 0 adds none",
    )
    mixup_noise_lam: float = flag(
        0.0,
        kind=real(0),
        group=MITIGATIONS,
        help="mixup of text embeddings: parameter a of Beta(a, 1); 0 is off",
    )
    clients_num: int = flag(
        1,
        kind=count(1, MOST_IMAGES),
        group=ENSEMBLE,
        help="number of model copies, each trained on its own split of the images",
    )
    shards_by: str = flag(
        "random",
        kind=one_of(("random", "class")),
        group=ENSEMBLE,
        help="split of the images among copies; class: each split has its share of every class",
    )
    total_round: int = flag(
        1,
        kind=count(1),
        group=ENSEMBLE,
        help="number of rounds; the copies are averaged after each",
    )
    modelsaverounds: int = flag(
        5,
        kind=count(1),
        group=SAVING,
        help="number of rounds between checkpoints of an ensemble",
        may_change_on_resume=True,
    )
    trainggpu: int | None = flag(
        None,
        kind=count(1),
        group=SPEED,
        help="number of processes wanted; starts none, but prints the command that does",
        may_change_on_resume=True,
    )
    mem_ratio: float | None = flag(
        None,
        kind=real(above=0),
        group=MITIGATIONS,
        help=(
            "anti-gradient control: ratio rho; a sample whose loss is below 1/rho of the usual"
            " loss at its timestep is skipped"
        ),
        unset="off",
    )
    arr_ema_decay: float = flag(
        0.8,
        kind=real(0, below=1),
        group=MITIGATIONS,
        help="decay of the loss bank of --mem_ratio",
    )
    agc_bins: int | None = flag(
        None,
        kind=count(1, MOST_BINS),
        group=MITIGATIONS,
        help=(
            "number of classes of times in the loss bank of --mem_ratio, visited equally often;"
            " fewer suit short runs"
        ),
        unset="1000, as published",
    )
    agc_bias_correction: bool = switch(
        group=MITIGATIONS,
        help="bias correction of the loss bank of --mem_ratio: divide by 1 - decay^visits",
    )
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
    dataset_name: str | None = flag(
        None,
        group=RUNNING,
        help="label of the data, written to the record only",
        may_change_on_resume=True,
    )
    output_dir: str = flag(
        "text-inversion-model",
        kind=PATH,
        group=SAVING,
        help="folder of the run; must be new, unless the run is resumed",
        may_change_on_resume=True,
    )
    resume_from_checkpoint: str | None = flag(
        None,
        kind=PATH,
        group=RESUMING,
        help="state in --output_dir from which the run continues: latest, or a state's name",
        unset="a new run",
        may_change_on_resume=True,
    )
    seed: int | None = flag(
        None,
        kind=SEED,
        group=RUNNING,
        help="seed of everything random in training",
        unset="drawn at random, and recorded",
        may_change_on_resume=True,
    )
    generation_seed: int = flag(
        1024,
        kind=SEED,
        group=SAVING,
        help="seed of the previews",
        may_change_on_resume=True,
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
    train_batch_size: int = flag(
        4,
        kind=count(1, MOST_AT_ONCE),
        group=OPTIMISATION,
        help="number of images per process and micro-batch",
    )
    sample_batch_size: int = flag(
        4,
        kind=count(1, MOST_AT_ONCE),
        group=SAVING,
        help=(
            "number of images in a preview grid, of prompts of the training images, and of class"
            " images that are generated at once"
        ),
        may_change_on_resume=True,
    )
    validation_prompt: tuple[str, ...] = flag(
        (),
        repeat=True,
        group=SAVING,
        help="prompt of one more image of every preview grid; the flag may be repeated",
        unset="prompts of the training images alone",
        may_change_on_resume=True,
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
    save_steps: int = flag(
        500,
        kind=count(1),
        group=SAVING,
        help="number of optimizer steps between preview grids",
        may_change_on_resume=True,
    )
    modelsavesteps: int = flag(
        1000,
        kind=count(1),
        group=SAVING,
        help="number of optimizer steps between checkpoints",
        may_change_on_resume=True,
    )
    state_steps: int | None = flag(
        None,
        kind=count(1),
        group=RESUMING,
        help="number of optimizer steps between states from which a run can be resumed",
        unset="--modelsavesteps",
        may_change_on_resume=True,
    )
    checkpoints_total_limit: int = flag(
        1,
        kind=count(1),
        group=RESUMING,
        help="number of states to keep; older ones are deleted, checkpoints never",
        may_change_on_resume=True,
    )
    log_steps: int = flag(
        10,
        kind=count(1),
        group=SAVING,
        help="number of optimizer steps between rows of metrics.jsonl",
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
    gradient_checkpointing: bool = switch(
        group=SPEED,
        help="gradient checkpointing: less memory, activations are computed twice",
        may_change_on_resume=True,
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
    weighting_scheme: str | None = flag(
        None,
        kind=one_of(WEIGHTING_SCHEMES),
        group=FLOWS,
        help=(
            "times of flow matching: logit_normal and mode draw them unevenly, sigma_sqrt and"
            " cosmap weigh their losses"
        ),
        unset="as published: logit_normal for SD 3, none for Flux",
    )
    logit_mean: float | None = flag(
        None,
        kind=real(),
        group=FLOWS,
        help="mean of --weighting_scheme logit_normal; above 0 draws less noise",
        unset="0",
    )
    logit_std: float | None = flag(
        None,
        kind=real(above=0),
        group=FLOWS,
        help="standard deviation of --weighting_scheme logit_normal",
        unset="1",
    )
    mode_scale: float | None = flag(
        None,
        kind=real(*MODE_SCALES),
        group=FLOWS,
        help="scale of --weighting_scheme mode; 0 draws evenly",
        unset="1.29",
    )
    timestep_shift: float | str | None = flag(
        None,
        kind=number_or("auto", "none", above=0),
        group=FLOWS,
        help=(
            "shift of the drawn times to more noise, by this factor; auto: as the model samples"
            " images of this resolution"
        ),
        unset="auto",
    )
    max_sequence_length: int | None = flag(
        None,
        kind=count(1, MOST_TOKENS),
        group=FLOWS,
        help="number of tokens of a caption that T5 reads, in training and of the run's images",
        unset="256 for SD 3, 512 for Flux",
    )
    guidance_scale: float | None = flag(
        None,
        kind=real(0),
        group=FLOWS,
        help="guidance scale with which a guidance-distilled network is trained (Flux.1-dev)",
        unset="1",
    )
    use_ema: bool = switch(
        group=OPTIMISATION,
        help="moving average of the weights (decay 0.9999); checkpoints then hold the average",
    )
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
    copy_check_guidance: float = flag(
        7.5,
        kind=real(0),
        group=COPY_CHECKS,
        help="scale of classifier-free guidance in a check; 1 or less turns guidance off",
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
    cache_latents: str = flag(
        "auto",
        kind=one_of(("auto", "off")),
        group=SPEED,
        help=(
            "cache of the frozen networks' outputs beside the run, where that saves time; off:"
            " they are computed at every step"
        ),
        may_change_on_resume=True,
    )
    compile: bool = switch(
        group=SPEED,
        help="compilation of the trained networks (torch.compile)",
        may_change_on_resume=True,
    )
    logging_dir: str = flag(
        "logs",
        kind=PATH,
        group=TRACKING,
        help="folder of tensorboard, inside the run's folder",
        may_change_on_resume=True,
    )
    local_rank: int = flag(
        -1,
        "--local-rank",
        kind=count(-1),
        group=SPEED,
        help="number of this process on its machine, as old launchers pass it; -1: not given",
        may_change_on_resume=True,
    )
    push_to_hub: bool = switch(
        group=UPLOAD, help="upload of the final checkpoint to the hub", may_change_on_resume=True
    )
    hub_token: str | None = flag(
        None,
        group=UPLOAD,
        help="token of the hub; never written anywhere",
        unset="the token of this machine's login",
        may_change_on_resume=True,
        secret=True,
    )
    hub_model_id: str | None = flag(
        None,
        group=UPLOAD,
        help="name on the hub: owner/name",
        unset="the name of --output_dir",
        may_change_on_resume=True,
    )

    @property
    def optimizer_name(self) -> str:
        """The optimizer of the run, by --optimizer or --use_8bit_adam."""
        return self.optimizer or ("adamw8bit" if self.use_8bit_adam else "adamw")

    def check(self) -> None:
        self._check_base_model()
        self._check_captions()
        self._check_caption_edit()
        self._check_instance_prompt()
        self._check_caption_template()
        self._check_duplication()
        self._check_learning_rate()
        self._check_optimizer()
        self._check_text_encoder_rate()
        self._check_lora()
        self._check_loss_bank()
        self._check_copy_checks()
        self._check_prior_preservation()
        self._check_output_preservation()
        self._check_upload()

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

    def _check_caption_edit(self) -> None:
        if self.trainspecial and not PROMPT_STYLES[self.class_prompt].needs_captions:
            accepted = [name for name, style in PROMPT_STYLES.items() if style.needs_captions]
            raise UsageError(
                f"--trainspecial={self.trainspecial!r} edits captions;"
                f" --class_prompt={self.class_prompt!r} has none; use --class_prompt"
                f" {' or '.join(accepted)}"
            )

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

    def _check_lora(self) -> None:
        names = ("lora_alpha", "lora_layers", "lora_dropout", "use_dora", "lora_freeze_a")
        if self.lora_rank is None:
            given = flags.given(self, (*names, "output_kohya_format"))
            if given:
                raise UsageError(
                    f"--{given[0]}={getattr(self, given[0])!r} is a setting of LoRA; give"
                    " --lora_rank too, such as --lora_rank 16"
                )
            return
        if self.unet_from_scratch == "yes":
            raise UsageError(
                f"--lora_rank={self.lora_rank} and --unet_from_scratch=yes: an adapter needs the"
                " model that it changes; leave one of them out"
            )
        if self.tokenizer_name:
            raise UsageError(
                f"--lora_rank={self.lora_rank} and --tokenizer_name={self.tokenizer_name!r}: a"
                " checkpoint of LoRA holds no tokenizer; save the base model with that tokenizer,"
                " and leave the flag out"
            )
        if self.output_kohya_format and self.use_dora:
            raise UsageError(
                "--output_kohya_format and --use_dora: programs do not agree on names for DoRA's"
                " magnitudes; leave one of them out"
            )

    def _check_loss_bank(self) -> None:
        if self.agc_bias_correction and not self.mem_ratio:
            raise UsageError(
                "--agc_bias_correction corrects the loss bank of --mem_ratio; give --mem_ratio too"
            )

    def _check_copy_checks(self) -> None:
        if self.stop_at_copy_share is not None and self.copy_check_steps is None:
            raise UsageError(
                f"--stop_at_copy_share={self.stop_at_copy_share!r} is a limit of what checks of"
                " copies find; give --copy_check_steps too"
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

    def _require_pretrained(self, name: str) -> None:
        if self.unet_from_scratch == "yes":
            raise UsageError(
                f"{name} preserves what the base model knows, and --unet_from_scratch=yes starts"
                " from random weights; leave one of them out"
            )

    def _check_upload(self) -> None:
        if not self.push_to_hub and (self.hub_model_id or self.hub_token):
            name = "--hub_model_id" if self.hub_model_id else "--hub_token"
            raise UsageError(f"{name} is used with --push_to_hub; give both or neither")
