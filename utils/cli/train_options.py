"""The flags of diff_train.py: those of its groups, and what belongs to none of them."""

from dataclasses import dataclass
from typing import ClassVar

from utils.cli.base_model_options import BaseModelOptions
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
from utils.cli.copy_check_options import COPY_CHECKS, CopyCheckOptions
from utils.cli.flags import flag, switch
from utils.cli.flow_options import FLOWS, FlowOptions
from utils.cli.kinds import PATH, SEED, count, one_of
from utils.cli.lora_options import LORA, LoraOptions
from utils.cli.optimisation_options import OPTIMISATION, OptimisationOptions
from utils.cli.preservation_options import PRESERVATION, PreservationOptions
from utils.cli.saving_options import RESUMING, SAVING, UPLOAD, SavingOptions
from utils.cli.train_mitigation_options import (
    ENSEMBLE,
    MITIGATIONS,
    TrainMitigationOptions,
)
from utils.cli.training_data_options import CONDITIONING, DATA, TrainingDataOptions

# the flags of version 0.1.0, in whose order run.json lists them for ever
FIRST_VERSION = """
report_to wandb_project num_workers max_bad_images dry_run mixed_precision run_name
pretrained_model_name_or_path revision tokenizer_name unet_from_scratch
train_text_encoder instance_data_dir instance_prompt_loc class_prompt duplication
weight_pc dup_weight weights_file trainsubset trainspecial trainspecial_prob
rand_noise_lam mixup_noise_lam clients_num total_round modelsaverounds trainggpu
mem_ratio arr_ema_decay agc_bias_correction dataset_name output_dir
resume_from_checkpoint seed generation_seed resolution center_crop random_flip
train_batch_size sample_batch_size num_train_epochs max_train_steps save_steps
modelsavesteps state_steps checkpoints_total_limit log_steps gradient_accumulation_steps
gradient_checkpointing learning_rate scale_lr lr_scheduler lr_warmup_steps use_8bit_adam
adam_beta1 adam_beta2 adam_weight_decay adam_epsilon max_grad_norm snr_gamma use_ema
cache_latents compile logging_dir local_rank push_to_hub hub_token hub_model_id
"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    LoraOptions,
    TrainMitigationOptions,
    PreservationOptions,
    OptimisationOptions,
    BaseModelOptions,
    TrainingDataOptions,
    CopyCheckOptions,
    FlowOptions,
    SavingOptions,
    CommonOptions,
    ReadingOptions,
    ColumnOptions,
    TrackingOptions,
    ModelOptions,
):
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
    recorded_first: ClassVar[tuple[str, ...]] = tuple(FIRST_VERSION.split())
    example: ClassVar[str] = (
        "--pretrained_model_name_or_path assets/tiny-sd --instance_data_dir photos"
        " --class_prompt classlevel --resolution 64 --max_train_steps 100 --output_dir run"
    )

    trainggpu: int | None = flag(
        None,
        kind=count(1),
        group=SPEED,
        help="number of processes wanted; starts none, but prints the command that does",
        may_change_on_resume=True,
    )
    dataset_name: str | None = flag(
        None,
        group=RUNNING,
        help="label of the data, written to the record only",
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
    gradient_checkpointing: bool = switch(
        group=SPEED,
        help="gradient checkpointing: less memory, activations are computed twice",
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
