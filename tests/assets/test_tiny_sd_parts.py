from assets import tiny_sd_parts


def test_the_tokenizer_is_the_same_every_time():
    first, second = tiny_sd_parts.build_tokenizer()[0], tiny_sd_parts.build_tokenizer()[0]
    assert first.get_vocab() == second.get_vocab()
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_parts_fit_together_and_are_as_small_as_said():
    tokenizer, share = tiny_sd_parts.build_tokenizer()
    text_encoder = tiny_sd_parts.build_text_encoder(tokenizer)
    unet, vae = tiny_sd_parts.build_unet(), tiny_sd_parts.build_autoencoder()
    assert share > 0.5  # of random ids, as those of random captions, more than half are whole words
    assert unet.config.cross_attention_dim == text_encoder.config.hidden_size
    assert unet.config.in_channels == vae.config.latent_channels
    assert (
        unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
        == vae.config.sample_size
    )
    assert (
        text_encoder.config.max_position_embeddings
        == tokenizer.model_max_length
        == tiny_sd_parts.MAX_LENGTH
    )
    assert sum(p.numel() for m in (text_encoder, unet, vae) for p in m.parameters()) < 4e6
