"""Every question's answer, worked out again from the words and the boxes alone."""

import random
import re
from collections import Counter

import pytest

from lion_min.adapters import IMAGE, REGION
from lion_min.boxes import BoxText
from lion_min.lion.prompt import route
from lion_min.scenes import WORLDS, Thing, make_scene
from lion_min.tasks import IMAGE_LEVEL, MAKERS, REGION_LEVEL, TASKS, TEMPLATES, Example, examples

worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
RELATION = r"(the .+) (left of|right of|above|below) (the .+)"
AXIS = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}


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
    """What fills the template's places; the template that leaves least of the text free."""
    family = "rec" if example.task == "rec_relational" else example.task
    found = []
    for template in TEMPLATES[family]:
        pattern = re.escape(template).replace(r"\{1\}", "(left of|right of|above|below)")
        pattern = re.sub(r"\\{\d\\}", "(.+)", pattern)
        if match := re.fullmatch(pattern, example.prompt, re.IGNORECASE):
            found.append(tuple(group.lower() for group in match.groups()))
    return min(found, key=lambda groups: sum(map(len, groups)))


def matching(scene, phrase: str) -> list[Thing]:
    """Objects of which every word is true; 'a', 'the' and 'object' say nothing."""
    words = set(phrase.split()) - {"a", "an", "the", "object"}
    return [t for t in scene.objects if words <= set(t.words().split())]


def gap(a: Thing, b: Thing, relation: str) -> float:
    """How far a stands on the named side of b, centre to centre; negative on the other side."""
    axis, sign = AXIS[relation]
    a, b = ((t.box[axis] + t.box[axis + 2]) / 2 for t in (a, b))
    return sign * (b - a)


@worlds
def test_existence(world):
    """Guards: a 'no' about an object that is there, and a yes-bias that pays."""
    said = Counter()
    for scene, example in asked(world, "existence", 600):
        assert example.answer == ("yes" if matching(scene, slots(example)[0]) else "no"), example
        said[example.answer] += 1
    assert 0.42 < said["yes"] / said.total() < 0.58
    assert {slots(e)[0].split()[0] for _, e in asked(world, "existence")} <= {"a", "an"}


@worlds
@pytest.mark.parametrize("task", ["colour", "kind"])
def test_attributes(world, task):
    """Guards: a question that fits two objects, or one that gives its answer away."""
    for scene, example in asked(world, task):
        thing, = matching(scene, slots(example)[0])
        assert example.answer == getattr(thing, task)
        assert example.answer not in slots(example)[0].split()


@worlds
def test_count(world):
    """Guards: a wrong number, a wrong plural, or one number that is always right."""
    said = Counter()
    for scene, example in asked(world, "count", 600):
        plural = slots(example)[0]
        phrase = plural[:-2] if plural.endswith("crosses") else plural[:-1]
        assert plural.endswith("s") and phrase.split()[-1] in (*world.kinds, "object")
        assert example.answer == str(len(matching(scene, phrase)))
        said[example.answer] += 1
    assert max(said.values()) / said.total() < 0.5 and len(said) >= 4


@worlds
def test_relation(world):
    """Guards: left and right exchanged, a statement that nearly holds, one answer too often."""
    said = Counter()
    for scene, example in asked(world, "relation", 500):
        first, relation, second = slots(example)
        (a,), (b,) = matching(scene, first), matching(scene, second)
        assert a is not b and abs(gap(a, b, relation)) >= 0.08 - 1e-9
        assert example.answer == ("true" if gap(a, b, relation) > 0 else "false")
        said[example.answer] += 1
    assert 0.42 < said["true"] / said.total() < 0.58


@worlds
def test_reg(world):
    """Guards: the description of another object than the one in the box."""
    for scene, example in asked(world, "reg"):
        (box,), (literal,) = BoxText().parse(example.prompt), slots(example)
        assert literal.startswith("[") and literal.endswith("]")
        thing, = (t for t in scene.objects if max(abs(u - v) for u, v in zip(t.box, box)) < 6e-4)
        assert example.answer == f"a {thing.words()}"


@worlds
def test_rec(world):
    """Guards: an expression that fits two objects has no right box."""
    for scene, example in asked(world, "rec"):
        thing, = matching(scene, slots(example)[0])
        box, = BoxText().parse(example.answer)
        assert max(abs(u - v) for u, v in zip(thing.box, box)) < 6e-4
        assert example.answer == BoxText().format(thing.box)


@worlds
def test_rec_relational(world):
    """Guards: relational scores that attributes alone would reach, or with two right boxes."""
    posed = 0
    for scene, example in asked(world, "rec_relational", 400):
        phrase, relation, anchor = re.fullmatch(RELATION, slots(example)[0]).groups()
        other, = matching(scene, anchor)
        rivals = matching(scene, phrase)
        assert len(rivals) > 1 and other not in rivals, "the relation must be needed"
        thing, = (r for r in rivals if gap(r, other, relation) > 0.08)
        assert example.answer == BoxText().format(thing.box)
        posed += 1
    assert posed > 40


@worlds
def test_caption(world):
    """Guards: a caption task that leaves an object out."""
    for scene, example in asked(world, "caption", 60):
        named = re.split(r", | and ", example.answer.rstrip("."))
        assert named == [f"a {t.words()}" for t in scene.objects]
        assert example.prompt in TEMPLATES["caption"]


@worlds
@pytest.mark.parametrize("task", TASKS)
def test_the_words_choose_the_route(world, task):
    """Guards: a question that trains one route and is asked on the other."""
    for _, example in asked(world, task, 150):
        assert route(example.prompt) == (REGION if task in REGION_LEVEL else IMAGE), example
        assert example.region_level == (task in REGION_LEVEL)


@pytest.mark.parametrize("task", TASKS)
def test_every_template_is_used(task):
    """Guards: wording that training never sees though the templates promise it."""
    family = "rec" if task == "rec_relational" else task
    starts = {re.split(r"[\[{]", t)[0].lower() for t in TEMPLATES[family]}
    prompts = [e.prompt.lower() for _, e in asked(WORLDS["rich"], task, 250)]
    assert all(any(p.startswith(s.lower()) for p in prompts) for s in starts)
    assert all(p[0].isupper() or p[0] == "[" for _, e in asked(WORLDS["rich"], task, 60)
               for p in [e.prompt])


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
