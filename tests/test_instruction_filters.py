"""Region instructions: conversion of data sets, forms, filters, the command, a local model."""

import json
import random
import re

import pytest
from asked import check, scenes

from lion_min import BadInput
from lion_min.pvit.instructions import (CATEGORY, KEPT, NOTHING, STRATEGIES, STRATEGY_OF,
                                        Instruction, generate, messages)
from lion_min.pvit.instructions.__main__ import main
from lion_min.pvit.instructions.chat import LocalChat, SceneChat
from lion_min.pvit.instructions.conversion import convert_gqa, convert_vcr
from lion_min.pvit.instructions.forms import (DIALOGUE, FORMAT, IN_ANSWER, NO_REGION, PAIRS, QUESTIONS,
                                              SINGLE, filtered)
from lion_min.scenes import WORLDS, make_scene

R1, R2 = "<Region>[0.1, 0.2, 0.3, 0.4]</Region>", "<Region>[0.500, 0.500, 0.900, 0.800]</Region>"
BOX1, BOX2 = (0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.9, 0.8)
SMALL = scenes(WORLDS["small"], 3)


def printed(text: str) -> str:
    """With three decimals, as our own form has them."""
    return text.replace("[0.1, 0.2, 0.3, 0.4]", "[0.100, 0.200, 0.300, 0.400]")


# ---- conversion ----------------------------------------------------------------------------------

@pytest.mark.parametrize("question, mentions, converted", [
    ("What is this bird called?", [("bird", BOX1)], f"What is this bird in {R1} called?"),
    ("Is the red cup left of the cupboard or cup?", [("cup", BOX1), ("red cup", BOX2)],
     f"Is the red cup in {R2} left of the cupboard or cup in {R1}?"),
    ("Is it sunny?", [("sky", BOX1)], "Is it sunny?")])
def test_conversion_of_gqa(question, mentions, converted):
    """Guards: a region behind another object of the same name, or inside a longer word."""
    turn = convert_gqa(question, "yes", mentions)
    assert turn == (printed(converted), "yes")
    assert filtered((turn,)) == ((turn,) if "Region" in converted else NO_REGION)


def test_conversion_of_vcr():
    """Guards: ordinals off by one, a marker left standing, a region in the target."""
    boxes = {"person1": BOX1, "dining table2": BOX2}
    turn = convert_vcr("Why does <person1> look at <dining table2>?", "<person1> is hungry.",
                       "<dining table2> and <dog12> are near.", boxes)
    assert turn == (printed(f"Why does the first person in {R1} look at the second dining table "
                            f"in {R2}?"), "The first person is hungry. The second dining table "
                    "and the 12th dog are near.")
    assert filtered((turn,)) == (turn,)
    with pytest.raises(BadInput, match=r"^.*<person2> has no box.*\Z"):  # one line
        convert_vcr("What is <person2> doing?", "x", "y", boxes)


def test_scenes_that_give_no_question():
    """Guards: a VCR question with one object, uncounted losses."""
    one = [s for s in scenes(WORLDS["medium"], 60) if len(s.objects) == 1]
    made, counts = generate(one, SceneChat, ("vcr",), random.Random(0))
    assert not made and counts == {NOTHING: len(one)}


# ---- parser and filters --------------------------------------------------------------------------

def single(question: str, answer: str) -> str:
    return f"Question: {question}\n======\nAnswer: {answer}"


THREE = QUESTIONS.format(zip("abc"))
TWO_PAIRS = PAIRS.format((("a", "1"), ("b", "2")))
TURNS = [("a?", "1"), ("b?", "2"), ("c?", "3")]


def test_forms_are_parsed():
    """Guards: line breaks that make a reply unreadable; parts in another order."""
    assert SINGLE.parse(single("What?", "This.")) == (("What?", "This."),)
    assert SINGLE.parse("\nQuestion:\nWhat\nis it?\n\n======\n\nAnswer: a\n b \n") == (
        ("What is it?", "a b"),)
    assert THREE == "Question: a\n===\nQuestion: b\n===\nQuestion: c"
    assert QUESTIONS.parse(THREE) == (("a",), ("b",), ("c",))
    assert TWO_PAIRS == "Question: a\n===\nAnswer: 1\n===\nQuestion: b\n===\nAnswer: 2"
    assert PAIRS.parse(TWO_PAIRS) == (("a", "1"), ("b", "2"))


@pytest.mark.parametrize("form, broken", [
    *((SINGLE, text) for text in (
        "", "What?", "Question: a\n===\nAnswer: b", "Question: a\n======\n",
        "Question:\n======\nAnswer: b", "Sure!\n" + single("a", "b"),
        single("a", "b\n\nQuestion: c"), single("a", "b") + "\n" + single("a", "b"),
        "Answer: b\n======\nQuestion: a", single("a", "b\n======\nAnswer: c"),
        single("a", "b\n======\n" + single("c", "d")), "Question: a ====== Answer: b")),
    *((QUESTIONS, text) for text in (
        "", QUESTIONS.format(zip("ab")), THREE.replace("b", ""), THREE.replace("===", "======"),
        THREE.replace("Question: b", "b"))),
    *((PAIRS, text) for text in (
        "", TWO_PAIRS + "\n===\nQuestion: c", TWO_PAIRS.replace("Answer: 1", "Answer:"),
        TWO_PAIRS.replace("Answer: 1", "1"), TWO_PAIRS.replace("\n===\n", "\n"))),
    (DIALOGUE, TWO_PAIRS)])
def test_broken_forms_are_refused(form, broken):
    """Guards: half a reply, or two replies in one, that pass as an instruction."""
    assert form.parse(broken) == ()


@pytest.mark.parametrize("question, answer, must, reason", [
    (f"What is in {R1}?", "a cup", True, None), (f"{R1} or {R2}?", "the first", True, None),
    ("What is there?", "a cup", False, None), ("What is there?", "a cup", True, NO_REGION),
    (f"What is in {R1}?", f"the cup in {R2}", True, IN_ANSWER),
    (f"What is in {R1}?", "at [0.1, 0.2, 0.3, 0.4]", True, IN_ANSWER),
    (f"What is in {R1}?", "in the <region>", True, IN_ANSWER),
    ("What is in <Region>[0.3, 0.2, 0.1, 0.4]</Region>?", "a cup", True, FORMAT),
    ("What is in <Region>[10, 20, 30, 40]</Region>?", "a cup", True, FORMAT),
    ("What is in <Region>[0.1, 0.2, 0.3]</Region>?", "a cup", True, FORMAT),
    ("What is in <Region>?", "a cup", False, FORMAT), (f"{R1} and <Region>?", "x", True, FORMAT),
    ("What is in [0.1, 0.2, 0.3, 0.4]?", "a cup", False, FORMAT),
    ("Is note [1] in [a, b]?", "no", False, None)])
def test_filters(question, answer, must, reason):
    """Guards: a sample that training would refuse, or one dropped under another filter's name."""
    assert filtered(((question, answer),), must) == (reason or ((printed(question), answer),))


@pytest.mark.parametrize("task, replies, reason", [
    ("attribute", ["I am sorry."], FORMAT), ("attribute", [single("What?", "a cup")], KEPT),
    ("attribute", [single(f"What is in {R1}?", R2)], IN_ANSWER), ("general", [""], FORMAT),
    ("general", ["Question: What?\n===\nAnswer: that"], NO_REGION),
    ("general", [f"Question: What is in {R1}?\n===\nAnswer: that"], KEPT),
    ("dialogue", [QUESTIONS.format(zip("ab"))], FORMAT), ("dialogue", [THREE, THREE], FORMAT),
    ("dialogue", [THREE, PAIRS.format(TURNS[:2])], FORMAT),
    ("dialogue", [THREE, PAIRS.format(TURNS)], NO_REGION)])
def test_what_a_chat_model_gets_wrong_is_counted(task, replies, reason):
    """Guards: a filter that only the rule-based chat passes, counts that do not add up; dialogues
    below three answered questions, or without any region, that are kept."""
    def chat_for(scene):
        turns = iter(replies)
        return lambda messages: next(turns)

    made, counts = generate(SMALL, chat_for, (task,), random.Random(0))
    assert counts == {reason: 3} and len(made) == (3 if reason == KEPT else 0)


def test_categories():
    """Guards: a task that the FineEval report cannot place."""
    assert set(CATEGORY) == set(STRATEGY_OF)
    assert set(CATEGORY.values()) == {"recognition", "attribute", "reasoning", "counting", "other"}


# ---- command and local model ---------------------------------------------------------------------

def test_the_command_writes_what_it_promises(tmp_path, capsys):
    """Guards: lines that name another scene than the one they are about; counts left unsaid."""
    def written(name, *arguments):
        assert main([str(tmp_path / "new" / name), *arguments]) == 0
        return [json.loads(s) for s in (tmp_path / "new" / name).read_text().splitlines()]

    rich = ("--count", "40", "--seed", "7", "--world", "rich")
    lines = written("out.jsonl", *rich)
    counts = {name: int(n) for n, name in re.findall(r"^ *(\d+)  (.+)$", capsys.readouterr().out,
                                                     re.MULTILINE)}
    assert set(counts) == {KEPT, FORMAT, IN_ANSWER, NO_REGION, NOTHING}
    assert len(lines) == counts[KEPT] == 40 and counts[FORMAT] > 0, "OCR without words is dropped"
    drawn = {s.seed: s for s in (make_scene(WORLDS["rich"], "train", 7, i) for i in range(400))}
    for line in lines:
        assert set(line) == {"turns", "strategy", "task", "category", "scene"}
        assert line["category"] == CATEGORY[line["task"]]
        assert line["task"] in STRATEGIES[line["strategy"]]
        check(drawn[line["scene"]], Instruction(line["turns"], "", line["task"]))
    assert written("again.jsonl", *rich) == lines
    assert {line["task"] for line in written("third.jsonl", "--count", "5", "--strategy", "general")
            } == {"general"}
    assert main([str(tmp_path / "new" / "third.jsonl")]) == 2, "a file of the user's is replaced"


def test_bad_input_is_one_line(tmp_path, capsys):
    """Guards: a traceback for a missing model, a folder in the way, an empty model."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    for out, chat in (("o.jsonl", ["--chat", str(tmp_path / "none")]), ("", []),
                      ("o.jsonl", ["--chat", str(tmp_path / "empty")])):
        assert main([str(tmp_path / out), "--count", "2", *chat]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: chat model" if chat else "error: ")
        assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    assert main([str(tmp_path / "out.jsonl"), "--count", "0"]) == 2


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A random Llama of a few thousand parameters with a word tokenizer and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp("chat")
    words = {w: i for i, w in enumerate(["<unk>", "<eos>", "Question", "Answer", ":", "="])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>",
                                        eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=6, hidden_size=16, intermediate_size=16, eos_token_id=1,
                                 num_hidden_layers=1, num_attention_heads=2, bos_token_id=1,
                                 pad_token_id=1)).save_pretrained(folder)
    return folder


def test_a_local_model_is_a_chat(chat_model, tmp_path, capsys):
    """Guards: a reply that holds the request again, garbage that passes, a base model."""
    chat = LocalChat(chat_model, most=8)
    request = messages.Request("attribute", messages.scene_notes(SMALL[0]))
    reply = chat(request)
    assert isinstance(reply, str) and len(reply.split()) <= 8 and reply == chat(request)
    made, counts = generate(SMALL, lambda s: chat, ("general",), random.Random(0))
    assert not made and counts == {FORMAT: 3}
    chat.tokenizer.chat_template = None
    chat.tokenizer.save_pretrained(tmp_path)
    chat.model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="no chat template"):
        LocalChat(tmp_path)
