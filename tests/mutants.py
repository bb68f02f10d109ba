"""Break the toolkit in every listed way, in a copy, and see the named test fail: `make mutants`, or those of some files with
`make mutants ARGS="search.py claims.py"`.

A row is (file, text, replacement, test). A row whose text is no longer there, or whose test passes, is an error: the test
proves nothing, or the row is out of date. First all named tests must pass on an unbroken copy.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = [
    "torch", "torch.utils.data", "torchvision.transforms", "pytest", "xdist", "numpy", "PIL.Image", "safetensors.torch", "timm",
    "transformers.models.clip", "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "diffusers.schedulers.scheduling_ddim", "accelerate",
    "matplotlib.pyplot", "tqdm", "faiss", "pyarrow.parquet",
]  # fmt: skip

MUTANTS = [
    # a flag ignored
    ("utils/generation/mitigations.py", "edit=TRAIN_EDITS[special] if special else None", "edit=None",
     "tests/generation/test_mitigations.py::test_a_duplicated_image_draws_its_caption_and_then_the_mitigation_applies"),
    ("utils/data/caption_edits.py", "if rng.random() < p else own", "if rng.random() < 0.1 else own",
     "tests/data/test_caption_edits.py::test_train_edits_apply_with_their_probability"),
    ("utils/generation/mitigations.py", "times=rand_aug_repeats", "times=2",
     "tests/test_sd_mitigation.py::test_each_mitigation_of_the_published_list"),
    # lambda = 0
    ("utils/models/embedding_edits.py", "embeddings + strength * noise", "embeddings + 0 * noise",
     "tests/models/test_embedding_edits.py::test_noise_by_hand_and_its_size"),
    # a uniform sampler
    ("utils/data/duplication.py", "if self.probabilities is None:", "if True:",
     "tests/data/test_duplication.py::test_five_percent_of_weight_five_are_twenty_percent_of_draws"),
    ("utils/data/training_data.py", "torch.where(duplicated, weight, 1.0)", "torch.where(duplicated, 1.0, weight)",
     "tests/data/test_training_data.py::test_duplicated_images_come_five_times_as_often"),
    # noise from a global generator, or of the batch
    ("utils/training/trainer.py", "torch.randn(latent_shape, generator=generator)", "torch.randn(latent_shape)",
     "tests/training/test_trainer.py::test_noise_belongs_to_the_slot_not_to_the_batch"),
    ("utils/generation/sampling.py", "manual_seed(job.seed) for job in batch", "manual_seed(batch[0].seed) for job in batch",
     "tests/generation/test_sampling.py::test_an_image_does_not_depend_on_its_batch"),
    ("utils/generation/sampling.py", "torch_generator(job.seed, \"embedding-noise\", branch) for job in batch",
     "torch_generator(batch[0].seed, \"embedding-noise\", branch) for job in batch",
     "tests/generation/test_sampling.py::test_noise_is_each_images_and_each_branchs_own"),
    ("utils/generation/sampling.py", "_generators(batch, branch))", "_generators(batch, 0))",
     "tests/generation/test_sampling.py::test_noise_is_each_images_and_each_branchs_own"),
    ("utils/generation/sampling.py", "in enumerate((given, opposite))", "in enumerate((given,))",
     "tests/generation/test_sampling.py::test_noise_is_each_images_and_each_branchs_own"),
    ("utils/models/embedding_edits.py", "torch.randn(embedding.shape, generator=generator)", "torch.randn(embedding.shape)",
     "tests/generation/test_mitigations.py::test_noise_on_embeddings_is_each_images_own_and_scales_with_lambda"),
    # prompts shifted by one; an edit drawn per image; the unconditional branch of SDXL embedded, not zero
    ("utils/generation/sampling.py", "prompt = prompts[index // images_per_prompt]",
     "prompt = prompts[(index + 1) // images_per_prompt % len(prompts)]",
     "tests/generation/test_sampling.py::test_image_i_belongs_to_prompt_i_div_imb"),
    ("utils/generation/sampling.py", "text = edited_prompt(prompts, hooks, index // images_per_prompt, seed=seed)",
     "text = hooks.edit_prompt(prompt.text, seeding.numpy_rng(seed, \"prompt-edit\", index))",
     "tests/generation/test_sampling.py::test_an_edit_is_drawn_once_a_prompt_and_does_not_depend_on_their_number"),
    ("utils/models/families.py", "negative_prompt=None if prompt is None else [prompt], **others,",
     "negative_prompt=[prompt or \"\"], **others,",
     "tests/models/test_families.py::test_sdxl_takes_zeros_when_no_negative_prompt_is_given"),
    # guidance switched one step late, at the wrong distance, with the branches exchanged, for the whole batch
    ("utils/generation/guidance.py", "prediction.timestep > self.start", "prediction.timestep >= self.start",
     "tests/generation/test_guidance.py::test_the_static_transition_is_passed_at_its_timestep"),
    ("utils/generation/denoiser_hook.py", "scheduler.timesteps[now[\"number\"]]", "scheduler.timesteps[max(now[\"number\"] - 1, 0)]",
     "tests/generation/test_guidance.py::test_the_static_transition_agrees_with_a_loop_written_by_hand"),
    ("utils/generation/guidance.py", "        return guided(prediction, torch.where(self.passed, self.scale, self.before))",
     "        late, self.before_last = getattr(self, \"before_last\", self.passed & False), self.passed\n"
     "        return guided(prediction, torch.where(late, self.scale, self.before))",
     "tests/generation/test_guidance.py::test_the_dynamic_transition_is_each_images_first_local_minimum"),
    ("utils/generation/guidance.py", "(1.0 if prediction.flow else abs(prediction.noise_factor))", "1.0",
     "tests/generation/test_guidance.py::test_the_distance_is_that_of_the_noise_whatever_is_predicted"),
    ("utils/generation/guidance.py", "self.fell & (distance > self.last)", "self.fell & (distance > self.last).any()",
     "tests/generation/test_guidance.py::test_the_dynamic_transition_is_each_images_first_local_minimum"),
    ("utils/generation/guidance.py", "~self.passed & self.fell &", "~self.passed &",
     "tests/generation/test_guidance.py::test_the_dynamic_transition_is_each_images_first_local_minimum"),
    ("utils/generation/denoiser_hook.py", "unconditional, conditional = predicted.chunk(2)", "conditional, unconditional = predicted.chunk(2)",
     "tests/generation/test_denoiser_hook.py::test_both_predictions_can_be_replaced"),
    ("utils/generation/denoiser_hook.py", "        first.copy_(answer.conditional)  # the pipeline holds this tensor since its first call\n", "",
     "tests/generation/test_denoiser_hook.py::test_both_predictions_can_be_replaced"),
    # images that a process leaves out, lines that a killed generation loses
    ("utils/generation/generation_stage.py", "items[len(items) * processes.index // processes.count :",
     "items[len(items) // processes.count * processes.index :",
     "tests/generation/test_generation_stage.py::test_processes_share_what_is_missing_evenly_and_completely"),
    ("utils/files/generation_folder.py", "glob(f\"{self.first_part_path.name}*\")", "glob(self.first_part_path.name)",
     "tests/files/test_generation_folder.py::test_processes_write_parts_of_their_own_which_the_next_run_takes_over"),
    ("utils/retrieval/evaluation_inputs.py", "for k in listed.keys)", "for k in listed.keys[1:] + listed.keys[:1])",
     "tests/retrieval/test_evaluation_inputs.py::test_prompts_are_joined_by_file_not_by_order"),
    # captions of another image
    ("utils/data/training_data.py", "self.choose_caption(self.data.prompts[self.data.images.keys[index]]",
     "self.choose_caption(self.data.prompts[self.data.images.keys[index - 1]]",
     "tests/data/test_training_data.py::test_captions_are_those_of_the_image"),
    ("utils/data/captions.py", "_as_list(path, found[k], data[found[k]]) for k in images.keys",
     "_as_list(path, found[k], data[found[k]]) for k, found[k] in zip(images.keys, reversed(list(found.values())))",
     "tests/data/test_captions.py::test_keys_relative_to_the_folder_to_the_file_and_absolute"),
    # normalisation skipped, or done twice
    ("utils/retrieval/formulas/similarity.py", "return descriptors.float() / descriptors.float().norm(dim=1, keepdim=True).clamp_min(1e-12)",
     "return descriptors.float()",
     "tests/retrieval/formulas/test_similarity.py::test_normalised_rows_have_length_one_and_zero_stays_zero"),
    ("utils/data/transforms.py", "(np.asarray(image, np.float32) / 255 - np.float32(mean)) / np.float32(std)",
     "np.asarray(image, np.float32) / 255", "tests/data/test_transforms.py::test_training_input_is_in_minus_one_to_one_and_exact_without_resizing"),
    ("utils/training/latents.py", "    return (mean + std * noise) * scaling_factor", "    return mean + std * noise",
     "tests/training/test_latents.py::test_posterior_sample_by_hand"),
    ("utils/training/latents.py", "return posterior_sample(posterior.mean, posterior.std, noise",
     "return posterior_sample(posterior.mean, 0 * posterior.std, noise",
     "tests/training/test_latents.py::test_encode_samples_the_posterior_and_scales"),
    # loss control: bank not updated, updated before the rule, dropped samples counted, Min-SNR weights in the bank
    ("utils/training/loss_control.py", "self.bank.scatter_(0, timesteps, updated)", "pass",
     "tests/training/test_loss_control.py::test_rule_and_bank_agree_with_a_loop_over_samples"),
    ("utils/training/trainer.py", "kept = self.control.keep(every, at)\n        self.control.update(every, at)",
     "self.control.update(every, at)\n        kept = self.control.keep(every, at)",
     "tests/training/test_trainer.py::test_loss_control_looks_at_each_micro_batch_of_a_step"),
    ("utils/training/trainer.py", "/ kept.sum().clamp_min(1)", "/ len(kept)",
     "tests/training/test_trainer.py::test_dropped_samples_weigh_nothing_and_are_not_counted_in_the_mean"),
    ("utils/training/trainer.py", "self.team.gather(losses.detach())", "self.team.gather(weighted.detach())",
     "tests/training/test_trainer.py::test_snr_weights_do_not_reach_the_bank"),
    ("utils/training/loss_control.py", "later = same.triu(1).sum(1)", "later = 0 * same.sum(1)",
     "tests/training/test_loss_control.py::test_rule_and_bank_agree_with_a_loop_over_samples"),
    # ensembles: a plain mean, moments averaged, one schedule or bank for all, weights that stay behind, one stream for all
    ("utils/training/ensemble.py", "alpha=self.plan.sizes[shard]", "alpha=sum(self.plan.sizes) / self.plan.shards",
     "tests/training/test_ensemble.py::test_the_average_is_weighted_by_shard_size"),
    ("utils/training/ensemble.py", "self.waiting[shard] = self.model.copy_state()",
     "self.waiting[shard] = {n: (t + self.waiting.get(shard - 1, {n: t})[n]) / 2 for n, t in self.model.copy_state().items()}",
     "tests/training/test_ensemble.py::test_moments_and_bank_stay_with_a_copy_and_are_not_averaged"),
    ("utils/training/trainer.py", "            self.control.reset()\n", "",
     "tests/training/test_ensemble.py::test_moments_and_bank_stay_with_a_copy_and_are_not_averaged"),
    ("utils/training/trainer.py", "rate = self.rate(number)", "rate = self.rate(number * self.accelerator.num_processes)",
     "tests/test_two_processes.py::test_two_processes_are_one_of_twice_the_batch"),
    ("utils/data/training_data.py", "None if self.weights is None else self.weights[indices]",
     "None if self.weights is None else self.weights[: len(indices)]",
     "tests/data/test_training_data.py::test_what_belongs_to_an_image_goes_with_it_into_its_shard"),
    ("utils/training/trainer.py", '"noise", shard, step, slot', '"noise", 0, step, slot',
     "tests/training/test_trainer.py::test_noise_belongs_to_the_slot_not_to_the_batch"),
    # resuming: a copy, what is pending, or the rows of metrics.jsonl forgotten; a half-written state taken for one
    ("utils/training/ensemble.py", "copies = dict(self.waiting)", "copies = {}",
     "tests/training/test_ensemble.py::test_a_state_continues_bit_for_bit"),
    ("utils/training/training_loop.py", "self._pending_rows() if self.pending else None", "None",
     "tests/training/test_training_loop.py::test_a_signal_saves_a_state_and_ends"),
    ("utils/files/run_folder.py", "min(metrics_bytes, self.metrics_path.stat().st_size)", "self.metrics_path.stat().st_size",
     "tests/training/test_training_loop.py::test_a_killed_run_continues_to_the_same_bits"),
    ("utils/files/resume_states.py", "        if (path / \"state.json\").is_file()\n", "",
     "tests/files/test_resume_states.py::test_what_a_killed_process_left_is_not_a_state_and_is_cleared"),
    ("utils/cli/flags.py", "if not o.metadata[\"free\"]", "if True",
     "tests/cli/test_flags.py::test_secrets_are_in_no_record_and_free_options_do_not_count_as_changed"),
    # what is kept beside the run: changed images, mirrored views
    ("utils/training/row_cache.py", "return stamps == self.stamps[first:last]", "return stamps == stamps",
     "tests/training/test_frozen_outputs.py::test_a_changed_image_is_encoded_again"),
    ("utils/training/frozen_outputs.py", "[int(f) for f in flipped]", "[0 for f in flipped]",
     "tests/training/test_frozen_outputs.py::test_kept_moments_are_those_of_encoding_each_view"),
    # an image is its own background; ties the other way; images resampled for prompts; a source by the match
    ("utils/retrieval/formulas/similarity.py", "        if exclude_self:\n", "        if False:\n",
     "tests/retrieval/formulas/test_similarity.py::test_an_image_is_not_its_own_match_but_its_twin_is"),
    ("utils/retrieval/measurement.py", "exclude_self=True", "exclude_self=False",
     "tests/retrieval/test_measurement.py::test_scores_of_matches_sources_and_background_agree_with_the_whole_matrix"),
    ("utils/retrieval/formulas/similarity.py", "sortable * 4294967296 + (4294967295 - indices)", "sortable * 4294967296 + indices",
     "tests/retrieval/formulas/test_similarity.py::test_ties_go_to_the_lower_index_whatever_the_blocks"),
    ("utils/retrieval/formulas/bootstrap.py", "    names = {name:", "    clusters = range(len(clusters))\n    names = {name:",
     "tests/retrieval/formulas/test_bootstrap.py::test_prompts_are_resampled_not_images"),
    ("utils/retrieval/metrics.py", "np.maximum(measured.sources, 0)", "measured.matches[:, 0]",
     "tests/retrieval/test_metrics.py::test_duplication_by_match_and_by_source"),
    ("utils/retrieval/measurement.py", "source_scores(known, sources[known])", "source_scores(known, matches[known, 0])",
     "tests/retrieval/test_measurement.py::test_scores_of_matches_sources_and_background_agree_with_the_whole_matrix"),
    # descriptors: another preset's transform or scale, chunks normalised again or crossed, a batch's norm, a layer from the
    # other end, a mean a channel
    ("utils/retrieval/descriptors/sscd.py", "transforms.sscd_input(wanted.preset)", "transforms.sscd_input(\"dcr\")",
     "tests/retrieval/descriptors/test_sscd.py::test_a_torchscript_file_gets_its_presets_input"),
    ("utils/retrieval/descriptors/sscd.py", "transforms.SSCD_PRESETS[wanted.preset]", "transforms.SSCD_PRESETS[\"dcr\"]",
     "tests/retrieval/descriptors/test_sscd.py::test_a_torchscript_file_gets_its_presets_input"),
    ("utils/retrieval/formulas/similarity.py", "return descriptors.unflatten(1, (chunks, -1))",
     "return normalised(descriptors.reshape(len(descriptors) * chunks, -1)).unflatten(0, (-1, chunks))",
     "tests/retrieval/formulas/test_similarity.py::test_chunks_are_not_normalised_again"),
    ("utils/retrieval/formulas/similarity.py", "functools.partial(cross_product", "functools.partial(split_product",
     "tests/retrieval/formulas/test_similarity.py::test_split_products_agree_with_naive_einsums"),
    ("utils/retrieval/descriptors/network.py", "/ len(SCALES)", "/ pixels.norm()",
     "tests/retrieval/descriptors/test_network.py::test_several_scales_are_averaged_before_an_images_own_norm"),
    ("utils/retrieval/descriptors/timm_models.py", "n=[len(model.blocks) - wanted.layer]", "n=[wanted.layer - 1]",
     "tests/retrieval/descriptors/test_timm_models.py::test_a_layer_is_the_cls_token_of_that_block_from_the_end_or_its_patches"),
    ("utils/retrieval/descriptors/extractors.py", "centred = flat - flat.mean(1, keepdim=True)",
     "centred = (pixels.double() - pixels.double().mean((2, 3), keepdim=True)).flatten(1)",
     "tests/retrieval/descriptors/test_extractors.py::test_pixel_is_the_normalised_cross_correlation"),
    # distances: training images of another size, a layer lost, scaled once where twice is published, a fixed seed, the
    # image itself among its neighbours, a network for nothing
    ("utils/retrieval/descriptors/inception.py", "record, as_generated=True)", "record)",
     "tests/retrieval/descriptors/test_inception.py::test_the_published_scale_is_what_the_page_says"),
    ("utils/retrieval/measurement.py", "replace(built, as_generated=True)", "built",
     "tests/retrieval/test_measurement.py::test_training_images_are_cut_for_the_frechet_distance_alone"),
    ("utils/retrieval/measurement.py", "min(images.open(i).size)", "max(images.open(i).size)",
     "tests/retrieval/test_measurement.py::test_training_images_are_cut_to_the_side_of_the_first_readable_generation"),
    ("utils/retrieval/features.py", "cut if as_generated else image", "image",
     "tests/retrieval/test_features.py::test_training_images_are_cut_for_the_extractors_that_want_it_alone"),
    ("utils/retrieval/descriptors/inception.py", "if name != \"fc\"", "if name not in (\"fc\", \"Mixed_5d\")",
     "tests/retrieval/descriptors/test_inception.py::test_the_network_is_the_published_one"),
    ("utils/retrieval/descriptors/inception.py", "return _body(module)(twice)", "return _body(module)((twice + 1) / 2)",
     "tests/retrieval/descriptors/test_inception.py::test_the_published_scale_is_what_the_page_says"),
    ("utils/retrieval/formulas/kernel.py", "rng_seed=seed", "rng_seed=0",
     "tests/retrieval/formulas/test_kernel.py::test_subsets_are_drawn_by_the_seed"),
    ("utils/retrieval/formulas/coverage.py", "torch.cat(nearest)[:, k]", "torch.cat(nearest)[:, k - 1]",
     "tests/retrieval/formulas/test_coverage.py::test_blocks_agree_with_the_definitions"),
    # features that are not finite, rows of two readings mixed, an interval of no width
    ("utils/retrieval/features.py", "    if wrong:", "    if False:",
     "tests/retrieval/test_features.py::test_features_that_are_not_finite_are_an_error_that_names_an_image"),
    ("utils/retrieval/features.py", "if len(set(readable)) > 1:", "if False:",
     "tests/retrieval/test_features.py::test_an_image_that_became_unreadable_does_not_shift_rows_that_were_kept"),
    ("utils/retrieval/formulas/bootstrap.py", "if hits.any() and not hits.all():", "if True:",
     "tests/retrieval/formulas/test_bootstrap.py::test_a_share_of_none_or_all_has_an_interval_too"),
    ("utils/retrieval/measurement.py", "({\"kid\", \"prdc\"} & set(asked) and \"fid\" not in networks.extractors)",
     "{\"kid\", \"prdc\"} & set(asked)",
     "tests/retrieval/test_measurement.py::test_a_metric_builds_the_networks_that_it_reads_and_no_other"),
    # prompts: another activation, the edited prompt for the source, another image's prompt or state
    ("utils/retrieval/descriptors/clip.py", "if has_twin and trained", "if False and trained",
     "tests/retrieval/descriptors/test_clip.py::test_another_activation_than_the_weights_is_an_error"),
    ("utils/retrieval/measurement.py", "(\"clipscore\", 0, [q.source_prompt for", "(\"clipscore\", 0, [q.prompt for",
     "tests/retrieval/test_measurement.py::test_edited_prompts_are_scored_when_one_was_edited"),
    ("utils/retrieval/formulas/alignment.py", "number[prompts[i]] for i in known", "number[prompts[known[0]]] for i in known",
     "tests/retrieval/formulas/test_alignment.py::test_each_image_goes_with_its_own_prompt_and_a_prompt_is_embedded_once"),
    ("utils/retrieval/measurement.py", "queries=[sets.queries[i] for i in kept]", "queries=sets.queries[: len(kept)]",
     "tests/retrieval/test_measurement.py::test_prompts_and_sources_stay_with_their_images_when_some_cannot_be_read"),
    # complexity of another image, with the wrong sign; memorized: mirrored images not tried, a mean without the minimum
    ("utils/retrieval/measurement.py", "matches[:, 0], workers", "np.arange(len(matches)), workers",
     "tests/retrieval/test_measurement.py::test_complexity_is_that_of_each_generations_best_match"),
    ("utils/retrieval/evaluation_files.py", "int(measured.duplicated[match])", "int(measured.duplicated[q])",
     "tests/retrieval/test_evaluation_files.py::test_duplicated_speaks_of_the_match"),
    ("utils/retrieval/formulas/complexity.py", "np.corrcoef(values, scores)[0, 1]", "-np.corrcoef(values, scores)[0, 1]",
     "tests/retrieval/formulas/test_complexity.py::test_correlation_agrees_with_scipy_and_is_none_without_spread"),
    ("utils/retrieval/formulas/memorized.py", "distances.minimum(_squared_distances(query, _mirrored(chunk)))", "distances",
     "tests/retrieval/formulas/test_memorized.py::test_blocks_agree_with_the_definition"),
    ("utils/retrieval/formulas/memorized.py", "mean = nearest.mean(1)", "mean = nearest[:, 1:].mean(1)",
     "tests/retrieval/formulas/test_memorized.py::test_blocks_agree_with_the_definition"),
    # a threshold of 0 taken for none; runs compared that did not measure alike
    ("utils/retrieval/measurement.py", "opts.copy_threshold if opts.copy_threshold is not None else", "opts.copy_threshold or",
     "tests/retrieval/test_measurement.py::test_a_threshold_that_is_given_beats_the_descriptors"),
    ("utils/retrieval/compare_evaluations.py", "(\"pt_style\", \"arch\", \"preset\",", "(\"pt_style\", \"arch\",",
     "tests/retrieval/test_compare_evaluations.py::test_numbers_that_were_not_measured_alike_are_refused_and_with_force_marked"),
    # features kept of changed images, of another network, of another size; processes that read the same images, or whose
    # rows are joined in another order
    ("utils/retrieval/feature_cache.py", "\"stamps\": stamps.hexdigest()", "\"stamps\": None",
     "tests/retrieval/test_feature_cache.py::test_whatever_the_features_depend_on_has_a_file_of_its_own"),
    ("utils/retrieval/feature_cache.py", "\"extractor\": extractor.record", "\"extractor\": None",
     "tests/retrieval/test_feature_cache.py::test_whatever_the_features_depend_on_has_a_file_of_its_own"),
    ("utils/retrieval/features.py", "{\"side\": side if extractor.as_generated else None}", "{}",
     "tests/retrieval/test_measurement.py::test_what_was_kept_for_generations_of_another_side_is_not_taken"),
    ("utils/retrieval/features.py", "(processes.index + n) // processes.count", "n * (processes.index + 1) // processes.count",
     "tests/test_measuring_processes.py::test_processes_that_meet_without_a_launcher_measure_what_one_does"),
    ("utils/runtime/devices.py", "[rows for part in parts for rows in part]", "[rows for part in parts[::-1] for rows in part]",
     "tests/test_measuring_processes.py::test_processes_that_meet_without_a_launcher_measure_what_one_does"),
    # seeds that do not seed, versions that are not read, text that is not escaped, bad images that pass
    ("utils/runtime/seeding.py", "zlib.crc32(stream.encode())", "abs(hash(stream))",
     "tests/runtime/test_seeding.py::test_a_seed_does_not_depend_on_the_process"),
    ("utils/files/whole_files.py", "1 <= data[\"version\"] <= VERSION", "1 <= data[\"version\"]",
     "tests/files/test_whole_files.py::test_kind_and_version_are_checked"),
    ("utils/reports/page.py", "html.escape(str(settings.get(key, \"\")))", "str(settings.get(key, \"\"))",
     "tests/reports/test_page.py::test_text_of_users_is_escaped"),
    ("utils/reports/page.py", "text.replace(\"<\", \"\\\\u003c\")", "text",
     "tests/reports/test_page.py::test_prompts_enter_the_script_element_without_markup"),
    ("utils/data/image_sets.py", "if len(bad) > accepted or len(bad) == total:", "if len(bad) == total:",
     "tests/data/test_image_sets.py::test_bad_images_are_left_out_up_to_the_share_that_is_accepted"),
    # an index: rows, blocks, what is searched and what is made again
    ("utils/index/vector_index.py", 'side="right") - 1', 'side="left") - 1',
     "tests/index/test_vector_index.py::test_rows_count_through_the_shards_in_natural_order"),
    ("utils/index/vector_index.py", "yield last - filled, buffer[:filled]", "pass",
     "tests/index/test_vector_index.py::test_blocks_are_the_vectors_in_order_whatever_their_size"),
    ("utils/index/shard_files.py", "if size != needed:", "if size > needed:",
     "tests/index/test_vector_index.py::test_damage_is_told_in_a_line_that_names_the_file_and_what_to_do"),
    ("utils/index/shard_files.py", "if count != rows:", "if count < 0:",
     "tests/index/test_vector_index.py::test_damage_is_told_in_a_line_that_names_the_file_and_what_to_do"),
    ("utils/index/search.py", "np.concatenate([rows, places + first], 1)", "np.concatenate([rows, places], 1)",
     "tests/index/test_search.py::test_exact_search_is_the_naive_one"),
    ("utils/index/search.py", "np.lexsort((np.where(rows == NONE, np.iinfo(np.int64).max, rows), -scores), axis=1)",
     "np.argsort(scores, axis=1)[:, ::-1]",
     "tests/index/test_search.py::test_equal_scores_come_in_the_order_of_rows_through_blocks_and_parts"),
    ("utils/index/search.py", "None if record.get(\"state\") != state else record", "record",
     "tests/index/test_search.py::test_lists_and_codes_are_kept_until_the_shards_change"),
    ("utils/index/search.py", "PROBES, CANDIDATES = 96, 32", "PROBES, CANDIDATES = 1, 1",
     "tests/index/test_search.py::test_approximate_search_finds_planted_copies_and_scores_them_exactly"),
    ("utils/index/index_evaluation.py", "known = index.find([*named, *(duplicated or ())])", "known = index.find([])",
     "tests/index/test_index_evaluation.py::test_an_index_gives_the_numbers_of_its_folder"),
    ("utils/index/index_descriptor.py", "key = differing(record, held)", "key = None",
     "tests/index/test_index_evaluation.py::test_a_preset_that_differs_is_told_before_weights_are_looked_for"),
    ("utils/index/index_build.py", "if mine and not index_shards.is_finished(build.root, name):",
     "if not index_shards.is_finished(build.root, name):",
     "tests/index/test_index_build.py::test_a_shard_in_other_hands_is_left_to_them"),
    ("utils/index/index_resume.py", 'return None if facts["made_of"] == source.made_of(name)', "return None if True",
     "tests/index/test_index_resume.py::test_a_shard_that_is_damaged_or_of_other_images_is_made_anew"),
    ("utils/files/locks.py", "os.register_at_fork(after_in_child=_close_in_child)", "pass",
     "tests/files/test_locks.py::test_a_forked_worker_does_not_keep_what_its_parent_held"),
    ("utils/data/tar_shards.py", """return "its name has .. as a part" if ".." in parts else None""", "return None",
     "tests/data/test_tar_shards.py::test_names_that_lead_elsewhere_are_never_taken"),
    ("utils/index/vector_index.py", "return any(state[k] != recorded.get(k, state[k]) for k in state)", "return False",
     "tests/index/test_vector_index.py::test_pictures_of_a_tar_that_was_rewritten_are_not_read_at_old_offsets"),
    ("utils/index/vector_index.py", "if n in planned)", "if True)",
     "tests/index/test_vector_index.py::test_shards_that_are_not_planned_are_none_of_the_index"),
    ("utils/data/image_sets.py", "    if _is_made_of_images(folder):", "    if False:",
     "tests/data/test_image_sets.py::test_what_an_index_and_its_near_duplicates_show_is_never_read"),
    ("utils/index/index_counts.py", 'accepted = int(max_bad * counts["shards"])',
     'accepted = int(max(1, max_bad * counts["shards"]))',
     "tests/index/test_index_counts.py::test_not_even_one_damaged_tar_file_is_free"),
    ("diff_retrieval.py", "sets = processes.main and (index_search", "sets = (index_search",
     "tests/index/test_index_evaluation.py::test_other_processes_take_the_index_that_the_main_one_opened"),
    # near-duplicates: pairs across blocks, weights of a group
    ("utils/index/near_duplicates.py", "for j in range(i, len(spans))]", "for j in range(i, i + 1)]",
     "tests/index/test_near_duplicates.py::test_blocks_give_the_components_of_the_whole_matrix"),
    ("utils/files/downloads.py", 'session.adapters.clear()', "pass",
     "tests/files/test_downloads.py::test_no_redirect_leaves_https"),
    ("utils/files/downloads.py", "if answer.status_code != 206:", "if False:",
     "tests/files/test_downloads.py::test_a_server_without_parts_still_tells_the_state"),
    ("utils/files/downloads.py", "for wait in (*(WAITS if waits is None else waits), None):", "for wait in (None,):",
     "tests/files/test_downloads.py::test_what_may_pass_is_tried_again"),
    ("utils/index/index_sources.py", ', size=self.made_of(name)["bytes"])', ")",
     "tests/index/test_index_sources.py::test_a_download_that_ends_early_is_no_shorter_shard"),
    ("utils/files/downloads.py", "if heard.last < begun:", "if True:",
     "tests/files/test_downloads.py::test_one_line_that_broke_does_not_silence_a_host_that_answers_others"),
    ("utils/runtime/signals.py", "if not parent.is_alive():", "if False:",
     "tests/runtime/test_signals.py::test_a_worker_whose_parent_died_before_it_began_ends_at_once"),
    ("utils/index/index_build.py", 'for n in data["counts"]["damaged_shards"] if n in named]', 'for n in data["counts"]["damaged_shards"]]',
     "tests/index/test_index_build.py::test_a_damaged_shard_whose_tar_is_gone_ends_no_build_for_ever"),
    ("utils/index/index_sources.py", "if content[2] and not content[1] and not content[0].bad:", "if False:",
     "tests/index/test_index_sources.py::test_an_answer_that_is_no_tar_file_is_an_error_and_no_empty_shard"),
    ("utils/retrieval/evaluation_files.py", "unshown[images.keys[index]] =", "_ =",
     "tests/retrieval/test_evaluation_files.py::test_what_can_no_longer_be_read_is_grey"),
    ("utils/index/index_sources.py", "            path.unlink(missing_ok=True)", "            pass",
     "tests/index/test_index_sources.py::test_tar_files_behind_an_address_are_shards"),
    ("utils/data/tar_shards.py", "((?i:https)://", "((?i:https?)://",
     "tests/index/test_index_sources.py::test_what_is_no_source"),
    ("utils/data/tar_shards.py", "KeyError, RecursionError)", "KeyError)",
     "tests/data/test_tar_shards.py::test_headers_of_headers_without_an_end_are_damage"),
    ("utils/data/image_sets.py", "Image.open(source, formats=FORMATS)", "Image.open(source)",
     "tests/data/test_image_sets.py::test_no_decoder_is_reached_but_those_of_the_names"),
    ("utils/data/image_sets.py", "raise (DataError if error.errno in NO_FILE else UnreadError)", "raise DataError",
     "tests/data/test_image_sets.py::test_what_the_disk_does_not_give_is_no_bad_image"),
    ("utils/retrieval/features.py", "return index, _Unread(error), None", "return index, str(error), None",
     "tests/index/test_index_build.py::test_a_disk_that_fails_ends_the_build_and_takes_no_image_away"),
    ("utils/index/vector_index.py", "if stamp_of(self.root, shard.name) != shard.stamp:", "if False:",
     "tests/index/test_vector_index.py::test_a_shard_that_is_made_anew_meanwhile_is_not_taken_for_the_one_that_was_opened"),
    ("utils/index/index_build.py", "return [n for n in planned if n not in lost]", "return planned",
     "tests/index/test_index_build.py::test_a_shard_that_was_never_made_and_is_gone_is_planned_no_longer"),
    ("utils/index/index_evaluation.py", "parts = processes.count if processes.share(searcher and searcher.kept) else 1",
     "parts = processes.count",
     "tests/index/test_index_evaluation.py::test_two_processes_search_approximately_what_one_does"),
    ("diff_retrieval.py", "then += deduplication.require_possible(opts) if opts.dedup else []", "pass",
     "tests/index/test_deduplication.py::test_what_cannot_be_is_told_before_the_index_is_made"),
    ("utils/cli/retrieval_options.py", "[n for n in OF_EVALUATIONS if", "[n for n in () if",
     "tests/cli/test_retrieval_options.py::test_what_is_of_an_evaluation_is_refused_where_none_is_made"),
    ("utils/index/deduplication.py", "(1 / groups.sizes[groups.numbers])", "(0 * groups.sizes[groups.numbers] + 1.0)",
     "tests/index/test_deduplication.py::test_training_on_the_folder_draws_a_group_as_often_as_one_image"),
    # the study: a claim turned round, a word for nothing, rows of other options, copies that see more samples
    ("benchmarks/study/findings.py", "np.array([one[s] - other[s]", "np.array([other[s] - one[s]",
     "tests/benchmarks/study/test_findings.py::test_the_word_of_a_claim"),
    ("benchmarks/study/findings.py", "if not (p < LEVEL and (low > 0 or high < 0)):", "if not (low > 0 or high < 0):",
     "tests/benchmarks/study/test_findings.py::test_an_interval_or_a_sign_test_alone_decides_nothing"),
    ("benchmarks/study/findings.py", "chosen = rng.integers(len(seeds), size=found.shape)",
     "chosen = np.tile(range(len(seeds)), (rounds, 1))",
     "tests/benchmarks/study/test_findings.py::test_the_interval_widens_with_what_seeds_disagree_on"),
    ("benchmarks/study/findings.py", "complete = len(words)", "complete = True or len(words)",
     "tests/benchmarks/study/test_findings.py::test_a_finding_holds_if_all_that_decides_holds_and_fails_if_one_fails"),
    ("benchmarks/study/findings.py", "kept = np.flatnonzero(row.duplicated) if duplicated else", "kept =",
     "tests/benchmarks/study/test_findings.py::test_duplicated_prompts_alone"),
    ("benchmarks/study/experiments.py", "steps = b.steps // (training.copies * rounds)", "steps = b.steps // rounds",
     "tests/benchmarks/study/test_experiments.py::test_every_training_sees_as_many_samples_whatever_its_copies_and_images"),
    ("benchmarks/study/experiments.py", "commands = [[self.run_key(self.needs(name), seed)], ", "commands = [",
     "tests/benchmarks/study/test_experiments.py::test_a_key_changes_with_every_option_and_not_with_the_folder"),
    ("benchmarks/study/pages.py", "if about_these else", "if True else",
     "tests/benchmarks/study/test_pages.py::test_the_page_shows_what_was_run_and_says_what_was_not"),
    ("benchmarks/study/running.py", "path.name != \"run.json\" or", "True or",
     "tests/benchmarks/study/test_running.py::test_a_record_is_done_when_it_says_so"),
    ("benchmarks/study/running.py", "        parent.join()\n        os._exit(1)", "        parent.join()",
     "tests/benchmarks/study/test_running.py::test_workers_end_with_their_parent"),
    ("benchmarks/study/running.py", "if finished.issuperset(needed):", "if True:",
     "tests/benchmarks/study/test_running.py::test_tasks_start_when_what_they_wait_for_is_done_and_never_after_it_failed"),
    ("benchmarks/study/rows.py", "6 if name == \"score\" else 4", "4",
     "tests/benchmarks/study/test_rows.py::test_rows_come_back_as_they_were_written_sorted_and_once"),
    ("benchmarks/replication_study.py", "if plan.key(a, s) not in found]", "]",
     "tests/benchmarks/test_replication_study.py::test_it_makes_what_is_missing_and_only_that"),
    # a reader that forgets the painting order, takes any colour for a thing, or counts what was not read as right
    ("benchmarks/scene_reader.py", "_cover(picture, large, to_ground), free,", "_cover(picture, large, to_ground), free | True,",
     "tests/benchmarks/test_scene_reader.py::test_the_large_shape_is_read_behind_the_small_one"),
    ("benchmarks/scene_reader.py", "sorted(found, key=lambda t: -t.reach)", "sorted(found, key=lambda t: t.reach)",
     "tests/benchmarks/test_scene_reader.py::test_each_attribute_is_read_off_at_least_95_of_100_scenes"),
    ("benchmarks/scene_reader.py", "if t.votes >= _FEWEST_FLAT", "if t.votes >= 0",
     "tests/benchmarks/test_scene_reader.py::test_a_thing_that_is_not_there_is_not_read"),
    ("benchmarks/scene_reader.py", "SHADE, 1.0)", "1.0, 1.0)",
     "tests/benchmarks/test_scene_reader.py::test_each_attribute_is_read_off_at_least_95_of_100_scenes"),
    ("benchmarks/scene_reader.py", "got is not None and got == wanted", "got is None or got == wanted",
     "tests/benchmarks/test_scene_reader.py::test_agreement_by_hand"),
]  # fmt: skip


def copied(folder):
    """A copy of the tree without environments, history and output."""
    ignore = shutil.ignore_patterns(".venv", ".git", "runs", "build", "__pycache__", ".*_cache", "wandb")
    return Path(shutil.copytree(ROOT, folder, ignore=ignore))


def _in_child(folder, arguments, log):
    """pytest in a process that has imported nothing of the toolkit yet; what it says goes to the file `log`."""
    os.chdir(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests"))]
    with open(log, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    import pytest

    sys.exit(pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", *arguments]))


def pytest_in(folder, arguments, prepared):
    """Run pytest in a copy of the tree. Returns: (exit status, what it said)."""
    log = folder.with_name("log.txt")
    child = prepared.Process(target=_in_child, args=(folder, arguments, log))
    child.start()
    child.join()
    return child.exitcode, log.read_text()


def prepared_processes():
    """A context whose processes are forked from one that has imported the libraries: that takes longer than most tests."""
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def try_mutant(row, prepared):
    """Returns: None if the named test fails as it must, else what is wrong."""
    file, text, replacement, test = row
    with tempfile.TemporaryDirectory() as scratch:
        tree = copied(Path(scratch) / "tree")
        source = (tree / file).read_text()
        if source.count(text) != 1:
            return f"the text stands {source.count(text)} times in the file, not once"
        (tree / file).write_text(source.replace(text, replacement))
        status, said = pytest_in(tree, [test], prepared)
    if status == 1 and "FAILED " in said:
        return None
    return "the test passes" if status == 0 else f"pytest ended with {status}: {said[-400:]}"


def main(words):
    mutants = [row for row in MUTANTS if not words or any(word in row[0] for word in words)]
    tests, prepared = sorted({row[3] for row in mutants}), prepared_processes()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        # halves by file, so that what a file sets up is set up once
        files = sorted({t.split("::")[0] for t in tests})
        halves = [[t for t in tests if t.split("::")[0] in files[i::2]] for i in range(min(2, len(files)))]  # none is all
        trees = [copied(Path(scratch) / str(i) / "tree") for i in range(len(halves))]
        for status, said in pool.map(lambda tree, half: pytest_in(tree, half, prepared), trees, halves):
            if status:
                sys.exit(f"{said[-3000:]}\nthe named tests must pass before anything is broken")
        results = list(pool.map(lambda row: try_mutant(row, prepared), mutants))
    for (file, text, _replacement, test), wrong in zip(mutants, results, strict=True):
        print(f"{'caught' if wrong is None else 'MISSED'}  {file}: {text[:60]!r}  by {test.split('::')[1]}  {wrong or ''}")
    missed = sum(r is not None for r in results)
    print(f"{len(results) - missed} passed, {missed} failed")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
