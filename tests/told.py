"""Scenes told in text beside the scenes themselves, for test_textworld.py and test_reading.py."""

import pytest

from lion_min.tiny.textworld import text_scenes
from lion_min.scenes import WORLDS, make_scene
from lion_min.tokenizer import TinyTokenizer, box_words

WORLD, TOKENIZER, SEED = WORLDS["medium"], TinyTokenizer(), 11
FORMS = pytest.mark.parametrize("form", ["grid", "list", "both"])


def told(form: str | None = None, step: int = 0, batch: int = 6, **options):
    """(text scenes, the scenes they tell)."""
    scenes = [make_scene(WORLD, "text", SEED, 2 * step * batch + i, "any") for i in range(batch)]
    return text_scenes(WORLD, SEED, step, batch, TOKENIZER, form=form, **options), scenes


def slots_of(x, b: int) -> list[list[list[int]]]:
    """The forms in which scene b is told, each a list of slots."""
    return [part[b] for part in (x.grid, x.listed) if part is not None]


def words(slot: list[int]) -> list[str]:
    return [TOKENIZER.words[i] for i in slot]


def whole(thing) -> list[str]:
    return thing.words().split() + box_words(thing.box)
