"""What tests share: a random pipeline of a few thousand parameters, scenes on disk, tiny-sd, and a
script runner."""

import importlib
import io
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a network
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# the longest files go to the workers first: at the end one worker would wait for the other
SLOW = (
    "test_readme.py",
    "test_diff_train.py",
    "test_diff_retrieval.py",
    "test_measuring_processes.py",
    "test_two_processes.py",
    "benchmarks/test_retrieval.py",
    "test_kill_and_resume.py",
    "test_training_loop.py",
    "test_build_tiny_sd.py",
    "test_build_tiny_sd3.py",
    "test_index_evaluation.py",
    "test_diff_inference.py",
    "test_card_stage.py",
    "test_kill_and_continue_index.py",
    "test_inception.py",
)
SEED_FLAGS = ("--report_to", "none", "--num_workers", "0")


def _micro_parts(prediction_type="epsilon"):
    """Parts of a StableDiffusionPipeline that compute in a millisecond: 8 channels, 16-pixel
    images."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from utils.models.parts import Parts

    torch.manual_seed(0)
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    ids = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(ids)}, merges=[], model_max_length=32
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            projection_dim=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        mid_block_add_attention=False,
        scaling_factor=0.5,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Parts(pipeline)


def pytest_collection_modifyitems(items):
    """Slow files first, the order within a file as it was."""
    items.sort(
        key=lambda item: next(
            (i for i, name in enumerate(SLOW) if item.path.as_posix().endswith(name)), len(SLOW)
        )
    )


def shorten_previews(patch):
    """Previews of a training take two steps: fifty take three quarters of a training of tests."""
    from utils.generation import sampling
    from utils.training import previews

    class Short:
        def __getattr__(self, name):
            return getattr(sampling, name)

        def SampleSettings(self, *, steps, **others):
            return sampling.SampleSettings(steps=min(steps, 2), **others)

    patch.setattr(previews, "sampling", Short())


def blank_plots(patch):
    """Plots are built but not drawn: drawing them takes two fifths of an evaluation of tests."""
    from utils.reports import plots

    drawn = plots.save

    def save(figure, path):
        from matplotlib import pyplot
        from PIL import Image

        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (72, 38)).save(path)
        pyplot.close(figure)

    save.drawn = drawn
    patch.setattr(plots, "save", save)


@pytest.fixture(scope="session", autouse=True)
def quick_pictures():
    """See `shorten_previews` and `blank_plots`; where no module of tests imports torch, nothing is
    trained."""
    with pytest.MonkeyPatch.context() as patch:
        blank_plots(patch)
        if "torch" in sys.modules:
            shorten_previews(patch)
        yield


@pytest.fixture
def drawn_plots(monkeypatch):
    """Plots are drawn, as users get them."""
    from utils.reports import plots

    monkeypatch.setattr(plots, "save", plots.save.drawn)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """No test finds the features that another one, or the user, kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def micro_parts():
    """Fresh parts of the random pipeline; a call takes the prediction type."""
    return _micro_parts


@pytest.fixture(scope="session")
def micro_sd(tmp_path_factory):
    """The random pipeline as a folder."""
    folder = tmp_path_factory.mktemp("models") / "micro-sd"
    _micro_parts().assemble().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sd():
    """The pretrained pipeline that the project carries."""
    return ROOT / "assets" / "tiny-sd"


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory):
    """Twelve scenes of 32 px in the published layout; no test writes here."""
    from utils.data import scenes

    folder = tmp_path_factory.mktemp("data") / "scenes"
    scenes.write_scenes(folder, count=12, seed=3, size=32)
    return folder


@pytest.fixture
def script(monkeypatch, capsys):
    """Run a stage script in this process: script("diff_train", "--flag", value ...) -> what it
    printed; script.noticed is what it wrote to stderr."""

    def run(name, *arguments):
        module = importlib.import_module(name)
        capsys.readouterr()
        module.main([str(a) for a in arguments])
        written = capsys.readouterr()
        run.noticed = written.err
        return written.out

    return run


@pytest.fixture
def refused(capsys):
    """Run a stage script that must refuse: refused("diff_train", ...) -> its one line; checks exit
    status 2."""

    def run(name, *arguments, status=2):
        module = importlib.import_module(name)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            module.main([str(a) for a in arguments])
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if ": error: " in line]
        assert stopped.value.code == status
        assert len(errors) == 1
        assert not any("Traceback" in line for line in lines)
        return errors[0]

    return run


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory, micro_sd, scenes_dir):
    """A finished run of four steps on twelve scenes; no test writes here."""
    import diff_train

    folder = tmp_path_factory.mktemp("runs") / "run"
    diff_train.main(
        [
            "--pretrained_model_name_or_path",
            str(micro_sd),
            "--instance_data_dir",
            str(scenes_dir / "train"),
            "--instance_prompt_loc",
            str(scenes_dir / "captions.json"),
            "--class_prompt",
            "instancelevel_blip",
            "--duplication",
            "dup_both",
            "--weight_pc",
            "0.25",
            "--resolution",
            "16",
            "--center_crop",
            "--train_batch_size",
            "2",
            "--max_train_steps",
            "4",
            "--save_steps",
            "2",
            "--modelsavesteps",
            "2",
            "--log_steps",
            "1",
            "--learning_rate",
            "1e-3",
            "--lr_warmup_steps",
            "0",
            "--seed",
            "7",
            "--output_dir",
            str(folder),
            *SEED_FLAGS,
        ]
    )
    return folder


@pytest.fixture(scope="session")
def lora(tmp_path_factory, micro_sd):
    """LoRA weights of rank two on the U-Net's attention, saved as diffusers saves them."""
    import peft
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    folder = tmp_path_factory.mktemp("lora")
    pipeline = StableDiffusionPipeline.from_pretrained(micro_sd, dtype=torch.float32)
    pipeline.unet.add_adapter(
        peft.LoraConfig(
            r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"
        )
    )
    torch.manual_seed(0)
    for name, weight in pipeline.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    layers = convert_state_dict_to_diffusers(peft.get_peft_model_state_dict(pipeline.unet))
    pipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A weights file of FID's network, random but scaled so that its features spread: by default
    they are near 0, and a distance between any two sets 1e-14."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments, **options):
            """Keep what was initialised."""

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    torch.manual_seed(0)
    module = Untrained("untrained", ["2048"], feature_extractor_weights_path=buffer)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.bias, std=0.2)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(module.state_dict(), path)
    return path
