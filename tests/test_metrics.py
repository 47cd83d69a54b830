"""The field's metrics against numbers worked out by hand."""

import math

import pytest
import torch

from lion_min.datasets.metrics import (cider, nearest_name, normal, pope, rec_acc, recognition,
                                       said_yes, token_f1, true_false, vqa_accuracy)

BOX = (0.1, 0.1, 0.5, 0.5)


def test_boxes_of_answers():
    """Guards: an answer without a box that is left out; a second box that rescues the first; a
    thin object's box that is rounded to thousandths before it is compared."""
    said = ["[0.100,0.100,0.500,0.500]", "at [0.100,0.100,0.500,0.350].", "the dog", "",
            "[0.600,0.600,0.900,0.900] or [0.100,0.100,0.500,0.500]",
            "[0.100,0.100,0.500,0.260]"]
    assert rec_acc(said, [BOX] * 6) == pytest.approx(
        {"acc50": 2 / 6, "miou": (1 + 0.625 + 0.4) / 6}, abs=1e-6)
    thin = (0.1, 0.1, 0.1004, 0.5)
    assert rec_acc(["[0.100,0.100,0.101,0.500]"], [thin])["miou"] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("score", [rec_acc, pope, true_false, cider, recognition])
def test_nothing_and_uneven_lists(score):
    """Guards: answers scored against others' questions where one is missing; 0/0."""
    with pytest.raises(ValueError):
        score([], [])
    with pytest.raises(ValueError):
        score(["yes", "no"], [BOX] if score is rec_acc else ["yes"])


@pytest.mark.parametrize("text, same", [
    ("The two  Dogs.", "2 dogs"), ("a", ""), ("none", "0"), ("ten", "10"), ("dont", "don't"),
    ("don't", "don't"), ("its", "its"), ("1,000", "1000"), ("1.5", "1.5"),
    ("dr. pepper", "dr pepper"),
    ("black/white", "black white"), ("black / white", "black white"), ("t-shirt", "t shirt"),
    ("yes, it is", "yes it is"), ("is it?", "is it"), ("in 1,000-2,000", "in 10002000"),
    ("\ta\ndog ", "dog"), ("another", "another"), ("what's", "what's")])
def test_normal(text, same):
    """Guards: an answer that counts as wrong for an article, a digit's name or a mark."""
    assert normal(text) == same


@pytest.mark.parametrize("agreeing, score", [
    (0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten(agreeing, score):
    """Guards: min(n/3, 1) of all ten, which gives 1/3, 2/3, 1 for one, two, three."""
    humans = ["Two."] * agreeing + [f"other{i}" for i in range(10 - agreeing)]
    assert vqa_accuracy("2", humans) == pytest.approx(score)


@pytest.mark.parametrize("score, answer, truth, value", [
    (vqa_accuracy, "A dog", ["dog"], 1), (vqa_accuracy, "cat", ["dog"], 0),
    (vqa_accuracy, "cat", ["dog", "cat"], 1), (vqa_accuracy, "", ["dog"], 0),
    (token_f1, "a dog on the grass", "dog grass", 2 * 2 / (3 + 2)),
    (token_f1, "dog dog dog", "dog", 0.5), (token_f1, "", "dog", 0), (token_f1, "cat", "dog", 0),
    (token_f1, "the", "a", 1),
    (true_false, ["True.", "false", "It is true", "true or false", "yes", "untrue"], ["true"] * 6,
     2 / 6), (true_false, ["False"], ["false"], 1),
    (recognition, ["a dog", "dog", "the cat"], ["Dog", "dog", "bird"], 2 / 3)])
def test_by_hand(score, answer, truth, value):
    """Guards: data of single answers on which nobody can score; a word said twice that is found
    twice; silence that scores; both "true" and "false" said; classes that differ by case."""
    assert score(answer, truth) == pytest.approx(value)


@pytest.mark.parametrize("answer, yes", [
    ("yes", True), ("No", False), ("no, there is none", False), ("There is not a dog.", False),
    ("Yes. There is no cat.", True), ("No.", False), ("nothing", True), ("", True),
    ("NO", True), ("I know", True)])
def test_said_yes_as_the_official_code(answer, yes):
    """Guards: POPE scores that differ from the official ones by another reading of the answers."""
    assert said_yes(answer) is yes


def test_pope_by_hand():
    """Guards: precision and recall exchanged, or those of the no."""
    said = ["yes", "Yes", "no", "yes", "no", "no", "no", "no"]
    true = ["yes", "no", "yes", "yes", "yes", "no", "no", "no"]
    assert pope(said, true) == pytest.approx({
        "accuracy": 5 / 8, "precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "yes_rate": 3 / 8})
    assert pope(["no"], ["no"]) == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0,
                                    "yes_rate": 0}


NAMES = ["bicycle", "dog", "hot dog", "traffic light"]


@pytest.mark.parametrize("answer, name", [
    ("A dog.", "dog"), ("hot dog", "hot dog"), ("the light of traffic", "traffic light"),
    ("a dog on the grass", "dog"), ("zebra", None), ("", None)])
def test_nearest_name_by_words(answer, name):
    """Guards: the longest or the first name in the place of the nearest; a name for silence."""
    assert nearest_name(answer, NAMES) == name


def test_nearest_name_by_vectors():
    """Guards: vectors that are ignored, or of articles and marks; "hot dog" that becomes "dog"."""
    def embed(text: str) -> torch.Tensor:
        assert text == normal(text)
        like_a_dog = any(word in text for word in ("dog", "puppy"))
        return torch.tensor([1.0, 0]) if like_a_dog else torch.tensor([0, 1.0]) * bool(text)
    assert nearest_name("A puppy.", NAMES, embed) == "dog"
    assert nearest_name("hot dog", NAMES, embed) == "hot dog"
    assert nearest_name("traffic light", NAMES, embed) == "traffic light"
    assert nearest_name("", NAMES, embed) is None
    with pytest.raises(ValueError, match="no class names"):
        nearest_name("dog", [])


RED, BLUE = "one red bus waits outside", "seven blue birds sit together quietly"


def test_a_perfect_rare_caption_scores_ten():
    """Guards: weights, norms or orders of n-grams that do not cancel for the same sentence."""
    assert cider([RED, BLUE], [[RED], [BLUE]]) == pytest.approx(10)
    assert cider([RED.upper() + " .", BLUE], [[RED], [BLUE]]) == pytest.approx(10)
    assert cider([BLUE, RED], [[RED], [BLUE]]) == 0 == cider(["", ""], [[RED], [BLUE]])
    assert cider([RED], [[RED]]) == 0, "nothing is rare in one picture"


@pytest.mark.parametrize("said, references, score", [
    ("a red cat", [["a red dog", "a red dog"], ["a blue cat"]], 10 * (1 / 4) / 2),
    ("red red red red", [["red"], ["blue"]], 10 * (1 / 4) / 4 * math.exp(-9 / 72) / 2)])
def test_cider_by_hand(said, references, score):
    """Guards: document frequencies counted by sentence, other logs, another sigma, no mean; CIDEr
    without its D: a rare word said again and again that scores more.

    Pictures 1, 2: "a red dog", "a blue cat". "a" is in both and weighs 0, all else log 2 =: w.
    Said of picture 1: "a red cat". Of one word: (0, w, w) . (0, w, w at dog) = w2, both norms
    w sqrt 2: 1/2. Of two: "a red" of ("a red", "red cat"): 1/2. Of three: 0. Of four: none.
    One word, "red", said 4 times for the reference "red": of its n-grams only the one word is
    there: min(4w, w) w / (4w w) = 1/4 (unclipped: 1), and three words too many.
    """
    assert cider([said, "zzz"], references) == pytest.approx(score)


def test_cider_does_not_depend_on_order():
    """Guards: frequencies that are counted while the pictures pass."""
    said, told = [RED, "a blue bus", "birds sit"], [[RED, "a bus"], [BLUE, RED], [BLUE]]
    assert cider(said, told) == pytest.approx(cider(said[::-1], told[::-1]))
    assert cider(said, told) == pytest.approx(cider(said, [texts[::-1] for texts in told]))
    assert 0 < cider(said, told) < 10
