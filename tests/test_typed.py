"""What users type: slips mended, unknown words named, odd questions noted, answers never empty."""

import random

import pytest
from test_talk import shape

from lion_min import launch, wordings
from lion_min.questions import FAMILIES, in_other_words
from lion_min.scenes import WORLDS, make_scene
from lion_min.system import UNKNOWN
from lion_min.tiny.typed import UNLIKE, Reader, one_slip, taught_questions
from lion_min.tokenizer import TinyTokenizer

READER = Reader(TinyTokenizer())
SCENE = make_scene(WORLDS["medium"], "heldout", 7, 3)
UNRELATED = """What is the capital of France?|Tell me a joke.|How old are you?|Is it raining?|Why is
the sky blue?|Write a poem.|Translate this into German.|Is the red circle happy?|Draw a red circle.|
Move the star to the left.|Which object is the most beautiful?|How far is the star from the ring?|
Can you sing?|Do you like red?|Who made this image?|Is there a dog in the kitchen?|What brand is the
car?|How many corners does the star have?|Is the background dark?|Make the ring blue.|Please count to
six.|Which colour do you like?|Why?|and the other one?|the the the|red|Rotate the image.|What is two
plus two?|Do you know who i am?|Where are you from?""".replace("\n", " ").split("|")


@pytest.mark.parametrize("typed, read, notes", [
    ("What color is the sqaure?", "What color is the square?", {"sqaure": "square"}),
    ("where is the Cirlce", "where is the Circle", {"Cirlce": "circle"}),
    ("tringle trianglle diamnod yelow pruple", "triangle triangle diamond yellow purple", 5),
    ("wheer is the big star?", "where is the large star?", {"wheer": "where", "big": "large"}),
    ("How many little hearts in the photo", "How many small hearts in the image", 2),
    ("Is the star on top of the ring?", "Is the star above the ring?", {"on top of": "above"}),
    ("What's left of the moon?", "What is left of the moon?", {}), ("colur", "colour", 1),
    ("Is there a tree, a king, a hand, a cat?", None, {}),      # near to known words, but others
    ("Where are the red circles [0.1,0.1,0.5,0.5]?", None, {}), ("hart", "heart", 1),
    ("Thank you!", "Thanks!", 1), ("whats in the upper left corner", "what is in the top left corner", 2),
    ("\u212aing of ov\u00e9r \u017f", None, {}), ("", None, {})])
def test_words_are_mended(typed, read, notes):
    """Guards: a slip that costs the answer; a taught word changed; another word forced into one of
    the world; a change that the user is not told of."""
    text, mended = READER.mend(typed)
    assert text == (typed if read is None else read)
    assert mended == notes or len(mended) == notes


@pytest.mark.parametrize("word, other, near", [
    ("sqaure", "square", True), ("squar", "square", True), ("squaree", "square", True),
    ("sqxare", "square", True), ("square", "square", False), ("saqure", "square", False),
    ("sqaer", "square", False), ("erauqs", "square", False), ("ab", "ba", True), ("", "a", True)])
def test_one_slip(word, other, near):
    """Guards: two slips taken for one; an exchange of neighbours for two."""
    assert one_slip(word, other) is near and one_slip(other, word) is near


def test_notes():
    """Guards: a note for every question, or for none; unknown words that a mending hides."""
    picture = SCENE.draw()
    for prompt in taught_questions():
        assert READER(picture, prompt) == (prompt, []), prompt
    assert READER(picture, "Is the sqaure near the zebra?")[1][:2] == [
        'read "sqaure" as "square"', "the tiny preset does not know 'near', 'zebra'"]
    noted = [prompt for prompt in UNRELATED if READER(picture, prompt)[1]]
    assert len(noted) == len(UNRELATED), "every one is unlike, or has an unknown word"
    unlike = [prompt for prompt in UNRELATED if READER.likeness(prompt) < UNLIKE]
    assert len(unlike) > 0.8 * len(UNRELATED)


def test_questions_in_other_words_are_seldom_unlike():
    """Guards: a note on what the system is scored to understand; held-out wordings in the list."""
    held = [e for i in range(40) for e in in_other_words(
        make_scene(WORLDS["medium"], "heldout", 9, i), random.Random(i), len(FAMILIES), 0)]
    unlike = sum(READER.likeness(e.prompt) < UNLIKE for e in held)
    assert 0 < unlike < 0.15 * len(held), unlike / len(held)
    taught = {shape(text) for text in READER.questions}
    assert not taught & {shape(wordings.filled(w, e.slots)) for e in held
                         for w in wordings.HELDOUT[e.family]}
    assert not any(READER.mend(e.prompt)[1] or READER.unknown(e.prompt) for e in held)


@pytest.mark.parametrize("said, answer", [("", UNKNOWN), (" . ", UNKNOWN), ("red", "red"), ("2", "2")])
def test_an_answer_is_never_empty(said, answer, monkeypatch):
    """Guards: an empty line as an answer, or the words for it without a note."""
    system = launch.load("pvit")
    options = {}
    monkeypatch.setattr(system, "answer", lambda seen, prompts, **o: options.update(o) or [said])
    reply = system.ask(SCENE.draw(), "What is in the image?")
    assert reply.answer == answer and options == {"min_new_tokens": 1}
    assert any(UNKNOWN in note for note in reply.notes) == (answer == UNKNOWN)


@pytest.mark.parametrize("system", ["lion", "pvit", "lmeye", "lyrics"])
def test_every_system_answers_everything(system):
    """Guards: an option that one system does not take; raw tokens in an answer; a question of
    PVIT's own that is called unlike what it was taught."""
    opened = launch.load(system)
    for prompt in ("where are the objects", "what's in teh top left corner?", "zebra", "hello"):
        reply = opened.ask(SCENE.draw(), prompt)
        assert any(map(str.isalnum, reply.answer)) and "<" not in reply.answer
    own = opened.reads(SCENE.draw(), "How many of the objects in [0.1,0.1,0.2,0.2] and "
                       "[0.5,0.5,0.7,0.7] are striped?")[1]
    assert bool(own) == (system != "pvit"), own
