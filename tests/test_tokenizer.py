"""Words and boxes through the tiny tokenizer and back."""

import random
import re

import pytest

from lion_min.boxes import BoxText
from lion_min.scenes import WORLDS, make_scene
from lion_min.tasks import MAKERS, TASKS, TEMPLATES
from lion_min.tokenizer import SPECIALS, TinyTokenizer, box_words, words_box


TOKENIZER = TinyTokenizer()


def test_every_word_of_the_tasks_is_known():
    """Guards: a template or a name added to the world and not to vocab.txt: <unk> in training."""
    for world in WORLDS.values():
        for i in range(150):
            scene, rng = make_scene(world, "train", 1, i), random.Random(i)
            made = [MAKERS[task](scene, rng) for task in TASKS]
            for text in [scene.caption()] + [t for e in made if e for t in (e.prompt, e.answer)]:
                assert TOKENIZER.unk_id not in TOKENIZER.encode(text), text
    for template in (t for family in TEMPLATES.values() for t in family):
        text = re.sub(r"\{\d\}", "red", template)
        assert TOKENIZER.unk_id not in TOKENIZER.encode(text), text


def test_answers_survive_the_round_trip():
    """Guards: a right answer that scores as wrong for a space before a comma."""
    for i in range(100):
        scene = make_scene(WORLDS["rich"], "train", 5, i)
        for task in TASKS:
            example = MAKERS[task](scene, random.Random(i))
            if example and not example.answer.startswith("["):
                assert TOKENIZER.decode(TOKENIZER.encode(example.answer)) == example.answer
    assert TOKENIZER.decode(TOKENIZER.encode("A RED  circle ,\n yes")) == "a red circle, yes"


def test_ids_are_unique_and_stable():
    """Guards: a doubled word, or special ids that LionSettings does not have."""
    assert len(set(TOKENIZER.words)) == len(TOKENIZER.words) == len(TOKENIZER)
    assert TOKENIZER.words[:6] == list(SPECIALS)
    assert (TOKENIZER.pad_id, TOKENIZER.eos_id, TOKENIZER.unk_id) == (0, 1, 2)
    assert (TOKENIZER.bos_id, TOKENIZER.region_id, TOKENIZER.hint_id) == (3, 4, 5)


def test_text_never_names_a_special_token():
    """Guards: a prompt that ends itself, or puts an image feature where it likes."""
    for text in ("<eos>", "<pad>", "<region>", "<extra_id_0>", "<bos>", "\uff1ceos\uff1e", "< eos >",
                 "<x4> <y1> <l8> <t8> <r6> <b11>", "<e\u200bos>", "{0} {} %s", "\x00\x1b[2J",
                 "[nan,0,1,1]", "[" * 500):
        ids = TOKENIZER.encode(text, region=True)
        assert ids and set(ids).isdisjoint({0, 1, 3, 4, 5}), text
        assert not any(TOKENIZER.words[i].startswith("<") and i != TOKENIZER.unk_id
                       and len(TOKENIZER.words[i]) > 1 for i in ids), text


def test_every_box_comes_back_within_1_128():
    """Guards: a box that drifts, or whose distances fall outside the words there are; a tokenizer
    that caps REC below an IoU of 1 in the 64-pixel worlds."""
    rng = random.Random(0)
    for _ in range(1500):
        (x1, x2), (y1, y2) = (sorted((rng.random(), rng.random())) for _ in "xy")
        if min(x2 - x1, y2 - y1) < 1 / 32:
            continue
        box = tuple(float(v) for v in BoxText().format((x1, y1, x2, y2))[1:-1].split(","))
        words = box_words(box)
        assert all(w in TOKENIZER.ids for w in words)
        assert max(abs(a - b) for a, b in zip(words_box(words), box)) <= 1 / 128 + 1e-9
        text = TOKENIZER.decode(TOKENIZER.encode(BoxText().format(box)))
        assert max(abs(a - b) for a, b in zip(BoxText().parse(text)[0], box)) <= 1 / 128 + 6e-4
    whole = box_words((0, 0, 1, 1))
    assert whole[:2] == ["<x4>", "<y4>"] and words_box(whole) == (0, 0, 1, 1)
    for name in ("small", "medium"):
        for i in range(100):
            for thing in make_scene(WORLDS[name], "train", 6, i).objects:
                assert words_box(box_words(thing.box)) == pytest.approx(thing.box, abs=1e-9)


def test_regions_stand_behind_their_boxes():
    """Guards: a number of placeholders that differs from the number of boxes."""
    text = "What is in [0.1,0.1,0.4,0.4] and [0.5, 0.5, 0.9, 0.9]? not [0.9,0.9,0.1,0.1] nor [1]"
    ids = TOKENIZER.encode(text, region=True)
    places = [i for i, token in enumerate(ids) if token == TOKENIZER.region_id]
    assert len(places) == 2 == len(BoxText().parse(text))
    assert [TOKENIZER.words[ids[p - 6]][1] for p in places] == ["x", "x"]
    assert [t for t in ids if t != TOKENIZER.region_id] == TOKENIZER.encode(text)


def test_decoding_garbage_never_raises():
    """Guards: an untrained model whose answer is a traceback."""
    rng = random.Random(2)
    for _ in range(500):
        text = TOKENIZER.decode([rng.randrange(len(TOKENIZER)) for _ in range(12)])
        assert isinstance(text, str) and "<" not in text, "words that tell a reader nothing"
        BoxText().parse(text)
    assert TOKENIZER.decode([]) == "" and TOKENIZER.decode([1, 20]) == ""
    box = box_words((0.125, 0.25, 0.5, 0.75))
    for words in (["at", *box[:5], "and", *box], ["at", *box[2:], "and", *box, "<x1>"],
                  ["at", "<unk>", *box[::-1], "<region>", "and", *box[:2], *box]):
        text = TOKENIZER.decode([TOKENIZER.ids[word] for word in words])
        assert text == "at and [0.125,0.250,0.500,0.750]", "a broken box is dropped, a whole one not"
    assert words_box(["<x0>", "<y0>", "<l-4>", "<t3>", "<r2>", "<b3>"]) is None, "reversed sides"
    assert words_box(["<x0>", "<y0>", "<l4>", "<t3>", "<r2>"]) is None
