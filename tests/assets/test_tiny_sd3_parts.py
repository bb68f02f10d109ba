import pytest
import torch
from transformers import CLIPTextModel

from assets import tiny_sd3_parts


@pytest.fixture(scope="module")
def untrained(tiny_sd):
    torch.manual_seed(0)
    return tiny_sd3_parts.build_pipeline(tiny_sd)


def test_the_parts_are_as_small_as_said_and_start_from_tiny_sd(untrained, tiny_sd):
    networks = (untrained.transformer, untrained.text_encoder, untrained.text_encoder_2)
    assert sum(p.numel() for m in (*networks, untrained.vae) for p in m.parameters()) < 3.5e6
    known = CLIPTextModel.from_pretrained(tiny_sd, subfolder="text_encoder").state_dict()
    taken = untrained.text_encoder.text_model.state_dict()
    assert all(torch.equal(taken[name], weight) for name, weight in known.items())
    assert untrained.vae.config.shift_factor == 0.0  # None would break the pipeline's decoding


def test_it_starts_from_a_velocity_of_zero_whatever_it_is_given(untrained):
    with torch.no_grad():
        velocity = untrained.transformer(
            hidden_states=torch.randn(1, 4, 16, 16),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.randn(1, 49, 128),
            pooled_projections=torch.randn(1, 128),
        ).sample
    assert velocity.abs().max() == 0


@pytest.mark.parametrize("count", [1, 40])
def test_one_token_that_stands_for_many_is_attended_to_as_they_are(count):
    transformer = tiny_sd3_parts.build_transformer()
    torch.manual_seed(0)
    for weight in transformer.parameters():
        torch.nn.init.normal_(weight, std=0.08)
    noisy, text, pooled = (torch.randn(2, *s) for s in ((4, 16, 16), (6, 128), (128,)))

    def velocity(zeros):
        with torch.no_grad():
            return transformer(
                hidden_states=noisy,
                timestep=torch.tensor([300.0, 800.0]),
                encoder_hidden_states=torch.cat([text, torch.zeros(2, zeros, 128)], 1),
                pooled_projections=pooled,
            ).sample

    many, one = velocity(count), velocity(1)
    attention = tiny_sd3_parts.RepeatedLastToken()
    transformer.set_attn_processor(attention)
    attention.stand_for(count)
    torch.testing.assert_close(velocity(1), many, atol=1e-4, rtol=1e-4)
    assert (many - one).abs().max() > 1e-2 or count == 1
