import functools
import importlib.util
import json
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, SEED_FLAGS
from tests.training.conftest import MITIGATIONS_OFF
from utils.cli import train_mitigation_options, train_options
from utils.data import caption_edits, duplication
from utils.runtime import seeding
from utils.runtime.errors import UsageError
from utils.training import train_mitigations
from utils.training.step_random import StepRandom


def hooks(tokenizer, style="nodup", **changes):
    return train_mitigations.train_hooks(
        train_mitigations.chosen(MITIGATIONS_OFF | changes),
        choice=duplication.DUPLICATIONS[style],
        tokenizer=tokenizer,
    )


def test_without_mitigation_nothing_is_edited(micro_parts):
    plain = hooks(micro_parts().tokenizer)
    assert plain.choose_caption(["own", "other"], True, np.random.default_rng(0)) == "own"
    text = {"tokens": torch.randn(2, 3, 4)}
    assert plain.edit_text(text, None, ()) is text


def test_a_duplicated_image_draws_its_caption_and_then_the_mitigation_applies(micro_parts):
    both = hooks(
        micro_parts().tokenizer, style="dup_image", trainspecial="wordrepeat", trainspecial_prob=1.0
    )
    drawn = [
        both.choose_caption(["own one", "other two"], True, np.random.default_rng(i))
        for i in range(40)
    ]
    assert any("other" in d for d in drawn)
    assert any("own" in d for d in drawn)
    assert all(len(d.split()) == 4 for d in drawn)
    plain = [
        both.choose_caption(["own one", "other two"], False, np.random.default_rng(i))
        for i in range(40)
    ]
    assert not any("other" in d for d in plain)


def test_the_empty_prompt_is_possible_where_captions_are_dropped(micro_parts):
    for dropout, expected in ((0.0, {"own"}), (0.1, {"own", ""})):
        made = train_mitigations.train_hooks(
            [],
            choice=duplication.DUPLICATIONS["nodup"],
            tokenizer=micro_parts().tokenizer,
            dropout=dropout,
        )
        assert set(made.prompts(["own", "other"])) == expected


def test_embeddings_are_mixed_and_then_noised_and_pooled_ones_are_mixed(micro_parts):
    own = {"tokens": torch.tensor([[[4.0]]]), "pooled": torch.tensor([[4.0]])}
    partner = {"tokens": torch.tensor([[[8.0]]]), "pooled": torch.tensor([[16.0]])}
    noise = torch.tensor([[[10.0]]])
    both = hooks(micro_parts().tokenizer, rand_noise_lam=0.1, mixup_noise_lam=0.5)
    found = both.edit_text(own, partner, (0.75, noise))
    # 0.75 * 4 + 0.25 * 8 + 0.1 * 10
    torch.testing.assert_close(found["tokens"], torch.tensor([[[6.0]]]))
    torch.testing.assert_close(found["pooled"], torch.tensor([[7.0]]))  # 0.75 * 4 + 0.25 * 16


def test_captions_that_can_be_returned_are_listed_where_no_text_is_new(micro_parts):
    tokenizer, captions = micro_parts().tokenizer, ["own", "second", "third"]

    def possible(**changes):
        prompts = hooks(tokenizer, **changes).prompts
        return None if prompts is None else sorted(set(prompts(captions)))

    assert possible() == ["own"]
    assert possible(style="dup_image") == sorted(captions)
    assert possible(trainspecial="allcaps") == sorted(captions)
    assert possible(trainspecial="randwordadd") is None


def test_random_values_are_drawn_in_the_order_of_the_registry_from_their_streams(micro_parts):
    both = hooks(micro_parts().tokenizer, rand_noise_lam=0.1, mixup_noise_lam=0.5)
    ratio, noise = both.draw(StepRandom(7, 1, 4, [2, 5]), (3, 2))
    assert ratio == float(seeding.numpy_rng(7, "mixup", 1, 4, 1).beta(0.5, 1))
    for row, slot in enumerate((2, 5)):
        generator = seeding.torch_generator(7, "noise", 1, 4, slot)
        assert torch.equal(noise[row], torch.randn((3, 2), generator=generator))
    assert both.partners
    assert not hooks(micro_parts().tokenizer, rand_noise_lam=0.1).partners


# A new mitigation in a training by diff_train.py -----------------------------------------------------


@pytest.fixture
def train(script, micro_sd, scenes_dir, tmp_path):
    """train(folder, *flags) -> the run's folder, after two steps of two images."""

    def run(name, *extra):
        folder = tmp_path / name
        named = {
            "pretrained_model_name_or_path": micro_sd,
            "instance_data_dir": scenes_dir / "train",
            "instance_prompt_loc": scenes_dir / "captions.json",
            "class_prompt": "instancelevel_blip",
            "resolution": 16,
            "train_batch_size": 2,
            "save_steps": 99,
            "sample_batch_size": 1,
            "learning_rate": 1e-2,
            "lr_warmup_steps": 0,
            "seed": 7,
            "log_steps": 1,
            "output_dir": folder,
        }
        given = [v for key, value in named.items() for v in (f"--{key}", value)]
        steps = () if "--max_train_steps" in extra else ("--max_train_steps", 2)
        script("diff_train", *SEED_FLAGS, *given, *steps, *extra)
        return folder

    return run


def unet(folder):
    state = load_file(folder / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([state[k].flatten() for k in sorted(state)])


def register(monkeypatch, build, declared):
    """Add a mitigation to the registry, and its flag, a line of a dataclass, to the options."""
    room = vars(train_mitigation_options) | {"TrainOptions": train_options.TrainOptions}
    exec(
        "@dataclass(frozen=True, kw_only=True)\n"
        f"class Longer(TrainOptions):\n    {declared.strip()}\n",
        room,
    )
    monkeypatch.setattr(train_options, "TrainOptions", room["Longer"])
    monkeypatch.setattr(train_mitigations, "MITIGATIONS", (*train_mitigations.MITIGATIONS, build))


def test_the_embedding_edit_of_the_documentation_takes_effect(train, monkeypatch):
    """The example of docs/train.md, from the command line to the weights."""
    declared, code = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "train.md").read_text(), re.DOTALL
    )
    monkeypatch.setattr(seeding, "STREAMS", dict(seeding.STREAMS))
    room = dict(vars(train_mitigations), STREAMS=seeding.STREAMS)
    exec(code, room)
    plain = unet(train("plain"))
    register(monkeypatch, room["dropped_tokens"], declared)
    assert torch.equal(unet(train("off")), plain)
    some, all_tokens = (unet(train(p, "--drop_tokens", p)) for p in ("0.5", "1"))
    assert not torch.equal(some, plain)
    assert not torch.equal(some, all_tokens)
    assert torch.equal(some, unet(train("again", "--drop_tokens", "0.5")))
    edit = room["dropped_tokens"](drop_tokens=0.5).embedding
    drawn = edit.draw(StepRandom(0, 0, 0, range(8)), (32, 16))
    kept = edit.apply(torch.ones(8, 32, 16), None, drawn)
    assert kept.amin(2).mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(kept.amin(2), kept.amax(2))  # whole tokens


def test_an_embedding_edit_draws_one_value_from_a_stream_that_it_names():
    def sample(generator, shape):
        return torch.rand(shape, generator=generator)

    def step(rng):
        return rng.random()

    def apply(own, partners, drawn):
        return own

    with pytest.raises(ValueError, match="draw_sample or draw_step, not both"):
        train_mitigations.EmbeddingEdit(apply, "noise", sample, step)
    for given in ({"draw_sample": sample}, {"draw_step": step}, {"stream": "noise"}):
        with pytest.raises(ValueError, match="names a stream if it draws a value, else none"):
            train_mitigations.EmbeddingEdit(apply, **given)
    assert train_mitigations.EmbeddingEdit(apply).draw(StepRandom(0, 0, 0, [0]), (3, 2)) is None


def test_a_new_caption_edit_is_a_line_in_caption_edits(train, monkeypatch):
    def last(own, captions, rng, tokens, p):
        return captions[-1]

    plain = unet(train("plain"))
    edit = caption_edits.TrainEdit(last, prompts=lambda captions: captions[-1:])
    monkeypatch.setitem(caption_edits.TRAIN_EDITS, "lastcap", edit)
    # the flag lists the names of the registry when its module is imported
    for name in ("utils.cli.train_mitigation_options", "utils.cli.train_options"):
        spec = importlib.util.find_spec(name)
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
        monkeypatch.setitem(sys.modules, name, again)
    monkeypatch.setattr(train_options, "TrainOptions", again.TrainOptions)
    folder = train("last", "--trainspecial", "lastcap", "--max_train_steps", "12")
    # the first and the last caption of twelve images are encoded ahead
    cache = next((folder.parent / "encoded").glob("embeddings_*"))
    assert len(np.load(cache / "rows_000000.npy")) == 24
    assert not torch.equal(unet(train("two", "--trainspecial", "lastcap")), plain)


class SkipsSomeBatches:
    """A loss rule that drops every second batch; its state is how many it saw."""

    def __init__(self, *, num_timesteps, device, first):
        self.seen, self.first = torch.zeros((), device=device), first

    def keep(self, losses, timesteps):
        return torch.ones_like(losses, dtype=torch.bool) & (self.seen % 2 == self.first)

    def update(self, losses, timesteps):
        self.seen += 1

    def state(self):
        return {"seen": self.seen}

    def reset(self):
        self.seen.zero_()


def skipping(*, skip_batches):
    if skip_batches is None:
        return None
    rule = functools.partial(SkipsSomeBatches, first=skip_batches)
    return train_mitigations.TrainMitigation("--skip_batches", loss_rule=rule)


def test_a_new_loss_rule_takes_effect_and_resumes(train, monkeypatch):
    plain = unet(train("plain", "--max_train_steps", 3))
    register(monkeypatch, skipping, 'skip_batches: int = flag(None, kind=count(0), help="a test")')
    whole = train("whole", "--skip_batches", 0, "--max_train_steps", 3)
    assert not torch.equal(unet(whole), plain)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows] == [0, 1, 0]
    lines = (whole / "skips.csv").read_text().splitlines()[1:]
    assert sum(int(line.split(",")[-1]) for line in lines) == 2
    train("cut", "--skip_batches", 0, "--max_train_steps", 1)
    resumed = ("--max_train_steps", 3, "--resume_from_checkpoint", "latest")
    assert torch.equal(unet(train("cut", "--skip_batches", 0, *resumed)), unet(whole))


def test_two_loss_rules_exclude_one_another(monkeypatch):
    monkeypatch.setattr(
        train_mitigations, "MITIGATIONS", (*train_mitigations.MITIGATIONS, skipping)
    )
    values = MITIGATIONS_OFF | {"skip_batches": 1}
    assert [m.flag for m in train_mitigations.chosen(values)] == ["--skip_batches"]
    with pytest.raises(UsageError, match="^--mem_ratio and --skip_batches both decide which"):
        train_mitigations.chosen(values | {"mem_ratio": 1.25})
