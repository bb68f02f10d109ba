import json

import pytest

from tests.conftest import SEED_FLAGS
from tests.training.conftest import needs_prodigy
from utils.data.encoder_window import Window
from utils.training import start_notes
from utils.training.optimisation import Adam, Optimisation, Schedule


@pytest.fixture
def train(script, micro_sd, scenes_dir, tmp_path):
    """train(*flags) -> (what the run printed, its run.json)."""

    def run(*flags):
        out = script(
            "diff_train",
            *("--pretrained_model_name_or_path", micro_sd),
            *("--instance_data_dir", scenes_dir / "train"),
            *("--instance_prompt_loc", scenes_dir / "captions.json"),
            *("--class_prompt", "instancelevel_blip", "--resolution", 16, "--seed", 1),
            *("--max_train_steps", 2, "--train_batch_size", 2, "--output_dir", tmp_path / "run"),
            *SEED_FLAGS,
            *flags,
        )
        return out, json.loads((tmp_path / "run" / "run.json").read_text())

    return run


def optimised(name, warmup, steps):
    return Optimisation(Adam(2e-3), Schedule(name, warmup, steps))


@pytest.mark.parametrize("name", ["constant_with_warmup", "linear", "cosine"])
def test_a_warm_up_that_outlasts_the_run_is_said_with_the_rate_that_is_reached(name):
    line = start_notes.warmup_unfinished(optimised(name, 50, 10))
    # the tenth step has 9/50 of the rate
    assert "--lr_warmup_steps=50 " in line
    assert "reaches 0.00036, 18 % of 0.002" in line
    assert start_notes.warmup_unfinished(optimised(name, 50, 51)) is None


def test_a_constant_rate_has_no_warm_up_to_outlast():
    assert start_notes.warmup_unfinished(optimised("constant", 500, 10)) is None


def test_a_run_says_that_its_warm_up_is_not_over(train):
    flags = ("--lr_scheduler", "constant_with_warmup", "--learning_rate", "5e-6")
    out, _ = train(*flags, "--lr_warmup_steps", 5000)
    lines = [line for line in out.splitlines() if "lr_warmup_steps" in line]
    assert len(lines) == 1
    assert "5000 is not over after the 2 steps" in lines[0]
    assert "reaches 1e-09, 0.02 % of 5e-06" in lines[0]


def test_captions_that_the_encoder_does_not_read_whole_are_counted_once(micro_parts):
    tokenizer = micro_parts().tokenizer  # a token is a letter, and 30 letters are read
    prompts = {"0.png": ["a" * 31, "a" * 30], "1.png": ["a" * 31, "b" * 40]}
    count, line = start_notes.captions_cut(prompts, Window(tokenizer, 32))
    assert count == 2
    assert line.startswith("2 of 3 captions are longer than the 32 tokens")
    assert start_notes.captions_cut({"0.png": ["a"]}, Window(tokenizer, 32)) == (0, None)


def test_a_run_says_how_many_captions_are_cut_and_records_it(train, scenes_dir):
    captions = json.loads((scenes_dir / "captions.json").read_text())
    texts = {text.replace(" ", "") for listed in captions.values() for text in listed}
    long = sum(len(text) > 30 for text in texts)
    out, record = train()
    lines = [line for line in out.splitlines() if "the text encoder reads" in line]
    assert len(lines) == 1
    assert record["captions_cut"] == long
    assert lines[0].startswith(f"{long} of ")


def test_a_run_takes_the_precision_of_accelerate_launch_says_so_and_records_it(train, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_LOG_LEVEL", "debug")
    out, record = train()
    assert record["options"]["mixed_precision"] == "bf16"
    assert "--mixed_precision=bf16, as accelerate launch says" in out
    assert "not used: ACCELERATE_LOG_LEVEL=debug;" in out


def test_published_defaults_that_do_not_fit_the_model_are_said(
    script, tiny_sd, scenes_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = (
        *("--pretrained_model_name_or_path", tiny_sd, "--instance_data_dir", scenes_dir / "train"),
        "--dry_run",
    )
    script("diff_train", *flags)
    out = script.noticed
    assert "--resolution=512, the default: the model was made for 64 px" in out
    assert "the run goes to 'text-inversion-model'" in out
    script("diff_train", *flags, "--resolution", 64, "--output_dir", "run")
    out = script.noticed
    assert "made for" not in out
    assert "the run goes to" not in out
    assert "is a factor" not in out


@needs_prodigy
def test_a_factor_that_leaves_prodigy_no_rate_is_said(script, tiny_sd, scenes_dir):
    flags = (
        *("--pretrained_model_name_or_path", tiny_sd, "--instance_data_dir", scenes_dir / "train"),
        *("--dry_run", "--optimizer", "prodigy"),
    )
    script("diff_train", *flags)
    assert "--learning_rate=5e-06 is a factor on" in script.noticed
    script("diff_train", *flags, "--learning_rate", 1)
    assert "is a factor" not in script.noticed


@pytest.mark.parametrize(
    "flags", [("--trainspecial", "allcaps"), ("--duplication", "dup_image", "--weight_pc", 0.5)]
)
def test_a_choice_among_captions_says_when_each_image_has_one(train, scenes_dir, tmp_path, flags):
    texts = json.loads((scenes_dir / "captions.json").read_text())
    (tmp_path / "one.json").write_text(
        json.dumps({str(scenes_dir / k): t[:1] for k, t in texts.items()})
    )
    out, _ = train(*flags, "--instance_prompt_loc", tmp_path / "one.json")
    assert f"{flags[0]}={flags[1]!r}: no other caption is drawn, because each of the 12 im" in out
    several = start_notes.one_caption_each({"a": ["x"], "b": ["x", "y"]}, ["--trainspecial='a'"])
    assert several is None
    assert start_notes.one_caption_each({"a": ["x"]}, []) is None


def test_mixup_of_equal_prompts_is_said():
    def line(prompts, **changed):
        settings = {"mixup": 0.4, "dropout": 0.0, "batch": 4} | changed
        return start_notes.mixed_with_itself(prompts, **settings)

    one, two = {"a": ["An image"], "b": ["An image"]}, {"a": ["x"], "b": ["y"]}
    assert "--mixup_noise_lam=0.4 has no effect: all images have the prompt 'An image'" in line(one)
    assert "is its own partner; use --train_batch_size 2" in line(two, batch=1)
    assert line(one, dropout=0.1) is None
    assert line(two) is None
    assert line(one, mixup=0.0) is None


def test_bins_that_are_visited_too_rarely_are_said():
    line = start_notes.bins_rarely_visited(1000, 6000)
    assert "each of the 1000 bins of the loss bank is visited 6 times" in line
    assert "use --agc_bins 60," in line
    assert start_notes.bins_rarely_visited(600, 6000) is None
    assert "--agc_bins 1," in start_notes.bins_rarely_visited(1000, 8)


def test_what_computes_in_float32_beside_half_precision_is_said():
    line = start_notes.computed_in_float32(["vae", "text_encoder_3"], "fp16")
    assert line.startswith("--mixed_precision=fp16: computed in float32, because")
    assert line.endswith(": vae, text_encoder_3")
    assert start_notes.computed_in_float32([], "bf16") is None
