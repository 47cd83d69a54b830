"""Region instructions about drawn scenes: every answer worked out again; what is requested."""

import random
import re
from collections import Counter

import pytest
from asked import MARK, at, check, clearly, scenes, truth

from lion_min.pvit.instructions import messages
from lion_min.pvit.instructions.asks import read
from lion_min.pvit.instructions.chat import SceneChat
from lion_min.pvit.instructions import (FORMAT, KEPT, STRATEGY_OF, Instruction, filtered, generate,
                                        parse_pairs, parse_questions, parse_single,
                                        scene_instructions)
from lion_min.scenes import WORLDS, Scene, Thing
from lion_min.tokenizer import TinyTokenizer

worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


@worlds
def test_every_answer_is_true(world):
    """Guards: an answer about another object, about the wrong 'it', or with sides exchanged."""
    seen = Counter()
    for i, scene in enumerate(scenes(world, 300)):
        for made in scene_instructions(scene, random.Random(i), 6, turns=(1, 4)):
            check(scene, made)
            seen[made.task] += 1
    assert set(seen) == set(STRATEGY_OF) - {"ocr"}


@worlds
def test_every_word_is_known(world):
    """Guards: a question that the tiny tokenizer reads as <unk>."""
    tokenizer = TinyTokenizer()
    for i, scene in enumerate(scenes(world, 300)):
        for made in scene_instructions(scene, random.Random(i), 4, turns=(1, 4)):
            for text in (MARK.sub("", t) for turn in made.turns for t in turn):
                assert tokenizer.unk_id not in tokenizer.encode(text), text


def test_answers_do_not_pay_by_habit():
    """Guards: 'no' or '1' as an answer that is nearly always right."""
    some = [s for s in scenes(WORLDS["medium"], 1500) if len(s.objects) > 2]
    share = {}
    for task in ("attribute", "relation", "several", "gqa", "vcr"):
        made, _ = generate(some, SceneChat, None, random.Random(0), task=task)
        said = Counter(m.turns[0][1].split()[0] for m in made)
        share |= {(task, word): n / said.total() for word, n in said.items()}
    assert share["relation", "no"] < 0.45 and share["several", "1"] < 0.45
    assert share["attribute", "no"] < 1.5 * share["attribute", "yes"]
    assert abs(share["gqa", "true"] - share["gqa", "false"]) < 0.06
    assert 0.3 < share["vcr", "Yes."] < 0.6


def test_dialogues_point_back():
    """Guards: a dialogue without 'it', one that asks the same twice, one of two questions."""
    made, counts = generate(scenes(WORLDS["medium"], 200), SceneChat, "task-specific",
                            random.Random(0), task="dialogue", turns=(1, 5))
    assert counts == {KEPT: 200}
    later = [q for m in made for q, _ in m.turns[1:]]
    assert 0.4 < sum(" it" in MARK.sub("", q) for q in later) / len(later) < 0.8
    assert all(3 <= len(m.turns) <= 5 and len({q for q, _ in m.turns}) == len(m.turns)
               for m in made)
    assert len({len(m.turns) for m in made}) == 3
    assert sum(MARK.search(q) is not None for q in later) > 50, "the region named again"


def test_training_asks_for_lengths_and_repeats():
    """Guards: single-turn training that gets dialogues; a run that cannot be repeated."""
    for i, scene in enumerate(scenes(WORLDS["medium"], 40)):
        single = scene_instructions(scene, random.Random(i), 5, (1, 1))
        assert len(single) == 5 and all(len(m.turns) == 1 for m in single)
        assert all(len(m.turns) >= 3 or m.task == "general"
                   for m in scene_instructions(scene, random.Random(i), 3, (3, 4)))
        assert single == scene_instructions(scene, random.Random(i), 5, (1, 1))


# ---- messages ------------------------------------------------------------------------------------

@pytest.mark.parametrize("task", messages.AIMS)
def test_requests_are_whole(task):
    """Guards: a request without its annotations, or whose own example the filters would drop."""
    scene = next(s for s in scenes(WORLDS["rich"], 50) if len(s.objects) > 3)
    notes = messages.scene_notes(scene, (("STOP", (0.1, 0.1, 0.2, 0.2)),))
    request = messages.request(task, notes, random.Random(0), 3)
    assert [m["role"] for m in request] == ["system", "user", "assistant", "user"]
    assert all(set(m) == {"role", "content"} and isinstance(m["content"], str) for m in request)
    example, last = request[2]["content"], request[-1]["content"]
    parse = {"general": parse_pairs, "dialogue": parse_questions}.get(task, parse_single)
    assert parse(example), example
    if task != "dialogue":
        assert filtered(parse(example)) == parse(example)
    listed = [MARK.search(line).groups() for line in messages.section(last, "Objects")]
    half = (len(scene.objects) + 1) // 2
    assert len(listed) == (half if task == "small" else len(scene.objects))
    if task == "small":
        sides = sorted(t.box[2] - t.box[0] for t in scene.objects)
        assert max(t.box[2] - t.box[0] for t in (at(scene, n) for n in listed)) <= sides[half - 1]
    assert messages.section(last, "Captions") == [scene.caption()]
    assert bool(messages.section(last, "Text")) == (task == "ocr")
    assert bool(messages.section(last, "Relations")) == (task in ("relation", "dialogue"))
    seeds = messages.section(last, "Seeds")
    assert len(set(seeds)) == (3 if task == "general" else 0) and set(seeds) <= {*messages.SEEDS}


def test_annotations_are_true():
    """Guards: relations with the sides exchanged, which a real chat model would believe."""
    for scene in scenes(WORLDS["medium"], 60):
        notes, told = messages.scene_notes(scene), []
        for line in notes.relations:
            a, b = (at(scene, m.groups()) for m in MARK.finditer(line))
            said, = re.findall(r" is (left|right|above|below)", line)
            assert clearly(a, b, said) and a.words() in line.split(" is ")[0]
            told.append(f"The {MARK.sub('', line).replace('  ', ' ').strip()[4:]}.")
        assert notes.description == " ".join([scene.caption().capitalize(), *told])


def test_a_dialogue_takes_two_calls():
    """Guards: answers that are asked for without the questions."""
    calls = []

    def chat(request):
        calls.append(request)
        return SceneChat(scene)(request)

    scene = scenes(WORLDS["medium"], 1)[0]
    made, _ = generate([scene], lambda s: chat, "task-specific", random.Random(0), task="dialogue")
    assert len(calls) == 2 and not messages.section(calls[0][-1]["content"], "Questions")
    assert messages.section(calls[1][-1]["content"], "Questions") == [q for q, _ in made[0].turns]
    replies = parse_pairs(calls[1][2]["content"])
    assert filtered(replies) == replies and len(replies) == 3


def test_every_seed_can_be_answered():
    """Guards: a seed that the drawn scenes can never grow."""
    assert len(set(messages.SEEDS)) == 20
    notes = messages.scene_notes(scenes(WORLDS["small"], 1)[0])
    drawn = [messages.request("general", notes, random.Random(i))[-1]["content"]
             for i in range(60)]
    assert {s for query in drawn for s in messages.section(query, "Seeds")} == {*messages.SEEDS}
    world = WORLDS["medium"]
    things = (Thing("star", "red", "small", "plain", (0.1, 0.1, 0.3, 0.3)),
              Thing("ring", "red", "large", "striped", (0.5, 0.6, 0.9, 1.0)))
    scene = Scene(world, things, "two")
    for seed in messages.SEEDS:
        for thing in things[:seed.count("<Region>")]:
            seed = re.sub(r"<Region>(?!\[)", messages.region_text(thing.box), seed, count=1)
        assert read(seed, scene)[0] == truth(scene, seed, None)[0], seed


def test_the_scene_reads_what_it_is_asked():
    """Guards: a SceneChat that ignores the objects, the questions or the number of a request."""
    scene = next(s for s in scenes(WORLDS["rich"], 50) if len(s.objects) > 4)
    notes, rng = messages.scene_notes(scene), random.Random(0)
    small = sorted(scene.objects, key=lambda t: t.box[2] - t.box[0])[:3]
    for i in range(20):
        reply = SceneChat(scene, random.Random(i))(messages.request("small", notes, rng))
        assert at(scene, MARK.search(reply).groups()) in small
    a, b = (messages.region_text(t.box) for t in scene.objects[:2])
    asked = (f"What colour is the object in {b}?", "What shape is it?", f"What is in {a}?",
             "Is it striped?")
    reply = SceneChat(scene)(messages.request("dialogue", notes, rng, 4, asked))
    assert [q for q, _ in parse_pairs(reply)] == list(asked)
    check(scene, Instruction(parse_pairs(reply), "task-specific", "dialogue"))
    strange = messages.request("dialogue", notes, rng, 3, ("Why?",) * 3)
    assert parse_pairs(SceneChat(scene)(strange)) is None, "what it cannot know, it does not say"
    for turns in (1, 2, 3):
        replies = [SceneChat(scene, rng)(messages.request("general", notes, rng, turns))
                   for _ in range(10)]
        assert all(len(parse_pairs(r)) <= turns for r in replies)
        assert any(len(parse_pairs(r)) == turns for r in replies)


def test_text_in_pictures_comes_from_the_caller():
    """Guards: OCR invented for scenes in which nothing is written; given words not used."""
    some = scenes(WORLDS["medium"], 20)
    assert generate(some, SceneChat, None, random.Random(0), task="ocr") == ([], {FORMAT: 20})
    made, counts = generate(some, SceneChat, None, random.Random(0), task="ocr",
                            words_for=lambda s: (("Exit: 4", (0.5, 0.1, 0.75, 0.25)),))
    assert counts == {KEPT: 20} and {m.category for m in made} == {"other"}
    assert {m.turns[0] for m in made} == {
        ("What does it say in <Region>[0.500, 0.100, 0.750, 0.250]</Region>?", "Exit: 4")}
