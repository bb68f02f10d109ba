"""The parts of tiny-sd: small versions of Stable Diffusion's networks, and a tokenizer learned from
two lists of words."""

import json
from pathlib import Path

from utils.data import scenes

HERE = Path(__file__).resolve().parent
MAX_LENGTH = 48  # a paraphrase, three words and four numbers of five digits: at most 43 tokens

# Stable Diffusion's values; the library's defaults differ
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def common_words():
    """Return the words of common_words.txt, as the tokenizer learns them."""
    return (HERE / "common_words.txt").read_text().split()


def grammar_words():
    """Return the words that captions of scenes use, sorted."""
    words = {*scenes.COLOURS, *scenes.SHAPES, *scenes.TEXTURES}
    for index in range(50):
        for caption in scenes.scene_at(index, stream="tiny-sd/pretraining").captions:
            words.update(caption.replace(",", " ").split())
    return sorted(words)


def build_tokenizer():
    """Build a CLIPTokenizer by BPE from two lists of words, each of which becomes a single id.

    Returns: (tokenizer, share of its ids that are whole words)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    words = [*grammar_words(), *common_words()]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # The trainer breaks ties by id, and numbers the letters at the end of a word in the order of a
    # hash table, which changes from run to run: number them here.
    ends = sorted({word[-1] + "</w>" for word in words})
    bpe.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=10_000, end_of_word_suffix="</w>", special_tokens=ends, show_progress=False
        ),
    )
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    # printable ASCII without capitals (the tokenizer lower-cases), inside a word and at its end
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    ids = [*characters, *(c + "</w>" for c in characters), *("".join(m) for m in merges)]
    ids = [*dict.fromkeys(ids), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(ids)}, merges=merges, model_max_length=MAX_LENGTH
    )
    split = [w for w in words if len(tokenizer(w).input_ids) != 3]
    if split:
        raise RuntimeError(f"some words have more than one id: {split[:5]}")
    share = len(set(words)) / (len(tokenizer) - 2)
    print(f"tokenizer: {len(tokenizer)} ids, {share:.2f} of the ordinary ones are whole words")
    return tokenizer, share


def build_autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    )


def build_text_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def save_pipeline(parts, folder):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        **parts,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return pipeline
