import json
import time

import pytest

from utils.data.node_graphs import NODES, prompt_of_graph


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def text_to_image():
    """ComfyUI's default workflow."""
    return {
        "3": node(
            "KSampler",
            seed=156680208700286,
            steps=20,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "6": node("CLIPTextEncode", text="beautiful scenery, bottle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }


def test_the_positive_text_and_the_seed_of_the_sampler_are_read():
    assert prompt_of_graph(text_to_image()) == ("beautiful scenery, bottle", 156680208700286)


def test_the_positive_input_is_followed_through_other_nodes():
    graph = text_to_image()
    graph["3"]["inputs"]["positive"] = ["20", 0]
    graph["20"] = node(
        "ControlNetApplyAdvanced", positive=["21", 0], negative=["7", 0], image=["9", 0]
    )
    graph["21"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["7", 0])
    graph["6"]["inputs"]["text"] = ["22", 0]
    graph["22"] = node("PrimitiveString", value="from a node of its own")
    graph["3"]["inputs"]["seed"] = ["23", 0]
    graph["23"] = node("PrimitiveInt", value=7)
    assert prompt_of_graph(graph) == ("from a node of its own", 7)


def test_a_guider_and_a_noise_hold_prompt_and_seed():
    graph = {
        "1": node("SamplerCustomAdvanced", noise=["2", 0], guider=["3", 0], latent_image=["9", 0]),
        "2": node("RandomNoise", noise_seed=11),
        "3": node("BasicGuider", model=["8", 0], conditioning=["4", 0]),
        "4": node("FluxGuidance", guidance=3.5, conditioning=["5", 0]),
        "5": node("CLIPTextEncodeFlux", clip_l="a fox", t5xxl="a fox in the snow", guidance=3.5),
    }
    assert prompt_of_graph(graph) == ("a fox in the snow", 11)


def test_a_sampler_that_refines_is_passed_over():
    graph = text_to_image()
    graph["30"] = node("LatentUpscale", samples=["3", 0])
    graph["31"] = node("KSamplerAdvanced", noise_seed=5, positive=["32", 0], latent_image=["30", 0])
    graph["32"] = node("CLIPTextEncode", text="sharper")
    assert prompt_of_graph(graph) == ("beautiful scenery, bottle", 156680208700286)


def test_two_pictures_of_one_graph_have_a_prompt_only_if_it_is_the_same():
    graph = text_to_image()
    graph["33"] = node("KSampler", seed=5, positive=["34", 0], latent_image=["5", 0])
    graph["34"] = node("CLIPTextEncode", text="another picture")
    assert prompt_of_graph(graph) is None
    graph["34"]["inputs"]["text"] = "beautiful scenery, bottle"
    assert prompt_of_graph(graph) == ("beautiful scenery, bottle", None)


def circle():
    graph = text_to_image()
    graph["6"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["40", 0])
    graph["40"] = node("ConditioningCombine", conditioning_1=["6", 0], positive=["40", 0])
    graph["5"] = node("Upscale", samples=["5", 0], image=["8", 0])
    return graph


WRONG = {
    "a circle": circle(),
    "a link to nowhere": {"1": node("KSampler", seed=1, positive=["99", 0])},
    "no link": {"1": node("KSampler", seed=1, positive="x")},
    "a link of wrong types": {"1": node("KSampler", seed=1, positive=[{}, []])},
    "inputs that are a list": {"1": {"class_type": "KSampler", "inputs": [1]}},
    "nodes that are numbers": {"1": 1, "2": None},
    "no class": {"1": {"inputs": {"seed": 1, "positive": ["1", 0]}}},
    "a list": [[["KSampler"]]],
    "nothing": None,
    "an empty graph": {},
    "an empty text": {"1": node("KSampler", seed=1, positive=["2", 0]), "2": node("T", text=" ")},
    "too many nodes": {str(i): node("CLIPTextEncode", text="x") for i in range(NODES + 1)},
    "many samplers, each of which continues all": {
        str(i): node(
            "KSampler", seed=1, positive=["t", 0], **{f"l{j}": [str(j), 0] for j in range(400)}
        )
        for i in range(400)
    },
}


@pytest.mark.parametrize("graph", WRONG.values(), ids=WRONG.keys())
def test_a_graph_without_a_beginning_and_a_text_has_no_prompt(graph):
    data = json.loads(json.dumps(graph))
    started = time.process_time()
    assert prompt_of_graph(data) is None
    assert time.process_time() - started < 2
