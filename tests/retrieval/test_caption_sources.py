from utils.retrieval.caption_sources import with_sources
from utils.retrieval.evaluation_sets import Query

CAPTIONS = {"a.png": ["a cat", "one cat"], "b.png": ["a dog", "an animal"], "c.png": ["an animal"]}


def test_a_prompt_that_is_the_caption_of_one_image_has_that_image_as_its_source():
    prompts = ["a dog", "one  cat ", "an animal", "a fish", None]
    lines = []
    queries = [Query(str(i), prompt, prompt) for i, prompt in enumerate(prompts)]
    found = with_sources(queries, CAPTIONS, lines.append)
    assert [q.source_image for q in found] == ["b.png", "a.png", None, None, None]
    assert [(q.key, q.prompt) for q in found] == [(q.key, q.prompt) for q in queries]
    assert lines == [
        "2 of 4 prompts are the caption of one training image, which counts as the prompt's own"
    ]


def test_nothing_is_said_where_no_prompt_is_a_caption():
    lines = []
    assert with_sources([Query("x", "a", "a")], CAPTIONS, lines.append)[0].source_image is None
    assert with_sources([Query("x")], {}, lines.append) == [Query("x")]
    assert lines == []
