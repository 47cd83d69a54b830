"""Region instructions about drawn scenes: every answer worked out again; what is requested."""

import random
import re
from collections import Counter

import pytest
from asked import MARK, at, check, clearly, scenes, section, truth

from lion_min.pvit.instructions import (KEPT, STRATEGY_OF, Instruction, generate, messages,
                                        scene_instructions)
from lion_min.pvit.instructions.chat import SceneChat
from lion_min.pvit.instructions.forms import DIALOGUE, FORMAT, PAIRS, filtered
from lion_min.scenes import WORLDS
from lion_min.tokenizer import TinyTokenizer

MEDIUM = WORLDS["medium"]


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_every_answer_is_true_and_every_word_known(world):
    """Guards: an answer about another object, about the wrong 'it', or with sides exchanged; a
    question that the tiny tokenizer reads as <unk>."""
    tasks, tokenizer = Counter(), TinyTokenizer()
    for i, scene in enumerate(scenes(world, 300)):
        for made in scene_instructions(scene, random.Random(i), 6, turns=(1, 4)):
            check(scene, made)
            tasks[made.task] += 1
            for text in (MARK.sub("", t) for turn in made.turns for t in turn):
                assert tokenizer.unk_id not in tokenizer.encode(text), text
    assert set(tasks) == set(STRATEGY_OF) - {"ocr"}


def test_answers_do_not_pay_by_habit():
    """Guards: 'no' or '1' as an answer that is nearly always right."""
    some = [s for s in scenes(MEDIUM, 1500) if len(s.objects) > 2]
    share = {}
    for task in ("attribute", "relation", "several", "gqa", "vcr"):
        made, _ = generate(some, SceneChat, (task,), random.Random(0))
        words = Counter(m.turns[0][1].split()[0] for m in made)
        share |= {(task, word): n / words.total() for word, n in words.items()}
    assert share["relation", "no"] < 0.45 and share["several", "1"] < 0.45
    assert share["attribute", "no"] < 1.5 * share["attribute", "yes"]
    assert abs(share["gqa", "true"] - share["gqa", "false"]) < 0.06
    assert 0.3 < share["vcr", "Yes."] < 0.6


def test_dialogues_point_back():
    """Guards: a dialogue without 'it', one that asks the same twice, one of two questions."""
    made, counts = generate(scenes(MEDIUM, 200), SceneChat, ("dialogue",), random.Random(0), turns=(1, 5))
    assert counts == {KEPT: 200}
    later = [q for m in made for q, _ in m.turns[1:]]
    assert 0.4 < sum(" it" in MARK.sub("", q) for q in later) / len(later) < 0.8
    assert all(len({q for q, _ in m.turns}) == len(m.turns) for m in made)
    assert {len(m.turns) for m in made} == {3, 4, 5}
    assert sum(MARK.search(q) is not None for q in later) > 50, "the region named again"


def test_training_asks_for_lengths_and_repeats():
    """Guards: single-turn training that gets dialogues; a run that cannot be repeated."""
    for i, scene in enumerate(scenes(MEDIUM, 40)):
        single, again = (scene_instructions(scene, random.Random(i), 5, (1, 1)) for _ in range(2))
        assert single == again and [len(m.turns) for m in single] == [1] * 5
        assert all(len(m.turns) >= 3 or m.task == "general"
                   for m in scene_instructions(scene, random.Random(i), 3, (3, 4)))


@pytest.mark.parametrize("task", messages.AIMS)
def test_requests_are_whole(task):
    """Guards: a request without its annotations, or whose own example the filters would drop."""
    scene = next(s for s in scenes(WORLDS["rich"], 50) if len(s.objects) > 3)
    notes = messages.scene_notes(scene, (("STOP", (0.1, 0.1, 0.2, 0.2)),))
    request = messages.Request(task, notes, 3, tuple(messages.SEEDS)[:3])
    roles, contents = zip(*(message.values() for message in request.messages()))
    assert roles == ("system", "user", "assistant", "user") and request.query() == contents[-1]
    last, rows = contents[-1], request.form.parse(contents[2])
    assert rows and (task == "dialogue" or filtered(rows) == rows)
    things = [at(scene, MARK.search(line).groups()) for line in section(last, "Objects")]
    by_size = sorted(scene.objects, key=lambda t: t.box[2] - t.box[0])
    assert {*things} == {*(by_size[:(len(by_size) + 1) // 2] if task == "small" else by_size)}
    assert section(last, "Captions") == [scene.caption()] and section(last, "Turns") == ["3"]
    assert bool(section(last, "Text")) == (task == "ocr")
    assert bool(section(last, "Relations")) == (task in ("relation", "dialogue"))
    seeds = section(last, "Seeds")
    assert len(set(seeds)) == (3 if task == "general" else 0) and set(seeds) <= {*messages.SEEDS}


def test_annotations_are_true():
    """Guards: relations with the sides exchanged, which a real chat model would believe."""
    for scene in scenes(MEDIUM, 60):
        notes, sentences = messages.scene_notes(scene), []
        for line in notes.relations:
            a, b = (at(scene, m.groups()) for m in MARK.finditer(line))
            side, = re.findall(r" is (left|right|above|below)", line)
            assert clearly(a, b, side) and a.words() in line.split(" is ")[0]
            sentences.append(f"The {MARK.sub('', line).replace('  ', ' ').strip()[4:]}.")
        assert notes.description == " ".join([scene.caption().capitalize(), *sentences])


def test_a_dialogue_takes_two_calls():
    """Guards: answers that are asked for without the questions; answers that a chat makes up to
    questions that it does not know; answers in the order in which the questions were written."""
    requests, scene = [], scenes(MEDIUM, 1)[0]
    chat = SceneChat(scene)

    def recorded(request):
        requests.append(request)
        return chat(request)

    (made,), _ = generate([scene], lambda s: recorded, ("dialogue",), random.Random(0), turns=(4, 4))
    first, second = (section(request.query(), "Questions") for request in requests)
    assert not first and second == [q for q, _ in made.turns]
    replies = DIALOGUE.parse(requests[1].messages()[2]["content"])
    assert filtered(replies) == replies and len(replies) == 3

    def answers(*questions):
        return PAIRS.parse(chat(messages.Request("dialogue", requests[0].notes, len(questions),
                                                 questions=questions)))
    assert answers(*second[::-1]) == made.turns[::-1]
    assert answers(*second[:2], "Why?") == (), "what it cannot know, it does not say"


def test_every_seed_can_be_answered():
    """Guards: a seed that the drawn scenes can never fill, or whose template is another's."""
    requests = []
    generate(scenes(WORLDS["small"], 60), lambda scene: lambda request: requests.append(request) or "",
             ("general",), random.Random(0))
    assert len(messages.SEEDS) == 20
    assert {s for request in requests for s in request.seeds} == {*messages.SEEDS}
    answered = set()
    for scene in (s for s in scenes(MEDIUM, 60) if len(s.objects) > 1):
        for seed in messages.SEEDS:
            request = messages.Request("general", messages.scene_notes(scene), seeds=(seed,))
            for question, answer in PAIRS.parse(SceneChat(scene)(request)):
                assert MARK.sub("<Region>", question) == seed
                assert answer == truth(scene, question, None)[0], question
                answered.add(seed)
    assert answered == {*messages.SEEDS}


def test_the_scene_obeys_the_request():
    """Guards: a SceneChat that ignores the objects or the number of a request."""
    scene = next(s for s in scenes(WORLDS["rich"], 50) if len(s.objects) > 4)
    notes, rng = messages.scene_notes(scene), random.Random(0)
    small = sorted(scene.objects, key=lambda t: t.box[2] - t.box[0])[:3]
    for i in range(20):
        reply = SceneChat(scene, random.Random(i))(messages.Request("small", notes))
        assert at(scene, MARK.search(reply).groups()) in small
    for turns in (1, 2, 3):
        requests = [messages.Request("general", notes, turns, tuple(rng.sample(list(messages.SEEDS), 3)))
                    for _ in range(10)]
        replies = [PAIRS.parse(SceneChat(scene, rng)(request)) for request in requests]
        assert max(map(len, replies)) == turns
        for reply in replies:
            check(scene, Instruction(reply, "general", "general"))


def test_text_in_pictures_comes_from_the_caller():
    """Guards: OCR invented for scenes in which nothing is written; given words not used."""
    some = scenes(MEDIUM, 20)
    assert generate(some, SceneChat, ("ocr",), random.Random(0)) == ([], {FORMAT: 20})
    made, counts = generate(some, SceneChat, ("ocr",), random.Random(0),
                            words_for=lambda s: (("Exit: 4", (0.5, 0.1, 0.75, 0.25)),))
    assert counts == {KEPT: 20} and {m.category for m in made} == {"other"}
    assert {m.turns[0] for m in made} == {
        ("What does it say in <Region>[0.500, 0.100, 0.750, 0.250]</Region>?", "Exit: 4")}
