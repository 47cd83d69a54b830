"""Scenes told in text: every object in its slot, every phrase pointing to what it names."""

import random
import re

import pytest
from told import FORMS, SEED, TOKENIZER, WORLD, slots_of, told, whole, words

from lion_min.boxes import BoxText
from lion_min.tiny.textworld import (HARD, LISTED, PLURALS, ROUND, noisy_tags, tags_of, text_scenes)
from lion_min.scenes import COLOURS, KINDS, make_scene
from lion_min.tasks import fits
from lion_min.tokenizer import GRID, WORDS, box_words

ONE = "|".join((*KINDS, *(p for p in PLURALS if p != "objects"), "objects?"))
PHRASE = re.compile(rf"(?<!\S)(?:(?:{'|'.join(COLOURS)}|striped|small|medium|large) )*" rf"(?:{ONE})(?!\S)")


# ---- slots -------------------------------------------------------------------------------------

@FORMS
def test_every_object_stands_once_in_every_form(form):
    """Guards: an object lost behind another, told twice, or in another object's cell."""
    x, scenes = told(form, batch=60)
    assert (x.grid is not None) == (form != "list") and (x.listed is not None) == (form != "grid")
    for b, scene in enumerate(scenes):
        for part in slots_of(x, b):
            things = [words(slot) for slot in part if len(slot) > 2]
            assert sorted(things) == sorted(map(whole, scene.objects))
        for cell, slot in enumerate(x.grid[b] if x.grid else ()):
            at = [f"<x{cell % GRID}>", f"<y{cell // GRID}>"]
            assert [w for w in words(slot) if w[1] in "xy" and w[0] == "<"] == at
        assert x.grid is None or len(x.grid[b]) == GRID * GRID
        assert x.listed is None or len(x.listed[b]) == LISTED


def test_lists_have_no_order_and_some_empty_slots():
    """Guards: a reader that counts slots instead of objects; reading order given away."""
    x, scenes = told("list", batch=60)
    sizes = {min(len(slot), 3) for part in x.listed for slot in part}
    assert sizes == {0, 2, 3}, "nothing, a cell, an object"
    first = [[words(s) for s in part if len(s) > 2] for part in x.listed]
    assert any(f != [whole(t) for t in s.objects] for f, s in zip(first, scenes))


def test_a_batch_is_a_function_of_its_arguments():
    """Guards: a resumed stage 0 that reads other scenes; training text that is held-out text."""
    again = [text_scenes(WORLD, SEED, 4, 3, TOKENIZER) for _ in range(2)]
    assert again[0] == again[1]
    for other in (text_scenes(WORLD, SEED + 1, 4, 3, TOKENIZER),
                  text_scenes(WORLD, SEED, 5, 3, TOKENIZER),
                  text_scenes(WORLD, SEED, 4, 3, TOKENIZER, split="heldout")):
        assert other.prompts != again[0].prompts
    forms = {(x.grid is None, x.listed is None)
             for x in (text_scenes(WORLD, SEED, step, 1, TOKENIZER) for step in range(40))}
    assert forms == {(True, False), (False, True), (False, False)}


def test_questions_are_of_their_scene():
    """Guards: prompt and answer of one scene beside the slots of another; region rows missing."""
    x, scenes = told("list", batch=40)
    n, regions = len(x.prompts) // 40, iter(x.regions)
    for i, (prompt, answer, asked) in enumerate(zip(x.prompts, x.answers, x.examples)):
        scene = scenes[i // n]
        assert TOKENIZER.decode(answer) == asked.answer
        if asked.task == "reg":
            assert asked.answer[2:] in [t.words() for t in scene.objects]
        boxes = [BoxText().format(box) for box in BoxText().parse(asked.prompt)]
        assert prompt.count(TOKENIZER.region_id) in (0, len(boxes))
        for box in boxes[:prompt.count(TOKENIZER.region_id)]:
            said = words(next(regions))
            thing, = (t for t in scene.objects if BoxText().format(t.box) == box)
            assert " ".join(w for w in said if w[0] != "<") == thing.words()
            assert sum(w[0] == "<" for w in said) in (0, WORDS), "with its box, or without"
    assert next(regions, None) is None and len(x.regions) > 5


# ---- tags --------------------------------------------------------------------------------------

def test_tags_err_at_their_rates():
    """Guards: noise taken of the wrong side: tags always right, or mostly wrong."""
    rng, scenes = random.Random(0), [make_scene(WORLD, "text", SEED, i) for i in range(1500)]
    vocabulary = (*WORLD.colours, *WORLD.kinds)
    lost = added = right = absent = 0
    for scene in scenes:
        true = tags_of(scene)
        assert set(true) == {w for t in scene.objects for w in (t.colour, t.kind)}
        said = noisy_tags(true, vocabulary, rng, 0.2)
        assert said == [w for w in vocabulary if w in said]
        lost, right = lost + len(set(true) - set(said)), right + len(true)
        added, absent = added + len(set(said) - set(true)), absent + len(vocabulary) - len(true)
    assert lost / right == pytest.approx(0.2, abs=0.02)
    assert added / absent == pytest.approx(0.06, abs=0.01)
    assert noisy_tags(true, vocabulary, rng, 0.0) == true


# ---- groundings --------------------------------------------------------------------------------

def by_hand(prompt: list[int], scene, slots: list[list[int]]) -> list[tuple[int, list[int]]]:
    """Phrases found by a pattern over the text, objects by comparing all their words."""
    text, found = words(prompt), []
    for match in PHRASE.finditer(" ".join(text)):
        phrase = match[0].split()
        phrase[-1] = PLURALS.get(phrase[-1], phrase[-1])
        place = " ".join(text)[:match.end()].count(" ")
        found.append((place, [t for t in scene.objects if fits(" ".join(phrase), t)]))
    for start in (i for i, word in enumerate(text) if word.startswith("<x")):
        box = text[start:start + WORDS]
        found.append((start + WORDS - 1, [t for t in scene.objects if box_words(t.box) == box]))
    told = [(place, [k for k, slot in enumerate(slots) if words(slot) in list(map(whole, things))])
            for place, things in sorted(found, key=lambda f: f[0])]
    return [(place, hits) for place, hits in told if hits]


@FORMS
def test_groundings_name_the_slots_that_fit(form):
    """Guards: a teacher that points to the wrong slot, or to the wrong word of a phrase."""
    x, scenes = told(form, batch=60)
    n, phrases, several = len(x.prompts) // 60, 0, 0
    for i, (prompt, named) in enumerate(zip(x.prompts, x.named)):
        slots = [s for part in slots_of(x, i // n) for s in part]
        assert named == by_hand(prompt, scenes[i // n], slots), " ".join(words(prompt))
        phrases += len(named)
        several += sum(len(hits) > 1 for _, hits in named)
    assert phrases > 400 and several > 50


def test_what_batches_ask():
    """Guards: the hard questions from the first step on, where they teach nothing; in so few
    scenes that can pose them that reading relations takes twice as long; captions left out."""
    batches = [text_scenes(WORLD, 0, step, 4, TOKENIZER) for step in range(60)]
    asked = [len(b.prompts) // (8 if b.examples[0].task == "caption" else 4) for b in batches]
    assert set(asked) == {1, len(ROUND), len(HARD)}
    assert all(9 < asked.count(n) < 36 for n in set(asked)) and asked.count(1) > asked.count(10)
    related = [e.task for b, n in zip(batches, asked) if n == len(HARD) for e in b.examples]
    assert related.count("rec_relational") > 0.15 * len(related)
    easy = [text_scenes(WORLD, 0, step, 4, TOKENIZER, most=2) for step in range(60)]
    assert {len(b.prompts) for b in easy} == {8, 4 * len(ROUND)}
