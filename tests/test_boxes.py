"""Box arithmetic, the door, and boxes as text."""

import random
import time

import pytest
import torch

from lion_min import BadInput
from lion_min.boxes import (MAX_PROMPT, BoxText, area, box_iou, check_box, check_prompt, iou,
                            prompt_boxes, typed_boxes)

# What a user may type on a 200x100 picture, and a word of the one line that answers it. The last
# one is thinner than a pixel only once it is clipped.
BAD = [
    ("0.1,0.2,0.3", "3 numbers"), ("0.1,0.2,0.3,0.4,0.5", "5 numbers"), ("7", "1 numbers"),
    ("0,1,0,2,0,3,0,4", "8 numbers"), ("0.1,,0.3,0.4", "empty place"),
    ("0.1,0.2,0.3,0.4,", "empty place"), ("nan,0.2,0.3,0.4", "finite"),
    ("0.1,0.2,-NaN,0.4", "finite"), ("0,0,inf,1", "finite"), ("0,0,1e999,1", "finite"),
    ("0.5,0.1,0.2,0.4", "reversed"), ("0.1,0.9,0.2,0.4", "reversed"),
    ("0.5,0.1,0.5,0.4", "reversed"), ("-0.2,0,0.5,0.5", "fractions 0 to 1"),
    ("10,10,250,50", "200x100 pixels"), ("300,300,400,400", "leaves"), ("10,10,50,150", "leaves"),
    ("0.1,0.1,0.104,0.5", "one pixel"), ("10,10,50,10.5", "one pixel"),
    ("1.002,0.1,1.009,0.5", "one pixel")]


@pytest.mark.parametrize("numbers, word", BAD)
def test_malformed_boxes_are_refused_in_one_line(numbers, word):
    """Guards: a bad box slips through and becomes a NaN or a wrong region without a word."""
    with pytest.raises(BadInput) as caught:
        prompt_boxes(f"describe box [{numbers}] please", 200, 100)
    message = str(caught.value)
    assert word in message and "\n" not in message and message.startswith("prompt: box [")


def test_annotation_files_with_words_for_numbers_are_refused():
    """Guards: a traceback on a data set's null box; the error must name the file."""
    for numbers in ([None, 0, 1, 1], ["a", "b", "c", "d"], [10**400, 0, 1, 1]):
        with pytest.raises(BadInput, match="photos.json line 7: box .* numbers"):
            check_box(numbers, 200, 100, "photos.json line 7")


def test_pixels_and_fractions_are_one_box():
    """Guards: the wrong frame, the question users ask most; x divided by the height."""
    fractions, _ = check_box([0.25, 0.5, 0.75, 1], 200, 100)
    pixels, _ = check_box([50, 50, 150, 100], 200, 100)
    assert fractions == pixels == (0.25, 0.5, 0.75, 1)
    assert check_box([0, 0, 1, 1], 200, 100)[0] == (0, 0, 1, 1)  # all <= 1: fractions, not a dot


def test_one_per_cent_is_clipped_and_said():
    """Guards: clipping in silence, or refusing a box that a labelling tool rounded outwards; an
    off-by-rounding that refuses the smallest allowed box, or a 1x1 picture's own."""
    for numbers in ([-0.01, 0.2, 1.01, 1.005], [-2, 20, 202, 100.5]):
        box, note = check_box(numbers, 200, 100)
        assert box == pytest.approx((0, 0.2, 1, 1)) and "clipped" in note
    assert check_box([0, 0, 200, 100], 200, 100) == ((0, 0, 1, 1), "")
    with pytest.raises(BadInput):
        check_box([0, 0, 203, 100], 200, 100)
    for width in (3, 7, 64, 640, 4001):
        x = (width - 1) / width
        assert check_box([x, 0, 1, 1], width, width)[0][0] == x
    assert check_box([0, 0, 1, 1], 1, 1)[0] == (0, 0, 1, 1)


def test_round_trip_to_the_printed_precision():
    """Guards: formatter and parser drifting apart, "-0.000", a thin box printed as no box; a
    reversed or pixel box written into training text, where nobody ever looks."""
    text, rng = BoxText(), random.Random(3)
    for box in ((0.5, 0, 0.2, 1), (float("nan"), 0, 1, 1), (0, 0, 20, 10),
                (0, 0, float("inf"), 1), (-0.1, 0, 1, 1)):
        with pytest.raises(BadInput):
            text.format(box)
    assert text.format((0.44, 0.06, 0.65, 0.367)) == "[0.440,0.060,0.650,0.367]"  # lion.md 3.3
    boxes = [(0, 0, 1, 1), (-0.0, 0, 1e-4, 1), (0.9999, 0.5, 1.0, 0.5002), (0.1234, 0, 0.1236, 1)]
    for _ in range(2000):
        (x1, x2), (y1, y2) = (sorted((rng.random(), rng.random())) for _ in "xy")
        boxes.append((x1, y1, x2, y2))
    for box in boxes:
        written = text.format(torch.tensor(box))
        (read,) = text.parse(written)
        wide = all(b - a > 2e-3 for a, b in ((box[0], box[2]), (box[1], box[3])))
        assert read == pytest.approx(box, abs=0.5005e-3 if wide else 1.5e-3)
        assert text.format(read) == written and "-" not in written


def test_parse_never_raises_and_mends_nothing():
    """Guards: a crash on a model's babble, or its reversed corners scored as if it were right."""
    text, rng = BoxText(), random.Random(5)
    good = "[0.100,0.200,0.300,0.400]"
    assert text.parse(f"a {good} b [0.5, 0.5, 1, 1]") == [(.1, .2, .3, .4), (.5, .5, 1., 1.)]
    for bad in ("[0.3,0.2,0.1,0.4]", "[0.1,0.2,0.3]", "[1,2,3,4]", "[nan,0,1,1]", "[0,0,1e999,1]",
                "[0.1.2,0,1,1]", "[0_1,0,1,1]", "[]", "[,,,]", "[0.1,0.2,0.3,0.4", "[-0.1,0,1,1]"):
        assert text.parse(bad) == [], bad
        assert text.parse(f"{bad}{good}") == [(.1, .2, .3, .4)], bad
    for _ in range(3000):
        for box in text.parse("".join(rng.choices("[]0123456789.,- einfa\n{}\ud800é٣", k=60))):
            assert 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
    assert text.parse("[" * 100_000 + " " * 100_000 + "," * 100_000) == []  # no quadratic search


def test_prompt_is_rewritten_in_the_models_text():
    """Guards: the model reading pixels, and str.replace rewriting the wrong one of two boxes."""
    prompt = "is [ 20, 10 ,100,\n50] left of [0.5,.5,1.,1e0] or [20,10,100,50]?"
    text, boxes, notes = prompt_boxes(prompt, 200, 100)
    first, second = "[0.100,0.100,0.500,0.500]", "[0.500,0.500,1.000,1.000]"
    assert text == f"is {first} left of {second} or {first}?"
    assert boxes == [(.1, .1, .5, .5), (.5, .5, 1, 1), (.1, .1, .5, .5)] and notes == []
    assert len(prompt_boxes("describe box [-1,0,100,50]", 200, 100)[2]) == 1


def test_other_text_passes_untouched_or_is_refused():
    """Guards: a brace, a newline or words in brackets breaking the prompt (shikra's bug); a
    traceback, or minutes of tokenizing, on a prompt that cannot mean anything."""
    for text in ("what is [this thing]?", "array[i] and []", "{0} {name} {{", "a\nb",
                 "what 🦁 is it [🦁]?", "[0.1,0.2,about 0.3,0.4]", "[0.1,0.2"):
        assert prompt_boxes(text, 200, 100) == (text, [], [])
    for prompt in ("", " \n\t", "a" * (MAX_PROMPT + 1), "caf\udce9"):
        with pytest.raises(BadInput, match="^prompt: [^\n]*$"):
            prompt_boxes(prompt, 200, 100)
    assert check_prompt("a" * MAX_PROMPT) == "a" * MAX_PROMPT


@pytest.mark.parametrize("typed", [
    "(20,10,100,50)", "{20, 10, 100, 50}", "<20 10 100 50>", "[20;10;100;50]", "[20 | 10 | 100 | 50]",
    "【２０，１０，１００，５０】", "［２０、１０、１００、５０］", "[x1=20, y1=10, x2=100, y2=50]",
    "(xmin: 20, ymin: 10, xmax: 100, ymax: 50)", '{"x1": 20, "y1": 10, "x2": 100, "y2": 50}',
    "[10%,10%,50%,50 %]", "(20px,10px,100px,50 px)", "(20,10),(100,50)", "(20,10) to (100,50)",
    "[(20,10),(100,50)]", "[[20,10],[100,50]]", "⟨0.1,0.1,.5,5e-1⟩", "[20,10,100,50\\]"])
def test_what_is_nearly_a_box_is_read(typed):
    """Guards: the whole picture described in silence where the user gave a box."""
    text, boxes, notes = typed_boxes(f"What is in {typed}?", 200, 100)
    assert boxes == [(.1, .1, .5, .5)] and text == "What is in [0.100,0.100,0.500,0.500]?"
    assert len(notes) == 1 and f"{typed} was read as the box" in notes[0]


@pytest.mark.parametrize("typed", [
    "(100,10,20,50)", "(1990,1991,1992,1993)", "[100;10;20;50]", "(nan,0,1,1)", "[10%,10,50%,50%]",
    "20,10,100,50", "20 10 100 50", "[20,10,100,50", "x1=20 y1=10 x2=100 y2=50", "(20,10,100)",
    "(x=20,y=10,w=80,h=40)", "[y1=10,x1=20,y2=50,x2=100]", "[0,1; 0,1; 0,5; 0,5]", "(20,10,100,50,1)",
    "<L204><L469><L810><L960>", "(٣,٣,٣,٣)", "[about 20,10,100,50]"])
def test_numbers_that_are_not_read_get_one_note(typed):
    """Guards: a guessed box; silence about numbers that the user meant for one; two notes."""
    text, boxes, notes = typed_boxes(f"What is in {typed}?", 200, 100)
    assert (text, boxes, len(notes)) == (f"What is in {typed}?", [], 1), notes
    assert "read" in notes[0]


def test_numbers_that_mean_no_box_are_left_alone():
    """Guards: a note at every number; minutes over one odd prompt; a literal's own mistakes,
    which are refused, told as a note; two boxes in two styles, of which one is lost."""
    for text in ("is (1) the 2 red?", "the 3 large and 2 small ones (2)", "a (b, c) {d} <e>", "()[]",
                 "<region> <extra_id_0> in [x]"):
        assert typed_boxes(text, 200, 100) == (text, [], [])
    for bad in ("[20,10]", "[20,10,,50]", "[100,10,20,50]"):
        with pytest.raises(BadInput, match="^prompt: box"):
            typed_boxes(bad, 200, 100)
    both = typed_boxes("is (20,10,100,50) left of [0.5,0.5,1,1]?", 200, 100)
    assert both[1] == [(.1, .1, .5, .5), (.5, .5, 1, 1)] and len(both[2]) == 1
    start = time.perf_counter()
    for odd in ("( " * 9999, "(1," * 6600, " " * 19999 + "x", "(1" + " " * 9000 + ")" * 9000,
                "(1=" + ":" * 9000 + " " * 9000 + ")", "(" + "1 " * 9999 + ")", "(1,2)" + " " * 19000):
        typed_boxes(odd, 200, 100)
    assert time.perf_counter() - start < 2


def test_iou_by_hand():
    """Guards: a NaN from empty boxes, negative overlap of distant ones, N and M exchanged."""
    a = torch.tensor([[0, 0, 2, 2], [0, 0, 1, 1], [.5, .5, .5, .5], [2, 2, 0, 0.]])
    b = torch.tensor([[1, 1, 3, 3], [0, 0, 1, 1.]])
    expected = torch.tensor([[1 / 7, 1 / 4], [0, 1], [0, 0], [0, 0]])
    assert torch.allclose(box_iou(a, b), expected)
    assert torch.allclose(iou(a[:2], b), torch.tensor([1 / 7, 1]))
    assert iou(a[2], a[2]) == 0 and area(a).tolist() == [4, 1, 0, 0]
    assert box_iou(a, b[:0]).shape == (4, 0)
