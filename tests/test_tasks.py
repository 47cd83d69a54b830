"""Every question's answer, worked out again from the words and the boxes alone."""

import random
import re
from collections import Counter

import pytest
from oracle import RELATION, gap, located, matching, singular, solve, understand

from lion_min.adapters import IMAGE, REGION
from lion_min.boxes import BoxText
from lion_min.lion.prompt import route
from lion_min.scenes import WORLDS, make_scene
from lion_min.tasks import (AUXILIARY, IMAGE_LEVEL, MAKERS, REGION_LEVEL, TASKS, TEMPLATES, Example,
                            examples)

worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def asked(world, task, count=250):
    """(scene, example) of every scene that can pose the task; training and held-out scenes."""
    for i in range(count):
        split, pairs = (("train", "train"), ("heldout", "train"), ("heldout", "heldout"))[i % 3]
        scene = make_scene(world, split, 17, i, pairs)
        example = MAKERS[task](scene, random.Random(f"{task}/{i}"))
        if example is not None:
            assert example.task == task
            yield scene, example


def slots(example: Example) -> tuple[str, ...]:
    return understand(example.prompt)[1]


@worlds
@pytest.mark.parametrize("task", TASKS + AUXILIARY)
def test_every_answer_and_every_route(world, task):
    """Guards: a wrong answer, of another object or with left and right exchanged; boxes other than
    the texts name; a question that trains one route and is asked on the other."""
    for scene, example in asked(world, task):
        assert understand(example.prompt)[0] == task.removesuffix("_relational"), example
        assert example.answer == solve(scene, example.prompt), example
        boxes = BoxText().parse(example.prompt) + BoxText().parse(example.answer)
        assert list(example.boxes) == boxes and len(boxes) == (task in REGION_LEVEL)
        assert route(example.prompt) == (REGION if task in REGION_LEVEL else IMAGE), example
        assert example.region_level == (task in REGION_LEVEL)
        for box in boxes:
            assert any(max(abs(u - v) for u, v in zip(t.box, box)) < 6e-4 for t in scene.objects)


@worlds
@pytest.mark.parametrize("task, most, kinds", [("existence", 0.58, 2), ("relation", 0.58, 2),
                                               ("side", 0.4, 4), ("count", 0.5, 4)])
def test_no_answer_pays_by_itself(world, task, most, kinds):
    """Guards: a yes-bias that pays, or one number that is always right."""
    said = Counter(example.answer for _, example in asked(world, task, 600))
    assert max(said.values()) / said.total() < most and len(said) >= kinds


@worlds
@pytest.mark.parametrize("task", ["colour", "kind"])
def test_attributes(world, task):
    """Guards: a question that fits two objects, or one that gives its answer away."""
    for scene, example in asked(world, task):
        assert len(matching(scene, slots(example)[0])) == 1
        assert example.answer not in slots(example)[0].split()


@worlds
def test_grammar(world):
    """Guards: a wrong plural or article; a caption that leaves an object out."""
    for _, example in asked(world, "count"):
        plural, single = slots(example)[0], singular(slots(example)[0])
        assert plural != single and single.split()[-1] in (*world.kinds, "object")
    assert {slots(e)[0].split()[0] for _, e in asked(world, "existence")} <= {"a", "an"}
    for scene, example in asked(world, "caption", 60):
        named = re.split(r", | and ", example.answer.rstrip("."))
        assert named == [f"a {t.words()}" for t in scene.objects]


@worlds
@pytest.mark.parametrize("task", ["relation", "side"])
def test_relations_are_clear(world, task):
    """Guards: a statement that nearly holds, or about objects that the words do not tell apart."""
    for scene, example in asked(world, task, 500):
        words = slots(example)
        (a,), (b,) = matching(scene, words[0]), matching(scene, words[-1])
        axis = "above" if {"above", "below"} & set(words) else "left of"
        assert a is not b and abs(gap(a, b, axis)) >= 0.08 - 1e-9


@worlds
def test_an_expression_fits_one_object(world):
    """Guards: an expression with two right boxes; relational scores that attributes would reach."""
    assert all(len(located(scene, slots(e)[0])) == 1 for scene, e in asked(world, "rec"))
    posed = 0
    for scene, example in asked(world, "rec_relational", 400):
        phrase, relation, anchor = RELATION.fullmatch(slots(example)[0]).groups()
        other, = matching(scene, anchor)
        rivals = matching(scene, phrase)
        assert len(rivals) > 1 and other not in rivals, "the relation must be needed"
        assert sum(gap(r, other, relation) > 0.08 for r in rivals) == 1
        posed += 1
    assert posed > 40


@pytest.mark.parametrize("task", TASKS)
def test_every_template_is_used(task):
    """Guards: wording that training never sees though the templates promise it."""
    family = "rec" if task == "rec_relational" else task
    starts = {re.split(r"[\[{]", t)[0].lower() for t in TEMPLATES[family]}
    prompts = [e.prompt for _, e in asked(WORLDS["rich"], task, 250)]
    assert all(any(p.lower().startswith(s) for p in prompts) for s in starts)
    assert all(p[0].isupper() or p[0] == "[" for p in prompts)


@worlds
def test_examples_keep_length_and_level(world):
    """Guards: a batch whose samples do not divide among its images, or of mixed routes."""
    for i in range(60):
        scene = make_scene(world, "train", 2, i)
        for tasks in (IMAGE_LEVEL, ("caption",) * 2, REGION_LEVEL * 2, ("rec_relational",) * 3):
            made = examples(scene, random.Random(i), tasks)
            assert len(made) == len(tasks)
            assert all(e.region_level == (tasks[0] in REGION_LEVEL) for e in made)
            assert made == examples(scene, random.Random(i), tasks), "same seed, same questions"
