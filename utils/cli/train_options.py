"""The flags of diff_train.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from utils.cli.common_options import CommonOptions, ReadingOptions, TrackingOptions
from utils.cli.flags import flag, one_of, real, switch, whole
from utils.data.caption_edits import TRAIN_EDITS
from utils.data.captions import PROMPT_STYLES
from utils.data.duplication import DUPLICATIONS
from utils.runtime.errors import UsageError

LR_SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(CommonOptions, ReadingOptions, TrackingOptions):
    """diff_train.py"""

    script: ClassVar[str] = "diff_train.py"

    # the model, the images and the text files are compared by what they hold, so they may have
    # moved
    pretrained_model_name_or_path: str = flag(
        help="base model: a pipeline folder or a hub name", free=True
    )
    revision: str = flag(None, help="revision of a hub model", free=True)
    tokenizer_name: str = flag(
        None, help="tokenizer, if it is not the model's own: a folder or a hub name"
    )
    unet_from_scratch: str = flag(
        "no", kind=one_of(("yes", "no")), help="yes: the base model's architecture, untrained"
    )
    train_text_encoder: bool = switch(help="train the text encoder too")
    instance_data_dir: str = flag(
        help="training images: a folder (a folder a class below it, or flat) or tar shards",
        free=True,
    )
    instance_prompt_loc: str = flag(
        None, help="captions: JSON, image path -> list of captions, or metadata.jsonl", free=True
    )
    class_prompt: str = flag(
        "nolevel", kind=one_of(PROMPT_STYLES), help="conditioning: which prompt an image has"
    )
    duplication: str = flag(
        "nodup", kind=one_of(DUPLICATIONS), help="how duplicated images are drawn"
    )
    weight_pc: float = flag(0.05, kind=real(0, 1), help="share of images that are duplicated")
    dup_weight: float = flag(
        5.0, kind=real(above=0), help="weight of a duplicated image in the draw"
    )
    weights_file: str = flag(
        None, help="JSON, image path -> weight in the draw; with --duplication nodup", free=True
    )
    trainsubset: float = flag(
        None, kind=real(above=0, high=1), help="share of the images to train on"
    )
    trainspecial: str = flag(
        None, kind=one_of(TRAIN_EDITS), help="train-time mitigation on captions"
    )
    trainspecial_prob: float = flag(0.1, kind=real(0, 1), help="how often --trainspecial applies")
    rand_noise_lam: float = flag(
        0.0, kind=real(0, 1), help="Gaussian noise on text embeddings, its standard deviation"
    )
    mixup_noise_lam: float = flag(
        0.0, kind=real(0), help="mixup of text embeddings: a of Beta(a, 1); 0 is off"
    )
    clients_num: int = flag(
        1, kind=whole(1), help="copies of the model, each with a shard of the images; 1 is ordinary"
    )
    total_round: int = flag(1, kind=whole(1), help="rounds; after each the copies are averaged")
    modelsaverounds: int = flag(
        5, kind=whole(1), help="rounds between checkpoints of an ensemble", free=True
    )
    trainggpu: int = flag(
        None, kind=whole(1), help="processes that are wanted; starts none, says how to", free=True
    )
    mem_ratio: float = flag(
        None,
        kind=real(above=0),
        help="anti-gradient control: rho, drops losses below 1/rho of usual",
    )
    arr_ema_decay: float = flag(0.8, kind=real(0, 1), help="decay of the loss bank of --mem_ratio")
    agc_bias_correction: bool = switch(help="divide the loss bank by 1 - decay^visits")
    dataset_name: str = flag(None, help="a label, kept in the record", free=True)
    output_dir: str = flag("text-inversion-model", help="the run's folder, new", free=True)
    resume_from_checkpoint: str = flag(
        None, help="continue the run in --output_dir: latest, or one of its states", free=True
    )
    seed: int = flag(
        None,
        kind=whole(0),
        help="seed of everything random in training; drawn and recorded when unset",
        free=True,
    )
    generation_seed: int = flag(1024, kind=whole(0), help="seed of the previews", free=True)
    resolution: int = flag(512, kind=whole(8), help="side of training images in pixels")
    center_crop: bool = switch(help="crop the centre instead of a random window")
    random_flip: bool = switch(help="mirror half of the draws")
    train_batch_size: int = flag(4, kind=whole(1), help="images per process and micro-batch")
    sample_batch_size: int = flag(4, kind=whole(1), help="images of a preview grid", free=True)
    num_train_epochs: int = flag(
        1, kind=whole(1), help="epochs, when --max_train_steps is unset", free=True
    )
    max_train_steps: int = flag(
        None, kind=whole(1), help="optimizer steps of a copy, per round", free=True
    )
    save_steps: int = flag(
        500, kind=whole(1), help="optimizer steps between preview grids", free=True
    )
    modelsavesteps: int = flag(
        1000, kind=whole(1), help="optimizer steps between checkpoints", free=True
    )
    state_steps: int = flag(
        None,
        kind=whole(1),
        help="optimizer steps between states to resume from; else --modelsavesteps",
        free=True,
    )
    checkpoints_total_limit: int = flag(
        1, kind=whole(1), help="states that are kept; checkpoints always are", free=True
    )
    log_steps: int = flag(
        10, kind=whole(1), help="optimizer steps between rows of metrics.jsonl", free=True
    )
    gradient_accumulation_steps: int = flag(
        1, kind=whole(1), help="micro-batches per optimizer step"
    )
    gradient_checkpointing: bool = switch(
        help="compute activations twice to hold fewer of them", free=True
    )
    learning_rate: float = flag(5e-6, kind=real(above=0), help="AdamW learning rate")
    scale_lr: bool = switch(help="multiply the learning rate by the images of an optimizer step")
    lr_scheduler: str = flag("constant", kind=one_of(LR_SCHEDULERS), help="learning-rate schedule")
    lr_warmup_steps: int = flag(500, kind=whole(0), help="optimizer steps of warm-up")
    use_8bit_adam: bool = switch(help="AdamW with 8-bit moments (needs bitsandbytes)")
    adam_beta1: float = flag(0.9, kind=real(0, 1), help="AdamW")
    adam_beta2: float = flag(0.999, kind=real(0, 1), help="AdamW")
    adam_weight_decay: float = flag(1e-2, kind=real(0), help="AdamW")
    adam_epsilon: float = flag(1e-8, kind=real(above=0), help="AdamW")
    max_grad_norm: float = flag(1.0, kind=real(above=0), help="gradient norm is clipped to this")
    snr_gamma: float = flag(
        None, kind=real(above=0), help="Min-SNR weights of losses (Hang et al. 2023); 5 is usual"
    )
    use_ema: bool = switch(
        help="average the weights over steps (0.9999); checkpoints then hold the average"
    )
    cache_latents: str = flag(
        "auto",
        kind=one_of(("auto", "off")),
        help="keep what the frozen networks compute beside the run; off: compute it at every step",
        free=True,
    )
    compile: bool = switch(help="compile the networks in training (torch.compile)", free=True)
    logging_dir: str = flag("logs", help="tensorboard's folder inside the run", free=True)
    local_rank: int = flag(
        -1,
        "--local-rank",
        kind=whole(-1),
        help="this process on its machine, as old launchers pass it",
        free=True,
    )
    push_to_hub: bool = switch(help="upload the final checkpoint", free=True)
    hub_token: str = flag(
        None, help="token of the hub; never written anywhere", free=True, secret=True
    )
    hub_model_id: str = flag(
        None, help="owner/name on the hub; else the name of --output_dir", free=True
    )

    def check(self):
        from utils.data.tar_shards import is_shards

        captions_of = "instancelevel_blip", "instancelevel_ogcap"
        inside = (
            is_shards(self.instance_data_dir)
            or (Path(self.instance_data_dir) / "metadata.jsonl").is_file()
        )
        if self.class_prompt in captions_of and not self.instance_prompt_loc and not inside:
            raise UsageError(
                f"--class_prompt={self.class_prompt!r} needs --instance_prompt_loc, a captions JSON"
            )
        if self.trainspecial and self.class_prompt not in captions_of:
            raise UsageError(
                f"--trainspecial={self.trainspecial!r} edits captions;"
                f" --class_prompt={self.class_prompt!r} has none, use one of:"
                f" {', '.join(captions_of)}"
            )
        if self.duplication == "dup_image" and self.class_prompt == "instancelevel_ogcap":
            raise UsageError(
                "--duplication='dup_image' draws among captions;"
                " --class_prompt='instancelevel_ogcap' has one an image, use one of: nodup,"
                " dup_both"
            )
        for name in ("adam_beta1", "adam_beta2", "arr_ema_decay"):
            if getattr(self, name) >= 1:
                raise UsageError(
                    f"--{name}={getattr(self, name)!r} is not accepted; takes a number from 0 to"
                    " below 1"
                )
        if self.weights_file and self.duplication != "nodup":
            raise UsageError(
                f"--weights_file={self.weights_file!r} and --duplication={self.duplication!r} both"
                " weigh the draw; takes --duplication nodup"
            )
        if self.lr_scheduler == "polynomial" and self.learning_rate <= 1e-7:
            raise UsageError(
                f"--learning_rate={self.learning_rate!r} is below 1e-7, where --lr_scheduler"
                " polynomial ends; takes more"
            )
        if self.agc_bias_correction and not self.mem_ratio:
            raise UsageError(
                "--agc_bias_correction corrects the loss bank of --mem_ratio; give that too"
            )
        if not self.push_to_hub and (self.hub_model_id or self.hub_token):
            given = "--hub_model_id" if self.hub_model_id else "--hub_token"
            raise UsageError(f"{given} is used with --push_to_hub; give both or neither")
