"""Image-to-text models of a few thousand random weights, as folders."""

import pytest
import torch

WORDS = [
    "a",
    "an",
    "the",
    "one",
    "two",
    "cat",
    "dog",
    "red",
    "blue",
    "green",
    "circle",
    "star",
    "ring",
    "on",
    "with",
    "and",
    "of",
    "in",
    "striped",
    "plain",
    "dotted",
    "picture",
    "big",
    "small",
    "large",
    "background",
]


def word_tokenizer():
    """A tokenizer with a token for each of WORDS and those of BERT and BLIP."""
    from transformers import BertTokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    return BertTokenizer(vocab={name: i for i, name in enumerate(names)}, bos_token="[DEC]")


def blip(seed=0):
    """A random BLIP for pictures of 16 px, whose captions depend on the picture."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "projection_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.4,
    }
    tokenizer = word_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 40,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config=sizes | text,
            vision_config=sizes | {"image_size": 16, "patch_size": 8},
            initializer_range=0.4,
        )
    )
    with torch.no_grad():  # captions of different lengths
        model.text_decoder.cls.predictions.bias[tokenizer.sep_token_id] = 2.5
    return model.eval()


def save(folder, model, image_processor):
    """Save a model with its image processor and the tokenizer of words."""
    for part in (model, image_processor, word_tokenizer()):
        part.save_pretrained(folder)
    return folder


def save_blip(folder):
    """Save a random BLIP, as `blip` makes it."""
    from transformers import BlipImageProcessor

    return save(folder, blip(), BlipImageProcessor(size={"height": 16, "width": 16}))


@pytest.fixture(scope="session")
def micro_blip(tmp_path_factory):
    """A random BLIP as a folder; no test writes here."""
    return save_blip(tmp_path_factory.mktemp("models") / "micro-blip")


@pytest.fixture(scope="session")
def micro_vit_gpt2(tmp_path_factory):
    """A random VisionEncoderDecoderModel of ViT and GPT-2, as a folder, with the settings of beam
    search that published ones carry; no test writes here."""
    from transformers import (
        GPT2Config,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    tokenizer = word_tokenizer()
    vision = ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        initializer_range=0.4,
    )
    text = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=40,
        n_embd=16,
        n_layer=1,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(config=config).eval()
    settings = model.generation_config
    settings.decoder_start_token_id = tokenizer.bos_token_id
    settings.pad_token_id, settings.eos_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
    settings.max_length, settings.num_beams = 16, 4
    folder = tmp_path_factory.mktemp("models") / "micro-vit-gpt2"
    return save(folder, model, ViTImageProcessor(size={"height": 16, "width": 16}))
