"""What people type: every answer worked out again, and wordings that training never uses."""

import random
import re

import pytest
from oracle import solve
from talk_truth import truth

from lion_min import questions, talk, talk_boxes, wordings
from lion_min.adapters import IMAGE, REGION
from lion_min.boxes import BoxText
from lion_min.lion.prompt import route
from lion_min.questions import DRAWS, examples, reworded
from lion_min.scenes import WORLDS, make_scene
from lion_min.tasks import MAKERS, TEMPLATES
from lion_min.tokenizer import TinyTokenizer

TOKENIZER = TinyTokenizer()
worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def asked(world, names, count=100):
    """(scene, example) of questions drawn for training; training and held-out scenes."""
    for i in range(count):
        scene = make_scene(world, "heldout" if i % 3 else "train", 17, i, "any")
        for example in examples(scene, random.Random(f"talk/{i}"), names):
            yield scene, example


@worlds
@pytest.mark.parametrize("name", DRAWS)
def test_every_answer_wording_and_route(world, name):
    """Guards: a wrong answer, or one that the scene does not decide; a question that trains one
    route and is asked on the other; boxes other than the texts name; words that are <unk>."""
    families = set()
    for scene, e in asked(world, (name,) * 8):
        old = e.task in MAKERS
        assert e.answer == (solve(scene, TEMPLATES[e.family][0].format(*e.slots)) if old else
                            truth(scene, e.family, e.slots)), (scene.objects, e)
        said = [wordings.filled(w, e.slots).lower().replace("colour", "color").rstrip("?.")
                for w in wordings.TRAINING[e.family] + TEMPLATES.get(e.family, ())]
        assert e.prompt.lower().replace("colour", "color").rstrip("?.") in said, e
        assert list(e.boxes) == BoxText().parse(e.prompt) + BoxText().parse(e.answer)
        assert e.region_level == (name == "box_talk") == (route(e.prompt) == REGION), e
        for text in (e.prompt, e.answer):
            assert TOKENIZER.unk_id not in TOKENIZER.encode(text), text
        families.add(e.family)
    every = {"talk": 22, "box_talk": 5}[name] - (world.name == "small" and name == "talk")
    assert len(families) == every, sorted(families)


@worlds
def test_no_answer_pays_by_itself(world):
    """Guards: a yes that pays in a family of yes and no; 'nothing' or 'none' as the usual answer."""
    scenes = [make_scene(world, "train", 23, i, "any") for i in range(250)]
    for task, make in (talk.TALK | talk_boxes.TALK).items():
        made = (make(scene, random.Random(f"{task}/{i}")) for i, scene in enumerate(scenes))
        answers = [e.answer for e in made if e is not None]
        if {"yes", "no"} & set(answers):
            assert 0.3 < answers.count("yes") / len(answers) < 0.7, task
        if task in ("placed", "several", "neighbour", "position"):
            empty = answers.count("nothing.") + answers.count("there is none.")
            assert empty / len(answers) < 0.45, task


def shape(text: str) -> str:
    """A text in lower case, American, without its last sign."""
    return text.lower().replace("colour", "color").rstrip("?.!")


def test_held_out_wordings_are_not_trained():
    """Guards: a wording that is scored as new and stands in a training text; one with a word that
    no training text has, which nobody could understand; fewer than three of a family."""
    from lion_min.pvit.instructions import scene_instructions
    assert wordings.HELDOUT.keys() == (wordings.TRAINING.keys() | TEMPLATES.keys()) - {"side"}
    assert all(len(set(family)) >= 3 for family in wordings.HELDOUT.values())
    trained, held = set(), set()
    for i in range(120):
        scene, rng = make_scene(WORLDS["rich"], "train", 4, i), random.Random(i)
        made = examples(scene, rng, ("talk",) * 12 + ("box_talk",) * 8)
        made += [e for make in MAKERS.values() if (e := make(scene, rng))]
        trained |= {shape(e.prompt) for e in made}
        trained |= {shape(e.prompt) for e in made if e.family in TEMPLATES
                    for e in (reworded(e, rng, TEMPLATES),)}
        trained |= {shape(q) for m in scene_instructions(scene, rng, 6) for q, _ in m.turns}
        held |= {shape(wordings.filled(w, e.slots)) for e in made if e.family != "side"
                 for w in wordings.HELDOUT[e.family]}
    assert not trained & held, sorted(trained & held)[:5]
    words = {w for text in trained for w in re.findall("[a-z]+", text)}
    assert {w for family in wordings.HELDOUT.values() for text in family
            for w in re.findall("[a-z]+", shape(text))} <= words


def test_the_scores_ask_every_family():
    """Guards: a family that the score in other words never reaches, or asks as training does."""
    found = set()
    for row in range(60):
        scene = make_scene(WORLDS["medium"], "heldout", 5, row)
        made = questions.in_other_words(scene, random.Random(row), 3, 3 * row)
        for e in made:
            assert e.prompt in [wordings.filled(w, e.slots) for w in wordings.HELDOUT[e.family]]
        found |= {e.task for e in made}
    assert found >= questions.FAMILIES.keys() - {"small_talk"} and len(found) >= 26
    kinds = [questions.of_the_absent(scene, random.Random(i), i) for i in range(6)]
    assert [e.answer for e in kinds] == ["there is none.", "there is none.", "0"] * 2
    assert [route(e.prompt) for e in kinds] == [REGION, IMAGE, IMAGE] * 2
