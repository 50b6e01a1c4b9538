"""The grammar's closed vocabulary and CaR's prompts."""

import numpy as np

from openseg_jax.miniature import captions, streams, world

CAR_PROMPTS = """a clean origami {}.|a photo of a {}.|This is a photo of a {}|
There is a {} in the scene|There is the {} in the scene|a photo of a {} in the scene|
a photo of a small {}.|a photo of a medium {}.|a photo of a large {}.|
This is a photo of a small {}.|This is a photo of a medium {}.|This is a photo of a large {}.|
There is a small {} in the scene.|There is a medium {} in the scene.|
There is a large {} in the scene.""".replace("\n", "").split("|")


def test_vocabulary_is_closed_and_nearly_exhausted():
    vocabulary = captions.vocabulary()
    assert vocabulary == sorted(set(vocabulary)) and len(vocabulary) < 160
    said = set()
    for index in range(2000):
        said |= set(captions.split(streams.training_example(index, 24)[1]))
    assert said <= set(vocabulary)
    assert len(said) >= 0.95 * len(vocabulary)


def test_the_fifteen_prompts():
    assert sorted(captions.templates()) == sorted(CAR_PROMPTS)
    known = set(captions.vocabulary())
    for prompt in CAR_PROMPTS:
        for nouns in world.synonyms().values():
            assert set(captions.split(prompt.format(nouns[0]))) <= known


def test_prompts_are_frequent_in_training():
    texts = [streams.training_example(index, 24)[1] for index in range(600)]
    shapes = {prompt.lower() for prompt in CAR_PROMPTS}
    nouns = [noun for names in world.synonyms().values() for noun in names]
    filled = {shape.format(noun) for shape in shapes for noun in nouns}
    assert np.mean([text in filled for text in texts]) > 0.2
    assert np.mean([text in nouns for text in texts]) > 0.03


def test_split_separates_punctuation():
    assert captions.split("This is a Zebra, two.") == ["this", "is", "a", "zebra", ",", "two", "."]
