"""Which flags give which extra losses, and the prompts that these have."""

import torch

from utils.training import regularisation

OFF = {
    "with_prior_preservation": False,
    "class_data_prompt": None,
    "prior_loss_weight": 1.0,
    "trigger_word": None,
    "trigger_class": None,
    "preservation_weight": 1.0,
}


def test_flags_turn_losses_on_and_give_their_weights():
    assert set(regularisation.flag_names()) == set(OFF)
    assert regularisation.chosen(OFF) == ()
    prior, output = regularisation.chosen(
        OFF
        | {"with_prior_preservation": True, "class_data_prompt": "a dog", "prior_loss_weight": 2.0}
        | {"trigger_word": "sks", "trigger_class": "dog", "preservation_weight": 0.5}
    )
    assert (prior.flag, prior.weight) == ("--with_prior_preservation", 2.0)
    assert (output.flag, output.weight) == ("--trigger_class", 0.5)
    assert (prior.needs_base, output.needs_base) == (False, True)
    assert (prior.beside, output.beside) == ("class_images", None)
    assert prior.prompts(["a photo of sks"]) == ["a dog"]
    assert output.prompts(["a photo of sks", "x"]) == ["a photo of dog", "x"]


def test_the_word_is_replaced_as_a_whole_word_in_any_case():
    output = regularisation.OutputPreservation("sks man", "man", 1.0)
    assert output.class_caption("Sks Man, a sks man's sks mane") == "man, a man's sks mane"
    assert (
        regularisation.OutputPreservation("c.", r"\1", 1.0).class_caption("a c. cd") == r"a \1 cd"
    )


def test_captions_without_the_word_take_no_part():
    own = regularisation.Noised(*(torch.zeros(3),) * 3, {})
    samples = regularisation.OutputPreservation("sks", "dog", 1.0).samples(
        {"prompt": ["a sks", "", "asks"]}, own, None
    )
    assert samples.counted == [True, False, False]
    assert samples.of_base
    assert samples.prompts == ["a dog", "", "asks"]
    assert samples.noised is own
