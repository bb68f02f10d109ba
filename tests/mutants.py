"""Break the toolkit in every listed way, in a copy, and see the named test fail: `make mutants`.

    python tests/mutants.py [WORD ...] [--check] [--workers N]

A WORD chooses the mutants whose kind, place or file contains it, as in `make mutants
ARGS="loss_control.py ensemble"`. `--check` looks every mutant up in the source and runs no test; it
takes seconds, and tests/test_mutants.py does the same.

A mutant names the scientific fault that it stands for, a place (a function), the old code, the new
code, and the test that must fail. Code is compared as syntax trees (tests/mutation.py), so
formatting does not matter; the old code must occur exactly once in its place. All named tests must
first pass on an unbroken copy. A mutant whose test passes is an error: the test proves nothing.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.mutation import Mutant, check  # noqa: E402
from tests.mutation_run import prepared_processes, run_mutants  # noqa: E402

MUTANTS = [
    Mutant(
        "weights that a file lacks are drawn at random",
        "utils.models.networks:require_fit",
        """
        if report.missing:
            said.append(
                f"{len(report.missing)} of {report.total} names are missing, the first"
                f" {sorted(report.missing)[0]!r}"
            )
        """,
        "pass",
        "tests/models/test_networks.py::test_a_unet_without_its_middle_block_is_refused",
    ),
    Mutant(
        "LoRA weights are added without their alpha",
        "utils.models.lora:_baked",
        "float(alpha) / baked[down].shape[0]",
        "1.0",
        "tests/models/test_lora.py::test_kohyas_weights_add_alpha_over_rank_times_up_down",
    ),
    Mutant(
        "a caption that several training images share makes one of them the source",
        "utils.retrieval.caption_sources:with_sources",
        "len(keys) == 1",
        "keys",
        "tests/retrieval/test_caption_sources.py::test_a_prompt_that_is_the_caption_of_one_image_has_that_image_as_its_source",
    ),
    Mutant(
        "the prompt of a refining sampler counts as the picture's",
        "utils.data.node_graphs:_continues",
        "node in others",
        "False",
        "tests/data/test_node_graphs.py::test_a_sampler_that_refines_is_passed_over",
    ),
    Mutant(
        "a run resumes from a state with a flipped bit",
        "utils.files.checksums:is_damaged",
        "whole_files.file_sha256(file) != text",
        "False",
        "tests/files/test_resume_states.py::test_one_flipped_bit_of_a_state_is_found_and_named",
    ),
    Mutant(
        "captions of all images are drawn with the same random numbers",
        "utils.captioning.nucleus:numbers_of_image",
        "seeding.numpy_rng(seed, 'captions', n, *name)",
        "seeding.numpy_rng(seed, 'captions', n)",
        "tests/captioning/test_nucleus.py::test_a_caption_keeps_its_numbers_when_more_or_longer_ones_are_drawn",
    ),
    Mutant(
        "sampled captions stand before the captions that an image has",
        "utils.captioning.caption_stage:_finish",
        "[*plan.existing.get(key, ()), *sampled[key]]",
        "[*sampled[key], *plan.existing.get(key, ())]",
        "tests/captioning/test_caption_stage.py::test_captions_that_images_have_stay_first",
    ),
    Mutant(
        "black images of a broken model count as images that copy nothing",
        "utils.retrieval.show_nothing:of_one_colour",
        "spreads <= MOST_SPREAD",
        "spreads < 0",
        "tests/retrieval/test_show_nothing.py::test_black_images_do_not_make_a_model_that_copies_look_clean",
    ),
    Mutant(
        "the share of innocents beside a memorized quantity is that of the generations",
        "utils.retrieval.metrics:mq",
        "of_innocents[key]",
        "value",
        "tests/retrieval/test_metrics.py::test_beside_a_memorized_quantity_stands_that_of_innocents",
    ),
    Mutant(
        "another checkpoint of the measured run makes pictures that nobody copied",
        "utils.files.generation_models:MadeBy.is_model_of",
        "bool(self.run and other.run) or self.changes == other.changes",
        "self.changes == other.changes",
        "tests/files/test_generation_models.py::test_two_generations_of_one_run_are_of_one_model_whatever_their_checkpoint",
    ),
    Mutant(
        "the previews of a run are measured as its images",
        "utils.data.image_sets:list_images",
        "folder_kinds.require_pictures(flag, root)",
        "None",
        "tests/test_diff_retrieval.py::test_a_run_is_no_folder_of_generated_images",
    ),
    Mutant(
        "values that are not finite are looked for after they were clamped",
        "utils.generation.degenerate:watched.look",
        "torch.isfinite(output)",
        "torch.isfinite(output.clamp(-1, 1))",
        "tests/generation/test_degenerate.py::test_values_are_looked_at_before_the_pipeline_clamps_them",
    ),
    Mutant(
        "words inserted behind what the text encoder reads change nothing",
        "utils.data.caption_edits:insert_words",
        "placed = own[:read]",
        "placed = own",
        "tests/data/test_caption_edits.py::test_words_inserted_into_a_long_prompt_are_all_read_and_their_places_uniform",
    ),
    Mutant(
        "a learning rate that never rises goes unsaid",
        "utils.training.start_notes:warmup_unfinished",
        "schedule.steps > schedule.warmup_steps",
        "schedule.steps <= schedule.warmup_steps",
        "tests/training/test_start_notes.py::test_a_warm_up_that_outlasts_the_run_is_said_with_the_rate_that_is_reached",
    ),
    Mutant(
        "the worst prompts are judged by the noise that chose them",
        "utils.card.card_steps:trial_step",
        "like.seed + 1",
        "like.seed",
        "tests/card/test_card_stage.py::test_the_base_model_sees_the_same_prompts_and_seeds",
    ),
    Mutant(
        "the descriptor's best match decides instead of the aligned one",
        "utils.card.card_verdicts:judged",
        "ALIGNED if rule.of == ALIGNED else 'score'",
        "'score'",
        "tests/card/test_card_verdicts.py::test_the_best_aligned_picture_decides_if_the_rule_is_about_aligned_scores",
    ),
    Mutant(
        "an interval counts images of one prompt as independent",
        "utils.card.card_verdicts:share_of",
        "each.image if each.prompt is None else each.prompt",
        "each.image",
        "tests/card/test_card_verdicts.py::test_the_share_resamples_prompts",
    ),
    Mutant(
        "captions are drawn from duplicated images first",
        "utils.generation.prompts:drawn_evenly",
        "[*turns, *many[both:], *others[both:]]",
        "[*many, *others]",
        "tests/generation/test_prompts.py::test_captions_are_drawn_by_turns_from_duplicated_and_other_pictures",
    ),
    Mutant(
        "copies made from another caption make a picture one to leave out",
        "utils.card.card_advice:pictures_to_leave_out",
        "each.copy and each.picture == key",
        "each.copy",
        "tests/card/test_card_advice.py::test_a_picture_is_left_out_if_half_of_its_own_images_are_copies_without_another_reason",
    ),
    Mutant(
        "a mitigation that may be chance is recommended",
        "utils.card.card_findings:below",
        "one.hi < other.lo",
        "one.value < other.value",
        "tests/card/test_card_findings.py::test_the_cheapest_mitigation_that_surely_helps_is_chosen",
    ),
    Mutant(
        "two trainings write into one folder",
        "utils.training.training_stage:only_run",
        "opts.dry_run or not launching.first_process()",
        "opts.dry_run or launching.first_process()",
        "tests/test_two_writers.py::test_a_run_holds_its_folder_until_its_end",
    ),
    Mutant(
        "mirrored copies are missed",
        "utils.retrieval.aligning.geometry:linear_of",
        "-1.0 if mirrored else 1.0",
        "1.0",
        "tests/retrieval/aligning/test_align.py::test_a_known_transformation_is_found",
    ),
    Mutant(
        "a box shows another place",
        "utils.retrieval.aligning.geometry:boxes_of",
        "box @ linear.T + shift",
        "box @ linear.T - shift",
        "tests/retrieval/aligning/test_geometry.py::test_boxes_by_hand",
    ),
    Mutant(
        "two plain grounds are a copy",
        "utils.retrieval.aligning.coarse:correlations",
        "under.possible & (spread > FLAT ** 2)",
        "under.possible",
        "tests/retrieval/aligning/test_coarse.py::test_a_flat_overlap_is_not_possible",
    ),
    Mutant(
        "a shift belongs to another scale",
        "utils.retrieval.aligning.coarse:_shift",
        "max(scale, 1.0)",
        "scale",
        "tests/retrieval/aligning/test_coarse.py::test_the_best_placement_is_the_one_that_was_made",
    ),
    Mutant(
        "a corner on a corner is a copy",
        "utils.retrieval.aligning.refine:refined",
        "share < LEAST_OVERLAP",
        "share < 0",
        "tests/retrieval/aligning/test_refine.py::test_a_placement_with_too_little_overlap_scores_below_any_other",
    ),
    Mutant(
        "a single edge is a copy",
        "utils.retrieval.aligning.agreement:trusted",
        "ENOUGH_DETAIL / found.clamp_min(1e-06)",
        "0 / found.clamp_min(1e-06)",
        "tests/retrieval/aligning/test_agreement.py::test_what_is_missing_counts_more_with_little_detail",
    ),
    Mutant(
        "a grey copy is missed",
        "utils.retrieval.aligning.agreement:_both_ways",
        "torch.where(grey, back, forth)",
        "lower",
        "tests/retrieval/aligning/test_align.py::test_colours_that_changed_are_undone",
    ),
    Mutant(
        "scattered pixels are a copied part",
        "utils.retrieval.aligning.agreement:copied_area",
        "np.bincount(parts.ravel())[1:].max()",
        "np.bincount(parts.ravel())[1:].sum()",
        "tests/retrieval/aligning/test_agreement.py::test_the_copied_area_is_the_largest_connected_part_by_hand",
    ),
    Mutant(
        "the worst matches are candidates",
        "utils.retrieval.candidates:best_of_views",
        "-scores[:, q].ravel()",
        "scores[:, q].ravel()",
        "tests/retrieval/test_candidates.py::test_the_best_of_views_by_hand",
    ),
    Mutant(
        "windows of mirrored images are upside down",
        "utils.retrieval.aligning.windows:WindowSearch.scores",
        "content.flip(2)",
        "content.flip(1)",
        "tests/retrieval/aligning/test_windows.py::test_scores_equal_a_loop_over_all_pairs_of_windows",
    ),
    Mutant(
        "a model is judged by its share, not by the interval",
        "utils.reports.card_tables:verdict",
        "share['lo'] > limit",
        "share['value'] > limit",
        "tests/reports/test_card_page.py::test_the_whole_interval_decides_the_colour",
    ),
    Mutant(
        "a caption writes into a model's page",
        "utils.reports.card_markdown:_table",
        "plain(cell)",
        "cell",
        "tests/reports/test_card_markdown.py::test_it_holds_tables_of_numbers_and_commands_and_nothing_to_load",
    ),
    Mutant(
        "a flag is ignored",
        "utils.training.train_mitigations:train_hooks",
        "edits=[each.edit_caption for each in captions]",
        "edits=[]",
        "tests/training/test_train_mitigations.py::test_a_duplicated_image_draws_its_caption_and_then_the_mitigation_applies",
    ),
    Mutant(
        "a flag is ignored",
        "utils.models.embedding_edits:add_noise",
        "strength * noise.to(embeddings)",
        "0 * noise.to(embeddings)",
        "tests/models/test_embedding_edits.py::test_noise_by_hand_and_its_size",
    ),
    Mutant(
        "duplicated images are not drawn more often",
        "utils.data.duplication:DrawOrder.epoch",
        "self.probabilities is None",
        "True",
        "tests/data/test_duplication.py::test_five_percent_of_weight_five_are_twenty_percent_of_draws",
    ),
    Mutant(
        "held-out images are drawn after all",
        "utils.training.training_job:without_held_out",
        "images=data.images.take(kept)",
        "images=data.images",
        "tests/training/test_training_job.py::test_images_that_are_held_out_are_never_drawn",
    ),
    Mutant(
        "held-out images are drawn after all",
        "utils.retrieval.evaluation_inputs:_without",
        "listed.take(np.flatnonzero(~aside))",
        "listed",
        "tests/retrieval/test_evaluation_inputs.py::test_held_out_images_of_a_run_are_no_training_images",
    ),
    Mutant(
        "duplicated images are not drawn more often",
        "utils.data.training_data:captioned_images",
        "torch.where(duplicated, weight, 1.0)",
        "torch.where(duplicated, 1.0, weight)",
        "tests/data/test_training_data.py::test_duplicated_images_come_five_times_as_often",
    ),
    Mutant(
        "noise of the batch, not of the image",
        "utils.training.step_random:latent_noise",
        "noise = torch.randn(latent_shape, generator=generator)",
        "noise = torch.randn(latent_shape)",
        "tests/training/test_trainer.py::test_noise_belongs_to_the_slot_not_to_the_batch",
    ),
    Mutant(
        "noise of the batch, not of the image",
        "utils.training.step_random:StepRandom.of_samples",
        "seeding.torch_generator(self.seed, stream, self.split, self.step, slot)",
        "seeding.torch_generator(self.seed, stream, 0, self.step, slot)",
        "tests/training/test_trainer.py::test_noise_belongs_to_the_slot_not_to_the_batch",
    ),
    Mutant(
        "noise of the batch, not of the image",
        "utils.generation.sampling:generate",
        "torch.Generator().manual_seed(job.seed)",
        "torch.Generator().manual_seed(batch[0].seed)",
        "tests/generation/test_sampling.py::test_an_image_does_not_depend_on_its_batch",
    ),
    Mutant(
        "noise of the batch, not of the image",
        "utils.models.embedding_edits:drawn_noise",
        "torch.randn(embedding.shape, generator=generator)",
        "torch.randn(embedding.shape)",
        "tests/generation/test_mitigations.py::test_noise_on_embeddings_is_each_images_own_and_scales_with_lambda",
    ),
    Mutant(
        "prompts of other images",
        "utils.generation.sampling:image_jobs",
        "prompts[index // images_per_prompt]",
        "prompts[(index + 1) // images_per_prompt % len(prompts)]",
        "tests/generation/test_sampling.py::test_image_i_belongs_to_prompt_i_div_imb",
    ),
    Mutant(
        "prompts of other images",
        "utils.generation.sampling:image_jobs",
        "edited_prompt(prompts, hooks, index // images_per_prompt, seed=seed)",
        "hooks.edit_prompt(prompt.text, seeding.numpy_rng(seed, 'prompt-edit', index))",
        "tests/generation/test_sampling.py::test_an_edit_is_drawn_once_a_prompt_and_does_not_depend_on_their_number",
    ),
    Mutant(
        "prompts of other images",
        "utils.retrieval.evaluation_inputs:read_queries",
        "listed.keys",
        "listed.keys[1:] + listed.keys[:1]",
        "tests/retrieval/test_evaluation_inputs.py::test_prompts_are_joined_by_file_not_by_order",
    ),
    Mutant(
        "dropped captions take random numbers from those of the captions",
        "utils.data.training_data:Draws._dropped",
        "'caption-dropout'",
        "'caption'",
        "tests/data/test_training_data.py::test_whether_a_caption_is_dropped_does_not_depend_on_its_edit",
    ),
    Mutant(
        "the last of several captions of an image wins",
        "utils.data.caption_files:_of_rows",
        "image in entries",
        "False",
        "tests/data/test_caption_files.py::test_several_rows_of_an_image_are_its_captions",
    ),
    Mutant(
        "texts of a tar file belong to all images with the same start of a name",
        "utils.data.tar_texts:TarTexts.add",
        "whole_stem(name)",
        "cut_stem(name)",
        "tests/data/test_tar_shards.py::test_a_text_belongs_to_the_image_with_its_whole_stem",
    ),
    Mutant(
        "captions of another image",
        "utils.data.training_data:Draws.prompt",
        "self.data.images.keys[index]",
        "self.data.images.keys[index - 1]",
        "tests/data/test_training_data.py::test_captions_are_those_of_the_image",
    ),
    Mutant(
        "captions of another image",
        "utils.data.training_data:CaptionedImages.take",
        "self.weights[indices]",
        "self.weights[:len(indices)]",
        "tests/data/test_training_data.py::test_what_belongs_to_an_image_goes_with_it_into_its_shard",
    ),
    Mutant(
        "guidance changes at the wrong step",
        "utils.generation.guidance:StaticTransition.__call__",
        "prediction.timestep > self.start",
        "prediction.timestep >= self.start",
        "tests/generation/test_guidance.py::test_the_static_transition_is_passed_at_its_timestep",
    ),
    Mutant(
        "guidance changes at the wrong step",
        "utils.generation.denoiser_hook:_Interception.ask",
        "self.scheduler.timesteps[self.evaluation]",
        "self.scheduler.timesteps[max(self.evaluation - 1, 0)]",
        "tests/generation/test_guidance.py::test_the_static_transition_agrees_with_a_loop_written_by_hand",
    ),
    Mutant(
        "guidance changes at the wrong step",
        "utils.generation.guidance:DynamicTransition.__call__",
        "return guided(prediction, torch.where(self.passed, self.scale, self.before))",
        'late, self.before_last = getattr(self, "before_last", self.passed & False), self.passed\nreturn guided(prediction, torch.where(late, self.scale, self.before))',
        "tests/generation/test_guidance.py::test_the_dynamic_transition_is_each_images_first_local_minimum",
    ),
    Mutant(
        "guidance branches are mixed up",
        "utils.generation.denoiser_hook:_Interception.at_output",
        "unconditional, conditional = predicted.chunk(2)",
        "conditional, unconditional = predicted.chunk(2)",
        "tests/generation/test_denoiser_hook.py::test_both_predictions_can_be_replaced",
    ),
    Mutant(
        "processes differ from one process",
        "utils.generation.generation_stage:_share",
        "len(items) * processes.index // processes.count",
        "len(items) // processes.count * processes.index",
        "tests/generation/test_generation_stage.py::test_processes_share_what_is_missing_evenly_and_completely",
    ),
    Mutant(
        "processes differ from one process",
        "utils.training.trainer:Trainer.step",
        "self.rate(number)",
        "self.rate(number * self.computation.accelerator.num_processes)",
        "tests/test_two_processes.py::test_two_processes_are_one_of_twice_the_batch",
    ),
    Mutant(
        "processes differ from one process",
        "utils.retrieval.features:_shared_pass",
        "len(images) * (processes.index + n)",
        "len(images) * n * (processes.index + 1)",
        "tests/test_measuring_processes.py::test_processes_that_meet_without_a_launcher_measure_what_one_does",
    ),
    Mutant(
        "not normalised, or normalised twice",
        "utils.retrieval.formulas.similarity:normalised",
        "descriptors.float() / descriptors.float().norm(dim=1, keepdim=True).clamp_min(1e-12)",
        "descriptors.float()",
        "tests/retrieval/formulas/test_similarity.py::test_normalised_rows_have_length_one_and_zero_stays_zero",
    ),
    Mutant(
        "not normalised, or normalised twice",
        "utils.data.transforms:to_tensor",
        "(np.asarray(image, np.float32) / 255 - shift) / scale",
        "np.asarray(image, np.float32) / 255",
        "tests/data/test_transforms.py::test_training_input_is_in_minus_one_to_one_and_exact_without_resizing",
    ),
    Mutant(
        "not normalised, or normalised twice",
        "utils.training.latents:posterior_sample",
        "(mean + std * noise) * scaling_factor",
        "mean + std * noise",
        "tests/training/test_latents.py::test_posterior_sample_by_hand",
    ),
    Mutant(
        "not normalised, or normalised twice",
        "utils.retrieval.formulas.similarity:_in_chunks",
        "descriptors.unflatten(1, (chunks, -1))",
        "normalised(descriptors.reshape(len(descriptors) * chunks, -1)).unflatten(0, (-1, chunks))",
        "tests/retrieval/formulas/test_similarity.py::test_chunks_are_not_normalised_again",
    ),
    Mutant(
        "loss bank wrong",
        "utils.training.loss_control:AntiGradientControl.update",
        "self.bank.scatter_(0, timesteps, updated)",
        "",
        "tests/training/test_loss_control.py::test_rule_and_bank_agree_with_a_loop_over_samples",
    ),
    Mutant(
        "loss bank wrong",
        "utils.training.trainer:Trainer._loss",
        "kept = self.loss_rule.keep(every, at)\nself.loss_rule.update(every, at)",
        "self.loss_rule.update(every, at)\nkept = self.loss_rule.keep(every, at)",
        "tests/training/test_trainer.py::test_loss_control_looks_at_each_micro_batch_of_a_step",
    ),
    Mutant(
        "loss bank wrong",
        "utils.training.trainer:Trainer._loss",
        "kept.sum().clamp_min(1)",
        "len(kept)",
        "tests/training/test_trainer.py::test_dropped_samples_weigh_nothing_and_are_not_counted_in_the_mean",
    ),
    Mutant(
        "loss bank wrong",
        "utils.training.trainer:Trainer._loss",
        "self.team.gather(losses.detach())",
        "self.team.gather(weighted.detach())",
        "tests/training/test_trainer.py::test_snr_weights_do_not_reach_the_bank",
    ),
    Mutant(
        "loss bank wrong",
        "utils.training.loss_control:AntiGradientControl.update",
        "same.triu(1).sum(1)",
        "0 * same.sum(1)",
        "tests/training/test_loss_control.py::test_rule_and_bank_agree_with_a_loop_over_samples",
    ),
    Mutant(
        "ensemble average wrong",
        "utils.training.ensemble:Ensemble._end",
        "alpha=self.plan.sizes[split]",
        "alpha=sum(self.plan.sizes) / self.plan.splits",
        "tests/training/test_ensemble.py::test_the_average_is_weighted_by_shard_size",
    ),
    Mutant(
        "ensemble average wrong",
        "utils.training.ensemble:Ensemble._end",
        "self.model.copy_state()",
        "{n: (t + self.waiting.get(split - 1, {n: t})[n]) / 2 for n, t in self.model.copy_state().items()}",
        "tests/training/test_ensemble.py::test_moments_and_bank_stay_with_a_copy_and_are_not_averaged",
    ),
    Mutant(
        "ensemble average wrong",
        "utils.training.trainer:Trainer.load_copy",
        "self.loss_rule.reset()",
        "",
        "tests/training/test_ensemble.py::test_moments_and_bank_stay_with_a_copy_and_are_not_averaged",
    ),
    Mutant(
        "resume forgets",
        "utils.training.ensemble:Ensemble.state",
        "self.waiting.items()",
        "()",
        "tests/training/test_ensemble.py::test_a_state_continues_bit_for_bit",
    ),
    Mutant(
        "resume forgets",
        "utils.training.training_loop:Loop._save_state",
        "self._pending_table()",
        "None",
        "tests/training/test_training_loop.py::test_a_signal_saves_a_state_and_ends",
    ),
    Mutant(
        "resume forgets",
        "utils.files.run_folder:NewRun.begin",
        "min(metrics_bytes, self.metrics_path.stat().st_size)",
        "self.metrics_path.stat().st_size",
        "tests/training/test_training_loop.py::test_a_killed_run_continues_to_the_same_bits",
    ),
    Mutant(
        "resume forgets",
        "utils.files.resume_states:list_states",
        '(path / "state.json").is_file()',
        "",
        "tests/files/test_resume_states.py::test_what_a_killed_process_left_is_not_a_state_and_is_cleared",
    ),
    Mutant(
        "a picture other than a viewer shows it",
        "utils.data.image_files:to_rgb",
        "colour_profiles.to_srgb(image, profile)",
        "image",
        "tests/data/test_colour_profiles.py::test_a_profile_of_primaries_is_converted_as_the_formulas_say",
    ),
    Mutant(
        "a picture other than a viewer shows it",
        "utils.data.colour_profiles:_changes_nothing",
        "int(np.abs(moved).max()) <= SAME_COLOUR",
        "False",
        "tests/data/test_colour_profiles.py::test_pictures_in_srgb_stay_as_they_are_to_the_bit",
    ),
    Mutant(
        "a stale cache is used",
        "utils.retrieval.feature_cache:change_stamp",
        "images.content_fingerprint",
        '""',
        "tests/retrieval/test_feature_cache.py::test_other_pictures_of_equal_names_sizes_and_times_have_other_features",
    ),
    Mutant(
        "a stale cache is used",
        "utils.training.row_cache:RowCache._valid",
        "stamps == self.stamps[first:last]",
        "np.ones(len(stamps), bool)",
        "tests/training/test_frozen_outputs.py::test_a_changed_image_is_encoded_again",
    ),
    Mutant(
        "a stale cache is used",
        "utils.training.frozen_outputs:CachedLatents.moments",
        "[int(f) for f in flipped]",
        "[0 for f in flipped]",
        "tests/training/test_frozen_outputs.py::test_kept_moments_are_those_of_encoding_each_view",
    ),
    Mutant(
        "a stale cache is used",
        "utils.retrieval.feature_cache:FeatureCache.path",
        "extractor.record",
        "None",
        "tests/retrieval/test_feature_cache.py::test_whatever_the_features_depend_on_has_a_file_of_its_own",
    ),
    Mutant(
        "an image is its own background",
        "utils.retrieval.formulas.similarity:top_matches",
        "keys = keys.masked_fill(rows[:, None] == indices[None], torch.iinfo(torch.int64).min)",
        "",
        "tests/retrieval/formulas/test_similarity.py::test_an_image_is_not_its_own_match_but_its_twin_is",
    ),
    Mutant(
        "an image is its own background",
        "utils.retrieval.measurement:_background",
        "exclude_self=True",
        "exclude_self=False",
        "tests/retrieval/test_measurement.py::test_scores_of_matches_sources_and_background_agree_with_the_whole_matrix",
    ),
    Mutant(
        "ties",
        "utils.retrieval.formulas.similarity:_order_keys",
        "LAST_INDEX - indices",
        "indices",
        "tests/retrieval/formulas/test_similarity.py::test_ties_go_to_the_lower_index_whatever_the_blocks",
    ),
    Mutant(
        "ties",
        "utils.index.search:ordered",
        "np.lexsort((np.where(rows == NONE, np.iinfo(np.int64).max, rows), -scores), axis=1)",
        "np.argsort(scores, axis=1)[:, ::-1]",
        "tests/index/test_search.py::test_equal_scores_come_in_the_order_of_rows_through_blocks_and_parts",
    ),
    Mutant(
        "wrong source",
        "utils.retrieval.metrics:duplication",
        "np.maximum(sources, 0)",
        "measured.matches.indices[:, 0]",
        "tests/retrieval/test_metrics.py::test_duplication_by_match_and_by_source",
    ),
    Mutant(
        "a threshold that innocents do not set",
        "utils.retrieval.formulas.threshold:calibrated",
        "allowed(len(scores), false_positives)",
        "allowed(len(scores), false_positives) + 1",
        "tests/retrieval/formulas/test_threshold.py::test_it_is_the_lowest_score_that_few_enough_exceed",
    ),
    Mutant(
        "a threshold that innocents do not set",
        "utils.retrieval.formulas.threshold:share_interval",
        "scores > drawn",
        "scores > threshold",
        "tests/retrieval/formulas/test_threshold.py::test_the_share_s_interval_takes_in_the_threshold_s_own_uncertainty",
    ),
    Mutant(
        "a threshold that innocents do not set",
        "utils.retrieval.innocents:matches_of_others",
        "groups[found] == np.asarray(own_group)[:, None]",
        "groups[found] < 0",
        "tests/retrieval/test_innocents.py::test_matches_of_others_agree_with_a_naive_search",
    ),
    Mutant(
        "a threshold that innocents do not set",
        "utils.retrieval.verdict:verdict_of",
        "rate > VOID_RATE",
        "rate > 1",
        "tests/retrieval/test_verdict.py::test_a_verdict_by_hand",
    ),
    Mutant(
        "wrong source",
        "utils.retrieval.measurement:origins_of",
        "scores(known, sources[known])",
        "scores(known, (sources[known] + 1) % len(sets.training))",
        "tests/retrieval/test_measurement.py::test_scores_of_matches_sources_and_background_agree_with_the_whole_matrix",
    ),
    Mutant(
        "wrong source",
        "utils.retrieval.evaluation_files:match_rows",
        "measured.origins.is_duplicated(match)",
        "measured.origins.is_duplicated(q)",
        "tests/retrieval/test_evaluation_files.py::test_duplicated_speaks_of_the_match",
    ),
    Mutant(
        "another descriptor",
        "utils.retrieval.descriptors.sscd:build",
        "transforms.sscd_input(preset)",
        "transforms.sscd_input('dcr')",
        "tests/retrieval/descriptors/test_sscd.py::test_a_torchscript_file_gets_its_presets_input",
    ),
    Mutant(
        "another descriptor",
        "utils.retrieval.descriptors.timm_models:_tokens.forward",
        "len(model.blocks) - layer",
        "layer - 1",
        "tests/retrieval/descriptors/test_timm_models.py::test_a_layer_is_the_cls_token_of_that_block_from_the_end_or_its_patches",
    ),
    Mutant(
        "distance between image sets wrong",
        "utils.retrieval.descriptors.inception:published.network",
        "_body(module)(twice)",
        "_body(module)((twice + 1) / 2)",
        "tests/retrieval/descriptors/test_inception.py::test_the_published_scale_is_what_the_page_says",
    ),
    Mutant(
        "distance between image sets wrong",
        "utils.retrieval.measurement:_first_side",
        "min(images.open(i).size)",
        "max(images.open(i).size)",
        "tests/retrieval/test_measurement.py::test_training_images_are_cut_to_the_side_of_the_first_readable_generation",
    ),
    Mutant(
        "distance between image sets wrong",
        "utils.retrieval.formulas.coverage:radii",
        "torch.cat(nearest)[:, k]",
        "torch.cat(nearest)[:, k - 1]",
        "tests/retrieval/formulas/test_coverage.py::test_blocks_agree_with_the_definitions",
    ),
    Mutant(
        "wrong interval",
        "utils.retrieval.formulas.bootstrap:resamplings",
        "names = {name: i for i, name in enumerate(sorted(set(clusters)))}",
        "clusters = range(len(clusters))\nnames = {name: i for i, name in enumerate(sorted(set(clusters)))}",
        "tests/retrieval/formulas/test_bootstrap.py::test_prompts_are_resampled_not_images",
    ),
    Mutant(
        "wrong interval",
        "utils.retrieval.formulas.bootstrap:share",
        "hits.any() and (not hits.all())",
        "True",
        "tests/retrieval/formulas/test_bootstrap.py::test_a_share_of_none_or_all_has_an_interval_too",
    ),
    Mutant(
        "rows of features are shifted",
        "utils.retrieval.features:extract",
        "len(set(readable)) > 1",
        "False",
        "tests/retrieval/test_features.py::test_an_image_that_became_unreadable_does_not_shift_rows_that_were_kept",
    ),
    Mutant(
        "rows of features are shifted",
        "utils.retrieval.measurement:without_unreadable",
        "[sets.queries[i] for i in kept]",
        "sets.queries[:len(kept)]",
        "tests/retrieval/test_measurement.py::test_prompts_and_sources_stay_with_their_images_when_some_cannot_be_read",
    ),
    Mutant(
        "alignment with another prompt",
        "utils.retrieval.measurement:_cosines",
        "q.source_prompt",
        "q.prompt",
        "tests/retrieval/test_measurement.py::test_edited_prompts_are_scored_when_one_was_edited",
    ),
    Mutant(
        "alignment with another prompt",
        "utils.retrieval.formulas.alignment:cosines",
        "number[p]",
        "number[unique[0]]",
        "tests/retrieval/formulas/test_alignment.py::test_each_image_goes_with_its_own_prompt_and_a_prompt_is_embedded_once",
    ),
    Mutant(
        "complexity or memorized ratio wrong",
        "utils.retrieval.formulas.complexity:correlation",
        "np.corrcoef(values, scores)[0, 1]",
        "-np.corrcoef(values, scores)[0, 1]",
        "tests/retrieval/formulas/test_complexity.py::test_correlation_agrees_with_scipy_and_is_none_without_spread",
    ),
    Mutant(
        "complexity or memorized ratio wrong",
        "utils.retrieval.formulas.memorized:ratios",
        "nearest.mean(1)",
        "nearest[:, 1:].mean(1)",
        "tests/retrieval/formulas/test_memorized.py::test_blocks_agree_with_the_definition",
    ),
    Mutant(
        "a threshold of 0 is taken for none",
        "utils.retrieval.measurement:threshold_of",
        "how.copy_threshold is None",
        "not how.copy_threshold",
        "tests/retrieval/test_measurement.py::test_a_threshold_that_is_given_beats_the_descriptors",
    ),
    Mutant(
        "numbers compared that were not measured alike",
        "utils.retrieval.compare_differences:",
        '"preset"',
        "",
        "tests/retrieval/test_compare_evaluations.py::test_numbers_that_were_not_measured_alike_are_refused_and_with_force_marked",
    ),
    Mutant(
        "seeds that do not seed",
        "utils.runtime.seeding:_entropy",
        "zlib.crc32(stream.encode())",
        "abs(hash(stream))",
        "tests/runtime/test_seeding.py::test_a_seed_does_not_depend_on_the_process",
    ),
    Mutant(
        "bad data passes",
        "utils.data.image_sets:require_readable",
        "len(bad) > accepted or len(bad) == total",
        "len(bad) == total",
        "tests/data/test_image_sets.py::test_bad_images_are_left_out_up_to_the_share_that_is_accepted",
    ),
    Mutant(
        "bad data passes",
        "utils.retrieval.features:require_finite",
        "(~rows.isfinite().all(1)).nonzero()[:, 0].tolist()",
        "[]",
        "tests/retrieval/test_features.py::test_features_that_are_not_finite_are_an_error_that_names_an_image",
    ),
    Mutant(
        "index search not exact",
        "utils.index.vector_index:VectorIndex._by_shard",
        'side="right"',
        'side="left"',
        "tests/index/test_vector_index.py::test_rows_count_through_the_shards_in_natural_order",
    ),
    Mutant(
        "index search not exact",
        "utils.index.search:Exact.search",
        "places + first",
        "places",
        "tests/index/test_search.py::test_exact_search_is_the_naive_one",
    ),
    Mutant(
        "index search not exact",
        "utils.index.search:",
        "PROBES, CANDIDATES = 96, 32",
        "PROBES, CANDIDATES = 1, 1",
        "tests/index/test_search.py::test_approximate_search_finds_planted_copies_and_scores_them_exactly",
    ),
    Mutant(
        "an index of other images",
        "utils.index.index_resume:rebuild_reason",
        'not content_stamps.same(facts["made_of"], source.change_stamp(name))',
        "False",
        "tests/index/test_index_resume.py::test_a_shard_that_is_damaged_or_of_other_images_is_made_anew",
    ),
    Mutant(
        "data lost while several processes write",
        "utils.index.shard_building:_make_if_free",
        "mine and not shard_files.is_finished(build.root, name)",
        "not shard_files.is_finished(build.root, name)",
        "tests/index/test_index_build.py::test_a_shard_in_other_hands_is_left_to_them",
    ),
    Mutant(
        "data lost while several processes write",
        "utils.files.locks:",
        "os.register_at_fork(after_in_child=_close_in_child)",
        "",
        "tests/files/test_locks.py::test_a_forked_worker_does_not_keep_what_its_parent_held",
    ),
    Mutant(
        "data lost while several processes write",
        "utils.files.generation_folder:Generation._parts",
        "f'{self.first_part_path.name}*'",
        "self.first_part_path.name",
        "tests/files/test_generation_folder.py::test_processes_write_parts_of_their_own_which_the_next_run_takes_over",
    ),
    Mutant(
        "near-duplicates weights",
        "utils.retrieval.formulas.groups:block_pairs",
        "range(i, len(spans))",
        "range(i, i + 1)",
        "tests/index/test_near_duplicates.py::test_blocks_give_the_components_of_the_whole_matrix",
    ),
    Mutant(
        "near-duplicates weights",
        "utils.index.deduplication_files:weights_of",
        "1 / groups.sizes[groups.numbers]",
        "0 * groups.sizes[groups.numbers] + 1.0",
        "tests/index/test_deduplication.py::test_training_on_the_folder_draws_a_group_as_often_as_one_image",
    ),
    Mutant(
        "statistics of the study",
        "benchmarks.study.findings:paired",
        "one[s] - other[s]",
        "other[s] - one[s]",
        "tests/benchmarks/study/test_findings.py::test_the_word_of_a_claim",
    ),
    Mutant(
        "statistics of the study",
        "benchmarks.study.findings:word_of",
        "p < LEVEL and (low > 0 or high < 0)",
        "low > 0 or high < 0",
        "tests/benchmarks/study/test_findings.py::test_an_interval_or_a_sign_test_alone_decides_nothing",
    ),
    Mutant(
        "statistics of the study",
        "benchmarks.study.findings:by_source",
        "np.flatnonzero(row.duplicated) if duplicated else range(len(values))",
        "range(len(values))",
        "tests/benchmarks/study/test_findings.py::test_duplicated_prompts_alone",
    ),
    Mutant(
        "the study trains on unequal samples",
        "benchmarks.study.experiments:StudyPlan.training_command",
        "training.copies * rounds",
        "rounds",
        "tests/benchmarks/study/test_experiments.py::test_every_training_sees_as_many_samples_whatever_its_copies_and_images",
    ),
    Mutant(
        "the study reuses rows of other options",
        "benchmarks.study.experiments:StudyPlan.key",
        "[self.run_key(self.needs(name), seed)]",
        "",
        "tests/benchmarks/study/test_experiments.py::test_a_key_changes_with_every_option_and_not_with_the_folder",
    ),
    Mutant(
        "the scene reader sees what is not there",
        "benchmarks.scene_reader:_things",
        "t.votes >= _FEWEST_FLAT",
        "t.votes >= 0",
        "tests/benchmarks/test_scene_reader.py::test_a_thing_that_is_not_there_is_not_read",
    ),
    Mutant(
        "the scene reader sees what is not there",
        "benchmarks.scene_reader:agreement",
        "got is not None and got == wanted",
        "got is None or got == wanted",
        "tests/benchmarks/test_scene_reader.py::test_agreement_by_hand",
    ),
    Mutant(
        "a detector does not score what it says",
        "utils.generation.detectors:_Magnitude.observe",
        "self.count >= self.evaluations",
        "False",
        "tests/generation/test_detectors.py::test_the_magnitude_by_hand",
    ),
    Mutant(
        "a detector does not score what it says",
        "utils.generation.detectors:_Magnitude.observe",
        "norm * prediction.distance_factor",
        "norm",
        "tests/generation/test_detectors.py::test_the_magnitude_is_that_of_the_noise_except_for_a_flow",
    ),
    Mutant(
        "a number is stored without what made it",
        "utils.retrieval.evaluation_record:settings_of",
        "{name: networks.record(name) for name in names}",
        "{}",
        "tests/retrieval/test_evaluation_stage.py::test_a_new_metric_is_computed_recorded_explained_and_compared",
    ),
    Mutant(
        "the worst aligned come first",
        "utils.retrieval.decided:order_shown",
        "-best_aligned(measured)",
        "best_aligned(measured)",
        "tests/retrieval/test_decided.py::test_the_order_is_by_aligned_and_nothing_to_align_is_last",
    ),
    Mutant(
        "another score than that of the threshold decides",
        "utils.retrieval.decided:deciding_scores",
        "best_aligned(measured) if decided.by_alignment else measured.matches.best",
        "measured.matches.best",
        "tests/retrieval/test_decided.py::test_a_copy_is_above_the_calibrated_threshold_of_what_decides",
    ),
    Mutant(
        "a box is drawn elsewhere",
        "utils.reports.aligned_pictures:in_square",
        "(left + x * width, top + y * height)",
        "(x * side, y * side)",
        "tests/reports/test_aligned_pictures.py::test_corners_of_a_box_on_a_fitted_picture_by_hand",
    ),
    Mutant(
        "a box is drawn elsewhere",
        "utils.reports.aligned_pictures:agreement_in_query",
        "(query, match)",
        "(match, query)",
        "tests/reports/test_aligned_pictures.py::test_the_map_in_a_generated_image_of_another_shape_by_hand",
    ),
    Mutant(
        "a picture that lies twice in the training set is an innocent of itself",
        "utils.retrieval.verdict_measurement:Scored.descriptor",
        "scores[~np.isin(matches, same)]",
        "scores",
        "tests/retrieval/test_second_look.py::test_a_picture_twice_in_training_is_no_innocent",
    ),
    Mutant(
        "a copy counts as part copied, too",
        "utils.retrieval.verdict_measurement:decide",
        "(look.areas > least) & ~thresholds.copies(look.best, made.threshold)",
        "look.areas > least",
        "tests/retrieval/test_second_look.py::test_a_part_is_no_copy_and_needs_more_than_innocents_hold",
    ),
    Mutant(
        "the second look at an index names another image",
        "utils.index.index_verdict:in_places",
        "int(np.searchsorted(rows, pair.match))",
        "int(pair.match)",
        "tests/index/test_index_verdict.py::test_rows_of_an_index_become_places_by_hand",
    ),
]


def chosen(words: list[str]) -> list[Mutant]:
    """The mutants whose kind, place or file contains one of the words; all if there are no words."""
    return [m for m in MUTANTS if not words or any(w in _searched(m) for w in words)]


def _searched(mutant: Mutant) -> str:
    return f"{mutant.kind} {mutant.place} {mutant.file}"


def main(argv: list[str] | None = None) -> None:
    """Check or try the chosen mutants; exit status 1 if one is missed or does not match."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="kind, place or file, or part of it"
    )
    parser.add_argument("--check", action="store_true", help="look the mutants up, run no test")
    parser.add_argument("--workers", type=int, default=2, help="mutants tried at once (default: 2)")
    opts = parser.parse_args(argv)
    mutants = chosen(opts.words)
    if not mutants:
        parser.error(f"no mutant's kind, place or file contains {' or '.join(opts.words)}")
    if opts.check:
        problems = check(mutants, ROOT)
        for problem in problems:
            print(problem)
        print(f"{len(mutants) - len(problems)} of {len(mutants)} mutants match the source")
        sys.exit(bool(problems))
    missed = run_mutants(
        mutants,
        root=ROOT,
        processes=prepared_processes(),
        workers=opts.workers,
        say=lambda line: print(line, flush=True),
    )
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
