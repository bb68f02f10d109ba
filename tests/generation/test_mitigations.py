import re

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from utils.cli import flags, generation_options
from utils.data.caption_edits import RandomTokens
from utils.generation import denoiser_hook, mitigations
from utils.runtime.errors import UsageError

OFF = {
    "rand_noise_lam": 0.0,
    "rand_augs": None,
    "rand_aug_repeats": 2,
    "cfg_start": None,
    "cfg_before": 0.0,
    "seed": 3,
}


def test_options_turn_mitigations_on_and_name_them():
    def names(**given):
        return [m.name for m in mitigations.chosen(OFF | given)]

    assert names() == []
    assert names(rand_noise_lam=0.1) == ["ginfer0.1"]
    assert names(rand_augs="rand_word_add", rand_aug_repeats=4) == ["auginfer_rand_word_add_4"]
    assert names(cfg_start=500.0) == ["cfgstart_500_0"]
    assert names(cfg_start="auto", cfg_before=-2.0) == ["cfgstart_auto_-2"]
    assert names(rand_noise_lam=0.1, rand_augs="rand_numb_add") == [
        "ginfer0.1",
        "auginfer_rand_numb_add_2",
    ]
    assert mitigations.chosen(OFF | {"rand_noise_lam": 0.1} | mitigations.without()) == ()


def test_settings_hold_the_flags_of_what_is_on():
    recorded = mitigations.settings(OFF | {"cfg_start": 500.0})
    assert recorded == dict.fromkeys(("rand_noise_lam", "rand_augs", "rand_aug_repeats")) | {
        "cfg_start": 500.0,
        "cfg_before": 0.0,
    }


def test_sample_hooks_edit_as_often_as_asked(micro_parts):
    tokens = RandomTokens(micro_parts().tokenizer)
    hooks = mitigations.SampleHooks(
        mitigations.chosen(OFF | {"rand_augs": "rand_numb_add", "rand_aug_repeats": 3}), tokens
    )
    assert len(hooks.edit_prompt("a b", np.random.default_rng(0)).split()) == 5
    assert mitigations.SampleHooks().edit_prompt("a b", np.random.default_rng(0)) == "a b"


def test_noise_on_embeddings_is_each_images_own_and_scales_with_lambda():
    zero = torch.zeros(2, 32, 16)

    def edited(lam, seeds=(1, 2)):
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return mitigations.SampleHooks(
            mitigations.chosen(OFF | {"rand_noise_lam": lam})
        ).edit_embeddings(zero, generators)

    half = edited(0.5)
    assert half.std().item() == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(half[0], half[1])
    assert torch.equal(edited(1.0), 2 * half)
    assert torch.equal(edited(0.5, (9, 2))[1], half[1])
    assert edited(0.0) is zero


def test_hooks_at_the_denoiser_run_one_after_the_other_and_report_together():
    class Adds:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, number):
            return number + self.scale

        def report(self):
            return [{"a": 1}, {"a": 2}]

    both = mitigations.SampleHooks(
        (
            mitigations.Mitigation("x", "--x", steer=Adds),
            mitigations.Mitigation("y", "--y", steer=lambda scale: lambda n: 10 * n),
        )
    )
    chain = both.steering(3)
    assert chain(1) == 40
    assert chain.report() == [{"a": 1}, {"a": 2}]
    assert mitigations.SampleHooks().steering(3) is None


def test_a_pipeline_that_lacks_what_a_mitigation_needs_is_an_error_that_names_it():
    edit, steer = (
        mitigations.chosen(OFF | given)
        for given in ({"rand_augs": "rand_word_add"}, {"cfg_start": 500.0})
    )
    mitigations.require(edit + steer, tokenizer=True)
    with pytest.raises(UsageError, match="--rand_augs needs a tokenizer"):
        mitigations.require(edit, tokenizer=False)
    auto = mitigations.chosen(OFF | {"cfg_start": "auto"})
    mitigations.require(steer, tokenizer=True, order=2)
    with pytest.raises(
        UsageError,
        match="--cfg_start='auto' compares steps, and this scheduler evaluates the network 2 times",
    ):
        mitigations.require(auto, tokenizer=True, order=2)


def test_a_mitigation_checks_the_first_timestep_and_notes_what_a_pipeline_lacks():
    noise, start = (
        mitigations.chosen(OFF | given) for given in ({"rand_noise_lam": 0.1}, {"cfg_start": 500.0})
    )
    mitigations.require(start, tokenizer=True, first_timestep=501)
    with pytest.raises(UsageError, match="--cfg_start=500 is not below the first .* below 500"):
        mitigations.require(start, tokenizer=True, first_timestep=500)
    (line,) = mitigations.notes(noise + start, guided=False)
    assert line.endswith("--rand_noise_lam adds noise to the conditional one only")
    assert mitigations.notes(noise + start, guided=True) == []


def test_a_new_mitigation_is_a_function_and_a_line(monkeypatch):
    def louder(*, loudness):
        return mitigations.Mitigation(
            f"loud{loudness}", "--loudness", edit_prompt=lambda p, rng, tokens: p.upper()
        )

    monkeypatch.setattr(mitigations, "MITIGATIONS", (*mitigations.MITIGATIONS, louder))
    (mitigation,) = mitigations.chosen(OFF | {"loudness": 3})
    assert mitigation.name == "loud3"
    assert mitigations.settings(OFF | {"loudness": 3})["loudness"] == 3
    assert mitigations.SampleHooks((mitigation,)).edit_prompt("a", None) == "A"


def test_the_example_of_the_documentation_runs(monkeypatch):
    """From the command line to the hook, with the option declared as the page says."""
    text = (ROOT / "docs" / "mitigations.md").read_text()
    section = text[text.index("## Adding a mitigation") :].split("\n## ")[0]
    declared, code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    room = vars(mitigations) | vars(generation_options)
    body = declared.replace("    cfg_stop", "\n    cfg_stop")
    exec(
        "@dataclass(frozen=True, kw_only=True)\nclass Longer(GenerationOptions):\n   "
        f" ...\n{body}\n{code}",
        room,
    )
    monkeypatch.setattr(
        mitigations, "MITIGATIONS", (*mitigations.MITIGATIONS, room["unguided_end"])
    )
    opts = flags.parse(room["Longer"], ["--prompt", "x", "--cfg_stop", "500"], description="")
    (mitigation,) = mitigations.chosen(vars(opts))
    below, above = (
        denoiser_hook.Prediction(torch.zeros(1), t, torch.ones(1), torch.zeros(1), 1.0)
        for t in (400.0, 600.0)
    )
    assert mitigation.name == "cfgstop_500"
    assert mitigation.steer(7.5)(below).conditional.item() == 0
    assert mitigation.steer(7.5)(above) is above
    assert (
        mitigations.chosen(vars(flags.parse(room["Longer"], ["--prompt", "x"], description="")))
        == ()
    )
