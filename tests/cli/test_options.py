"""What holds for the flags of every script: their records, their page of --help and their types."""

import dataclasses
import re
import shlex
import types
import typing

import pytest

from utils.cli import flags
from utils.cli.captioning_options import CaptioningOptions
from utils.cli.generation_options import GenerationOptions, MitigationOptions
from utils.cli.kinds import PATH, SWITCH
from utils.cli.retrieval_options import RetrievalOptions
from utils.cli.scenes_options import ScenesOptions
from utils.cli.train_options import TrainOptions
from utils.models import scheduler_names
from utils.retrieval.descriptors import timm_models
from utils.runtime.errors import UsageError

SCRIPTS = (
    TrainOptions,
    GenerationOptions,
    MitigationOptions,
    RetrievalOptions,
    ScenesOptions,
    CaptioningOptions,
)
# Keys of records on disk, in their order: run.json of version 0.1.0 must be understood for ever.
# New flags may stand among them.
GENERATION = """
    report_to wandb_project dry_run mixed_precision run_name modelpath
    pretrained_model_name_or_path dataset capstyle captoken nbatches im_batch prompts prompt
    instance_prompt_loc negative_prompt resolution iternum num_inference_steps
    guidance_scale scheduler rand_noise_lam rand_augs rand_aug_repeats cfg_start cfg_before
    lora seed batch_size compile num_workers savepath
"""
RECORDED = {
    TrainOptions: """
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
""",
    GenerationOptions: GENERATION,
    MitigationOptions: f"{GENERATION} compare",
    RetrievalOptions: """
    report_to wandb_project num_workers max_bad_images dry_run mixed_precision run_name
    query_dir val_dir pt_style arch preset weights imsize multiscale isvit layer keephead
    keeppredictor similarity_metric num_loss_chunks stype einsum_chunks copy_threshold
    metrics fid_weights fid_protocol fd_extractor clip_model clip_pretrained clip_protocol
    val_captions mq_size mq_flip run seed num_matches dontsave sim_save_path noeval
    output_dir cache_dir build_index ann dedup compare_runs force batch_size gpu world_size
    rank dist_url dist_backend multiprocessing_distributed
""",
    ScenesOptions: "out count seed size",
    CaptioningOptions: """
    num_workers max_bad_images instance_data_dir out instance_prompt_loc captioner num_captions
    top_p min_length max_length seed batch_size mixed_precision dry_run
""",
}
# the least that a script takes
LEAST = {
    TrainOptions: ("--pretrained_model_name_or_path", "m", "--instance_data_dir", "d"),
    GenerationOptions: ("-nb", "1"),
    MitigationOptions: (),
    RetrievalOptions: ("--query_dir", "q", "--val_dir", "v"),
    ScenesOptions: ("--out", "o"),
    CaptioningOptions: ("--instance_data_dir", "d", "--out", "c.json"),
}
scripts = pytest.mark.parametrize("options", SCRIPTS, ids=lambda options: options.__name__)


def parse(options, argv):
    return flags.parse(options, argv, description="")


@scripts
def test_records_keep_the_keys_and_the_order_of_the_first_version(options):
    keys, expected = list(flags.as_dict(parse(options, LEAST[options]))), RECORDED[options].split()
    assert [key for key in keys if key in expected] == expected


@scripts
def test_the_example_of_help_is_accepted(options):
    assert options.example
    assert parse(options, shlex.split(options.example)) != parse(options, LEAST[options])
    assert options.example.split()[-1] in flags.build_parser(options, description="").epilog


@scripts
def test_every_flag_stands_in_a_titled_group_that_the_script_lists(options):
    groups = {field.name: field.metadata["group"] for field in dataclasses.fields(options)}
    assert {name for name, group in groups.items() if group not in options.groups} == set()
    assert set(options.groups) == set(groups.values())


def accepts_none(annotation):
    return isinstance(annotation, types.UnionType) and type(None) in typing.get_args(annotation)


@scripts
def test_a_field_may_be_none_exactly_where_its_flag_has_no_default(options):
    hints = typing.get_type_hints(options)
    assert {f.name for f in dataclasses.fields(options) if accepts_none(hints[f.name])} == {
        f.name for f in dataclasses.fields(options) if f.default is None
    }


@scripts
def test_help_shows_of_every_flag_what_is_accepted_and_the_default(options):
    page = flags.build_parser(options, description="")
    shown = {action.dest: action for action in page._actions}
    for field in dataclasses.fields(options):
        kind, action = field.metadata["kind"], shown[field.name]
        assert kind is SWITCH or action.metavar == kind.metavar
        notes = action.help.removeprefix(field.metadata["help"])
        assert kind.bounds in notes
        assert ("(required)" in notes) != ("default: " in notes)


@scripts
def test_a_help_text_begins_with_a_noun_in_lower_case_and_leaves_the_default_to_the_notes(options):
    for field in dataclasses.fields(options):
        text = field.metadata["help"]
        assert "default" not in text
        assert not text.endswith(".")
        assert text[0].islower() or text.split()[0] in ("AdamW", "LoRA")


def test_help_lists_the_names_of_schedulers_and_of_dinos_networks():
    def text(options, name):
        return {f.name: f for f in dataclasses.fields(options)}[name].metadata["help"]

    for name in (*scheduler_names.DENOISING, *scheduler_names.FLOW_MATCHING):
        assert name in text(GenerationOptions, "scheduler")
    assert all(name in text(RetrievalOptions, "arch") for name in timm_models.DINO)


def flags_of(options, accepts):
    """Names of the flags of a kind that holds `accepts`."""
    return [f.name for f in dataclasses.fields(options) if accepts(f.metadata["kind"])]


def given_beside_the_least(options, name, value):
    least = list(LEAST[options])
    if f"--{name}" in least:
        at = least.index(f"--{name}")
        least = [*least[:at], *least[at + 2 :]]
    return [*least, f"--{name}={value}"]


@scripts
def test_every_number_that_no_plan_can_hold_is_refused_with_the_limit(options):
    numbers = flags_of(options, lambda kind: kind.metavar == "N")
    assert numbers
    for name in numbers:
        for value in ("99999999999999999999", "9" * 5000):
            with pytest.raises(UsageError) as error:
                parse(options, given_beside_the_least(options, name, value))
            message = str(error.value)
            assert message.startswith(f"--{name}='99999999999999999999")
            assert re.search(r"at most \d+$| to \d+$", message)
            assert len(message) < 400


@scripts
def test_every_path_that_cannot_be_looked_up_is_refused_with_its_flag_and_the_reason(
    options, tmp_path
):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    paths = flags_of(options, lambda kind: kind is PATH)
    assert paths
    for name in paths:
        for value, reason in (("a" * 5000, "File name too long"), (tmp_path / "loop", "links")):
            with pytest.raises(UsageError) as error:
                parse(options, given_beside_the_least(options, name, value))
            assert str(error.value).startswith(f"--{name}='")
            assert reason in str(error.value)
            assert len(str(error.value)) < 400


@scripts
def test_a_tilde_is_expanded_in_every_path_and_recorded_so(options, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(options, "check", lambda self: None)
    for name in flags_of(options, lambda kind: kind is PATH):
        recorded = flags.as_dict(parse(options, given_beside_the_least(options, name, "~/x")))[name]
        assert recorded in (str(tmp_path / "x"), [str(tmp_path / "x")])
