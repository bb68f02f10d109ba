"""Random miniatures of every class of pipeline that generation accepts: 16-pixel images and a few
thousand weights each."""

import torch

from tests.conftest import _micro_parts


def _clip(width, tokenizer, *, projected):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5(width):
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((c, -2.0) for c in ["\u2581", *map(chr, range(33, 127))]),
    ]
    tokenizer = T5Tokenizer(vocab=letters, extra_ids=0, model_max_length=48)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    return tokenizer, T5EncoderModel(config).eval()


def _vae(channels, shift=None):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        mid_block_add_attention=False,
        scaling_factor=0.5,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    ).eval()


def stable_diffusion(prediction_type="epsilon"):
    """SD 1.x (epsilon) or 2.x (v_prediction)."""
    return _micro_parts(prediction_type).assemble()


def stable_diffusion_xl(force_upcast=True):
    """SDXL: two text encoders, pooled embeddings, conditioning on the size.

    force_upcast: of the autoencoder's configuration, that half precision is too coarse for it."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    parts = _micro_parts()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        transformer_layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    parts.vae.register_to_config(force_upcast=force_upcast)
    return StableDiffusionXLPipeline(
        vae=parts.vae,
        text_encoder=_clip(16, parts.tokenizer, projected=False),
        tokenizer=parts.tokenizer,
        text_encoder_2=_clip(16, parts.tokenizer, projected=True),
        tokenizer_2=parts.tokenizer,
        unet=unet.eval(),
        scheduler=EulerDiscreteScheduler.from_config(parts.scheduler.config),
        add_watermarker=False,
    )


def stable_diffusion_3(layers=1, t5=True, **transformer_config):
    """SD 3: three text encoders, a transformer, flow matching.

    layers: blocks, of which the last one has no output for the text; t5: False leaves the third
    text encoder out, as users do to save memory."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer = _micro_parts().tokenizer
    t5_tokenizer, t5_encoder = _t5(32) if t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
        **transformer_config,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, shift=0.1),
        text_encoder=_clip(16, tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=_clip(16, tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_encoder,
        tokenizer_3=t5_tokenizer,
    )


def flux(guidance_embeds=True):
    """Flux: CLIP's pooled embedding and T5's tokens, flow matching, and a transformer that takes the
    guidance scale as an input."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer = _micro_parts().tokenizer
    t5_tokenizer, t5 = _t5(32)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, shift=0.1),
        tokenizer=tokenizer,
        text_encoder=_clip(16, tokenizer, projected=False),
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer.eval(),
    )


def ddpm(classes=None, null=False, side=8):
    """A DDPM, of so many classes; it is in no table of pipelines that read prompts."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=side,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=None if classes is None else classes + null,
    )
    # as published: 1,000 steps, linear betas, the large variance
    return DDPMPipeline(unet=unet.eval(), scheduler=DDPMScheduler(variance_type="fixed_large"))


MINIATURES = {
    "SD 1": stable_diffusion,
    "SD 2": lambda: stable_diffusion("v_prediction"),
    "SDXL": stable_diffusion_xl,
    "SD 3": stable_diffusion_3,
    "Flux": flux,
}
# others of these families, in which a step of training may differ
VARIANTS = {
    "SDXL, half VAE": lambda: stable_diffusion_xl(force_upcast=False),
    "SD 3, 2 blocks": lambda: stable_diffusion_3(layers=2),
    "SD 3.5": lambda: stable_diffusion_3(layers=2, qk_norm="rms_norm", dual_attention_layers=(0,)),
    "SD 3 without T5": lambda: stable_diffusion_3(layers=2, t5=False),
    "Flux without guidance": lambda: flux(guidance_embeds=False),
}


def miniature(name):
    """A new pipeline by its name in MINIATURES or VARIANTS, with the same weights each time."""
    torch.manual_seed(0)
    pipeline = (MINIATURES | VARIANTS)[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embed(parts, prompts):
    """Token embeddings of prompts, [B, T, D], as Stable Diffusion 1 and 2 read them."""
    ids = parts.tokenizer(
        prompts,
        padding="max_length",
        max_length=parts.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return parts.pipeline.text_encoder(ids)[0]
