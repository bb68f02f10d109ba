"""The graph of nodes that ComfyUI writes into its pictures, and the prompt in it.

A graph is JSON: {node: {"class_type": name, "inputs": {name: value, or [node, output] for a
link}}}. Anybody can write one: it may have cycles, links to nowhere, and values of any type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NODES = 2000  # of a graph; a larger one is not read
SAMPLERS = 16  # of a graph; one with more is not read
# inputs that hold the text of a node, and inputs that lead to the text of a conditioning
TEXTS = ("text", "text_g", "t5xxl", "clip_l", "text_l", "prompt", "string", "value")
CONDITIONINGS = ("positive", "conditioning", "conditioning_1", "conditioning_to", "conditioning_2")
SEEDS = ("seed", "noise_seed", "value", "int")
# inputs of a sampler through which no picture comes that it continues
NO_PICTURE = ("positive", "negative", "model", "clip", "vae", "guider", "noise", "seed")

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class _Sampler:
    """A node that makes a picture from noise."""

    name: str
    positive: str  # the node that its conditioning comes from
    seed: Any  # a number, a link, or anything


def _link(value: Any) -> str | None:
    """The node that an input links to; None if it is no link."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
        return str(value[0])
    return None


def _links(inputs: Inputs, names: tuple[str, ...]) -> Iterator[str]:
    """The nodes that some inputs of a node link to, in the order of `names`."""
    found = (_link(inputs.get(name)) for name in names)
    return (node for node in found if node is not None)


def _nodes(data: Any) -> dict[str, Inputs]:
    """The inputs of every node of a graph; {} if it is none, or too large."""
    if not isinstance(data, dict) or len(data) > NODES:
        return {}
    nodes = {name: node for name, node in data.items() if isinstance(node, dict)}
    return {
        name: node["inputs"]
        for name, node in nodes.items()
        if isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
    }


def _samplers(graph: Mapping[str, Inputs]) -> list[_Sampler]:
    """The samplers of a graph: nodes with a seed and a positive conditioning, or with a guider and
    a noise, which hold those."""
    found = []
    for name, inputs in graph.items():
        guider, noise = (graph.get(_link(inputs.get(k)) or "", {}) for k in ("guider", "noise"))
        own = inputs if any(seed in inputs for seed in SEEDS[:2]) else {}
        positive = next(_links(own, ("positive",)), None)
        seed = next((own[key] for key in SEEDS[:2] if key in own), None)
        if positive is None:
            positive = next(_links(guider, ("positive", "conditioning")), None)
            seed = noise.get("noise_seed")
        if positive is not None:
            found.append(_Sampler(name, positive, seed))
    return found


def _text_from(graph: Mapping[str, Inputs], start: str) -> str | None:
    """The first text that is reached from a node by way of texts and conditionings, each link
    followed to its end before the next one."""
    waiting, seen = [start], set()
    while waiting:
        node = waiting.pop()
        if node in seen or node not in graph:
            continue
        seen.add(node)
        texts = (graph[node].get(name) for name in TEXTS)
        text = next((t for t in texts if isinstance(t, str) and t.strip()), None)
        if text is not None:
            return text
        waiting.extend(reversed([*_links(graph[node], (*TEXTS, *CONDITIONINGS))]))
    return None


def _continues(graph: Mapping[str, Inputs], sampler: _Sampler, others: set[str]) -> bool:
    """Whether a sampler refines what another one made: its latent or image comes from that one."""
    inputs = graph[sampler.name]
    pictures = tuple(name for name in inputs if name not in NO_PICTURE)
    waiting, seen = [*_links(inputs, pictures)], {sampler.name}
    while waiting:
        node = waiting.pop()
        if node in seen or node not in graph:
            continue
        if node in others:
            return True
        seen.add(node)
        waiting.extend(_links(graph[node], tuple(graph[node])))
    return False


def _seed_of(graph: Mapping[str, Inputs], sampler: _Sampler) -> Any:
    """The seed of a sampler, from the node that it links to if it does."""
    node = graph.get(_link(sampler.seed) or "", {})
    return next((node[key] for key in SEEDS if key in node), sampler.seed)


def prompt_of_graph(data: Any) -> tuple[str, Any] | None:
    """The prompt and the seed of the sampler that begins the picture; samplers that refine its
    result are passed over.

    data: a JSON value of any kind. Returns: (prompt, seed as it is written; None if several
    beginnings have several seeds); None if it is no graph, is too large, or has several beginnings
    with different prompts, because which of them made the picture is not said."""
    graph = _nodes(data)
    samplers = _samplers(graph)
    if len(samplers) > SAMPLERS:
        return None
    names = {each.name for each in samplers}
    first = [each for each in samplers if not _continues(graph, each, names - {each.name})]
    texts = {_text_from(graph, each.positive) for each in first}
    text = texts.pop() if len(texts) == 1 else None
    if text is None:
        return None
    seed = _seed_of(graph, first[0])
    return text, seed if all(_seed_of(graph, each) == seed for each in first) else None
