"""Scores of systems whose scores are known: one that knows everything, one that says yes."""

import json
import random

import pytest
from oracle import COUNT, SEED, WORLD, Knowing, answer

from lion_min import scores
from lion_min.boxes import BoxText
from lion_min.scores import (answer_all, caption_matches, evaluate, is_right, questions,
                             spoken_questions)
from lion_min.scores import scores as score_answers
from lion_min.scenes import make_scene
from lion_min.tasks import TASKS, Example

METRICS = {"rec_acc50", "rec_acc50_relational", "rec_miou", "reg_exact", "reg_kind", "reg_colour",
           "vqa_acc", "vqa_by_type", "relation_acc", "exist_acc", "exist_yes_rate",
           "caption_object_f1"}                                       # design section 5
SPOKEN = {"wordings", "absent"}


@pytest.fixture(scope="module")
def oracle() -> dict:
    return evaluate(Knowing(), WORLD, COUNT, SEED, batch=16)


def test_an_oracle_scores_one(oracle):
    """Guards: a question that its own picture cannot answer; answers scored against others'."""
    perfect = {"rec_acc50", "rec_acc50_relational", "reg_exact", "reg_exact_heldout_pairs",
               "reg_kind", "reg_colour", "vqa_acc", "relation_acc", "exist_acc", "rec_miou",
               "caption_object_f1"}
    perfect |= SPOKEN
    assert {name: oracle[name] for name in perfect} == dict.fromkeys(perfect, 1.0)
    assert set(oracle["vqa_by_type"].values()) == {1.0}
    assert 0.3 < oracle["exist_yes_rate"] < 0.7


def test_an_oracle_of_other_pictures_is_at_the_floor(oracle):
    """Guards: a shuffled column that is taken with the right pictures, or with none."""
    limits = {"rec_acc50": (0, 0.25), "rec_miou": (0.001, 0.35), "reg_exact": (0, 0.15),
              "caption_object_f1": (0, 0.25), "reg_colour": (0, 0.4), "reg_kind": (0, 0.4),
              "exist_acc": (0.25, 0.75), "relation_acc": (0.25, 0.75), "vqa_acc": (0, 0.7)}
    for name, (low, high) in limits.items():
        assert low <= oracle["shuffled"][name] < high, (name, oracle["shuffled"][name])


def test_the_keys_are_those_of_the_contract(oracle):
    """Guards: a score that design section 5 names and that one of the two columns lacks."""
    again = json.loads(json.dumps(oracle))
    assert again == oracle, "numbers, names and lists only"
    assert again.keys() >= METRICS | {"reg_exact_heldout_pairs", "shuffled", "n", "seed", "seconds"}
    assert again.keys() & again["shuffled"].keys() >= METRICS | SPOKEN
    assert again["vqa_by_type"].keys() == again["shuffled"]["vqa_by_type"].keys()
    assert (again["seed"], again["count"], again["world"]) == (SEED, COUNT, "medium")
    scenes = [make_scene(WORLD, "heldout", SEED, i) for i in range(COUNT)]
    asked = questions(scenes, SEED)
    told = {task: sum(e.task == task for _, e in asked) for task in TASKS}
    spoken = {name: len(part) for name, part in spoken_questions(scenes, SEED).items()}
    assert again["n"] == told | {"reg_heldout_pairs": COUNT // 2} | spoken and min(told.values()) > 0
    assert spoken["absent"] == COUNT and 2 * COUNT < spoken["wordings"] <= 3 * COUNT


def test_given_scenes_and_no_floor():
    """Guards: --data whose composed score is of made scenes, or of familiar pairs;
    --no-shuffled that asks every question twice all the same."""
    scenes = [make_scene(WORLD, "heldout", SEED, i, pairs) for pairs, count in
              (("train", 5), ("heldout", 3)) for i in range(count)]
    prompts = []
    system = Knowing(lambda scene, prompt: prompts.append(prompt) or answer(scene, prompt))
    result = evaluate(system, WORLD, 99, SEED, scenes=scenes, shuffled=False)
    assert result["count"] == 8 and result["n"]["reg"] == 8
    assert result["n"]["reg_heldout_pairs"] == 3 and result["reg_exact_heldout_pairs"] == 1.0
    assert "shuffled" not in result and len(prompts) == sum(result["n"].values())


def test_a_system_that_always_says_yes():
    """Guards: a POPE score that such a system wins; a yes that counts as a caption or a box."""
    result = evaluate(Knowing(lambda scene, prompt: "yes"), WORLD, COUNT, SEED)
    truth = [e.answer for _, e in questions(
        [make_scene(WORLD, "heldout", SEED, i) for i in range(COUNT)], SEED)
        if e.task == "existence"]
    for column in (result, result["shuffled"]):
        assert column["exist_yes_rate"] == 1.0
        assert column["exist_acc"] == pytest.approx(truth.count("yes") / len(truth), abs=1e-4)
        assert column["vqa_by_type"]["existence"] == column["exist_acc"]
        zero = METRICS - {"exist_acc", "exist_yes_rate", "vqa_acc", "vqa_by_type"} | {"absent"}
        assert {column[name] for name in zero} == {0.0}
        assert column["vqa_acc"] < 0.25


def test_empty_answers_score_nothing():
    """Guards: silence as a refusal of what is absent, or as a question understood."""
    result = evaluate(Knowing(lambda scene, prompt: ""), WORLD, 12, SEED, shuffled=False)
    assert {result[name] for name in METRICS - {"vqa_by_type"} | SPOKEN} == {0.0}


def test_questions_do_not_depend_on_each_other():
    """Guards: a question that changes with --count, so that two runs cannot be compared."""
    scenes = [make_scene(WORLD, "heldout", SEED, i) for i in range(6)]
    few, many = questions(scenes[:3], SEED), questions(scenes, SEED)
    assert many[:len(few)] == few and questions(scenes, SEED + 1) != many
    assert {row for row, _ in many} == set(range(6))
    assert len({(row, e.task) for row, e in many}) == len(many)


def asked(*pairs: tuple[str, str]) -> list[tuple[int, Example]]:
    """Questions (task, right answer); every task needs a caption beside it."""
    return [(0, Example(task, "?", answer, tuple(BoxText().parse(answer)))) for task, answer in pairs]


BOX = "[0.100,0.100,0.500,0.500]"
OTHER = "[0.600,0.600,0.900,0.900]"
CAPTION = ("caption", "a large red star.")


@pytest.mark.parametrize("said, area", [
    (BOX, 1.0), ("at " + BOX + " or [0.800,0.800,0.900,0.900]", 1.0),
    ("[0.100,0.100,0.500,0.300]", 0.5), ("[0.100,0.100,0.500,0.299]", 0.4975),
    ("[0.600,0.600,0.900,0.900]", 0.0), ("", 0.0), ("the red circle", 0.0),
    ("[0.500,0.500,0.100,0.100]", 0.0), ("[0.1,0.1,0.5]", 0.0), ("[0.1,0.1,0.5,0.5,0.9]", 0.0),
    ("[0.1,0.1,0.5,0.5", 0.0), ("[nan,0.1,0.5,0.5]", 0.0), ("[a,b,c,d]", 0.0),
    ("[0.1,0.1,5,5]", 0.0)])
@pytest.mark.parametrize("task", ["rec", "rec_relational"])
def test_boxes_in_answers(task, said, area):
    """Guards: a malformed box that scores, raises, or has its corners turned round."""
    result = score_answers(asked((task, BOX), CAPTION), [said, ""])
    assert result["rec_miou"] == pytest.approx(area, abs=2e-3)
    assert result["rec_acc50"] == (area >= 0.5)
    assert result["rec_acc50_relational"] == (area >= 0.5 and task == "rec_relational")


def test_scores_by_hand():
    """Guards: numbers of one task in another's; words of REG taken from the wrong place."""
    pairs = [("existence", "yes"), ("existence", "no"), ("existence", "no"), ("colour", "red"),
             ("count", "2"), ("count", "3"), ("kind", "star"), ("relation", "true"),
             ("relation", "false"), ("reg", "a large red star"), ("reg", "a small blue ring"),
             ("reg", "a large red striped moon"), ("rec", BOX), ("rec_relational", BOX), CAPTION,
             ("caption", "a small red star, a small red star and a large blue ring.")]
    said = ["yes", "yes", "no", "red", "2", "4", "moon", "true", "true", "a small red star",
            "a small blue ring", "a large green plain moon", BOX, "", CAPTION[1],
            "a small red star and a large blue moon."]
    result = score_answers(asked(*pairs), said)
    n = result.pop("n")
    assert n == {"existence": 3, "colour": 1, "kind": 1, "count": 2, "relation": 2, "caption": 2,
                 "reg": 3, "rec": 1, "rec_relational": 1}
    assert result == {
        "rec_acc50": 0.5, "rec_acc50_relational": 0.0, "rec_miou": 0.5, "reg_exact": 0.3333,
        "reg_kind": 1.0, "reg_colour": 0.6667, "vqa_acc": 0.5714,
        "vqa_by_type": {"existence": 0.6667, "colour": 1.0, "kind": 0.0, "count": 0.5},
        "relation_acc": 0.5, "exist_acc": 0.6667, "exist_yes_rate": 0.6667,
        "caption_object_f1": round(2 * (1 + 1) / ((1 + 3) + (1 + 2)), 4)}


@pytest.mark.parametrize("said, true, right", [
    (f"{BOX} and {OTHER}", f"{BOX} and {OTHER}", True), (f"{OTHER} {BOX}", f"{BOX} and {OTHER}", True),
    (BOX, f"{BOX} and {OTHER}", False), (f"{BOX} and {OTHER}", BOX, False),
    (f"{BOX} and {BOX}", f"{BOX} and {OTHER}", False), ("[0.100,0.100,0.500,0.300]", BOX, True),
    ("[0.100,0.100,0.500,0.290]", BOX, False), ("there is none.", "there is none.", True),
    (BOX, "there is none.", False), ("", "there is none.", False), ("there is none.", BOX, False),
    ("", BOX, False), ("red", "red", True), ("red.", "red", False)])
def test_an_answer_is_right(said, true, right):
    """Guards: boxes right one by one though some are missing or too many; a box for what is not
    there; an order of boxes that counts as an error."""
    assert is_right(said, asked(("several", true))[0][1]) is right


@pytest.mark.parametrize("said, there, counts", [
    ("a red star.", "a red star.", (1, 1, 1)), ("a red star", "a red star.", (1, 1, 1)),
    ("a blue ring, a red star and a red moon.", "a red moon, a red star and a blue ring.",
     (3, 3, 3)),
    ("a red star, a red star and a red star.", "a red star and a red star.", (2, 2, 3)),
    ("a red star.", "a red star and a red star.", (1, 2, 1)),
    ("a star.", "a red star.", (0, 1, 1)), ("a red star and a ", "a red star.", (1, 1, 2)),
    ("", "a red star and a blue ring.", (0, 2, 0)), (" . ", "a red star.", (0, 1, 0))])
def test_captions_object_by_object(said, there, counts):
    """Guards: an object named twice that counts twice, half an object, silence as an object."""
    assert caption_matches((said, there)) == counts


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_answers_go_back_where_they_were_asked(batch):
    """Guards: sorting by task for speed that leaves answers at others' questions, or rows mixed."""
    scenes = [make_scene(WORLD, "heldout", SEED, i) for i in range(5)]
    asked = questions(scenes, SEED)
    random.Random(0).shuffle(asked)
    sizes = []

    class Echo(Knowing):
        def answer(self, features, prompts):
            sizes.append(len(prompts))
            return [f"{scene.seed} {prompt}" for scene, prompt in zip(features, prompts)]
    system = Echo()
    seen = scores.encode_all(system, scenes, 2)
    assert [len(chunk) for chunk in seen] == [2, 2, 1]
    answers = answer_all(system, seen, asked, batch)
    assert answers == [f"{scenes[row].seed} {example.prompt}" for row, example in asked]
    assert max(sizes) <= batch and sum(sizes) == len(asked)
