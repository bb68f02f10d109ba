import json

import numpy as np
import pytest
import torch

from tests.pipelines import ddpm as miniature
from utils.models import ddpm, families, loading, schedulers
from utils.models.ddpm import Classes
from utils.runtime.errors import DataError, UsageError


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def with_ddim(pipeline):
    schedulers.use_scheduler(pipeline, "DDIM")
    return pipeline


@torch.no_grad()
def published(unet, noise, steps):
    """DDIM as the memorization of DDPMs was measured with it: timesteps 1, 1 + T / steps, ..., the
    last step to the least noise of the schedule; the clean image is clipped."""
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    times = [t + 1 for t in range(0, 1000, 1000 // steps)]
    x = noise.double()
    for now, then in zip(reversed(times), reversed([0, *times[:-1]]), strict=True):
        e = unet(x.float(), now).sample.double()
        clean = ((x - (1 - kept[now]) ** 0.5 * e) / kept[now] ** 0.5).clamp(-1, 1)
        # the published code names the step before the first "-1", whose share is that of timestep 0
        x = kept[then] ** 0.5 * clean + (1 - kept[then]) ** 0.5 * e
    return x


def test_ddim_takes_the_published_timesteps():
    pipeline = with_ddim(miniature())
    pipeline.scheduler.set_timesteps(50)
    assert pipeline.scheduler.timesteps.tolist() == list(range(981, 0, -20))
    found = ddpm.sample(pipeline, seeds(3), steps=10)
    noise = torch.randn(1, 3, 8, 8, generator=seeds(3)[0])
    expected = published(pipeline.unet, noise, 10)
    assert (found - expected).abs().max() < 1e-4
    assert expected.abs().max() > 0.1


def test_ancestral_sampling_is_that_of_the_library():
    pipeline = miniature()
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline(generator=seeds(5)[0], num_inference_steps=20).images[0]
    ours = ddpm.as_pictures(pipeline, ddpm.sample(pipeline, seeds(5), steps=20))[0]
    assert np.abs(np.asarray(own, float) - np.asarray(ours)).max() <= 1


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_depends_on_its_own_seed_alone(eta):
    pipeline = with_ddim(miniature(classes=2))
    together = ddpm.sample(pipeline, seeds(1, 2), steps=3, eta=eta, labels=[0, 1])
    for row, (seed, label) in enumerate([(1, 0), (2, 1)]):
        alone = ddpm.sample(pipeline, seeds(seed), steps=3, eta=eta, labels=[label])
        assert (alone[0] - together[row]).abs().max() < 1e-5
    noisier = ddpm.sample(pipeline, seeds(1, 2), steps=3, eta=1 - eta, labels=[0, 1])
    assert (noisier - together).abs().max() > 0.01


@torch.no_grad()
def test_guidance_leads_away_from_the_null_class():
    pipeline = with_ddim(miniature(classes=2, null=True))
    pipeline.unet.class_embedding.weight.mul_(10)
    unet, both = pipeline.unet, {"labels": [0, 1], "null": 2}
    plain = ddpm.sample(pipeline, seeds(1, 2), steps=1, **both)
    guided = ddpm.sample(pipeline, seeds(1, 2), steps=1, **both, guidance=3.0)
    noise = torch.cat([torch.randn(1, 3, 8, 8, generator=g) for g in seeds(1, 2)])
    # one step: the clean image is linear in the prediction while nothing is clipped
    given, without = (unet(noise, 1, torch.tensor(c)).sample for c in ([0, 1], [2, 2]))
    assert (given - without).abs().max() > 1e-3
    kept = pipeline.scheduler.alphas_cumprod
    predicted = without + 3 * (given - without)
    clean = ((noise - (1 - kept[1]) ** 0.5 * predicted) / kept[1] ** 0.5).clamp(-1, 1)
    expected = kept[0] ** 0.5 * clean + (1 - kept[0]) ** 0.5 * predicted
    assert (guided - expected).abs().max() < 1e-4
    assert (guided - plain).abs().max() > 1e-4


def test_a_folder_in_the_layout_of_the_hub_loads(tmp_path):
    """Weights and configurations beside model_index.json, as the hub's DDPMs have them."""
    miniature().save_pretrained(tmp_path)
    for part in ("unet", "scheduler"):
        for path in (tmp_path / part).iterdir():
            path.rename(tmp_path / path.name)
        (tmp_path / part).rmdir()
    name, configs = families.read("--modelpath", str(tmp_path))
    assert (name, configs.side, configs.factor) == ("DDPMPipeline", 8, 1)
    pipeline = loading.load_pipeline("--modelpath", tmp_path)
    expected = miniature().unet.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in pipeline.unet.state_dict().items())
    assert pipeline.scheduler.config.variance_type == "fixed_large"


def test_classes_are_named_by_their_file_else_numbered(tmp_path):
    def read(count=3):
        return ddpm.read_classes("--modelpath", tmp_path, {"num_class_embeds": count})

    assert ddpm.read_classes("--modelpath", tmp_path, {}) is None
    assert read() == Classes(("0", "1", "2"))
    ddpm.write_classes(tmp_path, Classes(("cat", "dog"), null=2))
    assert read() == Classes(("cat", "dog"), null=2)
    with pytest.raises(DataError, match=r"classes.json: names 2 classes .* has 4 labels"):
        read(4)
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["a", "b"], "null": 0}))
    with pytest.raises(DataError, match="null class 0"):
        read()
    with pytest.raises(UsageError, match="embeds classes by 'timestep'"):
        ddpm.read_classes("--modelpath", tmp_path, {"class_embed_type": "timestep"})


def test_classes_are_chosen_by_name_or_number():
    animals = Classes(("cat", "dog", "owl"), null=3)
    assert ddpm.choose_labels(animals, (), "m") == [0, 1, 2]
    assert ddpm.choose_labels(animals, ("owl", "0"), "m") == [2, 0]
    # names that are numbers mean what they say
    assert ddpm.choose_labels(Classes(("1", "0")), ("1",), "m") == [0]
    assert ddpm.choose_labels(None, (), "m") is None
    with pytest.raises(
        UsageError, match="--classes='owl,cow': 'm' has no class 'cow'; use .*: cat, dog, owl$"
    ):
        ddpm.choose_labels(animals, ("owl", "cow"), "m")
    with pytest.raises(UsageError, match="--classes='cat': 'm' is not conditioned on classes"):
        ddpm.choose_labels(None, ("cat",), "m")


def test_grey_pictures_become_rgb():
    pictures = ddpm.as_pictures(miniature(), torch.tensor([-2.0, 0, 1, 2]).reshape(1, 1, 2, 2))
    assert pictures[0].mode == "RGB"
    assert np.asarray(pictures[0])[..., 2].tolist() == [[0, 128], [255, 255]]
