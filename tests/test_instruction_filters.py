"""Region instructions: conversion of data sets, forms, filters, the command, a local model."""

import json
import random
import re

import pytest
from asked import check, scenes

from lion_min import BadInput
from lion_min.pvit.instructions import messages
from lion_min.pvit.instructions.chat import LocalChat, SceneChat
from lion_min.pvit.instructions.conversion import convert_gqa, convert_vcr
from lion_min.pvit.instructions import (CATEGORY, FORMAT, IN_ANSWER, KEPT, NO_REGION, NOTHING,
                                        STRATEGIES, STRATEGY_OF, Instruction, filtered, generate,
                                        main, parse_pairs, parse_questions, parse_single)
from lion_min.scenes import WORLDS, make_scene

R1, R2 = "<Region>[0.1, 0.2, 0.3, 0.4]</Region>", "<Region>[0.500, 0.500, 0.900, 0.800]</Region>"


# ---- conversion ----------------------------------------------------------------------------------

def test_conversion_of_gqa():
    """Guards: a region behind another object of the same name, or inside a longer word."""
    cup, red = (0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.9, 0.8)
    assert convert_gqa("What is this bird called?", "owl", [("bird", cup)]) == (
        "What is this bird in <Region>[0.100, 0.200, 0.300, 0.400]</Region> called?", "owl")
    question, _ = convert_gqa("Is the red cup left of the cupboard or cup?", "no",
                              [("cup", cup), ("red cup", red)])
    assert question == (f"Is the red cup in {R2} left of the cupboard or cup in "
                        "<Region>[0.100, 0.200, 0.300, 0.400]</Region>?")
    unnamed = convert_gqa("Is it sunny?", "yes", [("sky", cup)])
    assert unnamed == ("Is it sunny?", "yes") and filtered((unnamed,)) == NO_REGION


def test_conversion_of_vcr():
    """Guards: ordinals off by one, a marker left standing, a region in the target."""
    boxes = {"person1": (0.1, 0.2, 0.3, 0.4), "dining table2": (0.5, 0.5, 0.9, 0.8)}
    turn = convert_vcr("Why does <person1> look at <dining table2>?", "<person1> is hungry.",
                       "<dining table2> and <dog12> are near.", boxes)
    assert turn == ("Why does the first person in <Region>[0.100, 0.200, 0.300, 0.400]</Region> "
                    f"look at the second dining table in {R2}?",
                    "The first person is hungry. The second dining table and the 12th dog "
                    "are near.")
    assert filtered((turn,)) == (turn,)
    with pytest.raises(BadInput, match="<person2> has no box") as told:
        convert_vcr("What is <person2> doing?", "x", "y", boxes)
    assert "\n" not in str(told.value)


def test_scenes_that_give_no_question():
    """Guards: a VCR question with one object, uncounted losses."""
    one = [s for s in scenes(WORLDS["medium"], 60) if len(s.objects) == 1]
    made, counts = generate(one, SceneChat, "conversion", random.Random(0), task="vcr")
    assert not made and counts == {NOTHING: len(one)}


# ---- parser and filters --------------------------------------------------------------------------

def single(question: str, answer: str) -> str:
    return f"Question: {question}\n======\nAnswer: {answer}"


def test_forms():
    """Guards: half a reply, or two replies in one, that pass as an instruction."""
    assert parse_single(single("What?", "This.")) == (("What?", "This."),)
    assert parse_single("\nQuestion:\nWhat\nis it?\n\n======\n\nAnswer: a\n b \n") == (
        ("What is it?", "a b"),)
    for broken in ("", "What?", "Question: a\n===\nAnswer: b", "Question: a\n======\n",
                   "Question:\n======\nAnswer: b", "Sure!\n" + single("a", "b"),
                   single("a", "b\n\nQuestion: c"),
                   single("a", "b") + "\n" + single("a", "b"), "Answer: b\n======\nQuestion: a",
                   single("a", "b\n======\nAnswer: c"), "Question: a ====== Answer: b"):
        assert parse_single(broken) is None, broken
    three = "Question: a\n===\nQuestion: b\n===\nQuestion: c"
    assert parse_questions(three) == ("a", "b", "c")
    for broken in ("", "Question: a\n===\nQuestion: b", three.replace("b", ""),
                   three.replace("===", "======"), three.replace("Question: b", "b")):
        assert parse_questions(broken) is None, broken
    pairs = "Question: a\n===\nAnswer: 1\n===\nQuestion: b\n===\nAnswer: 2"
    assert parse_pairs(pairs) == (("a", "1"), ("b", "2"))
    for broken in ("", pairs + "\n===\nQuestion: c", pairs.replace("Answer: 1", "Answer:"),
                   pairs.replace("Answer: 1", "1"), pairs.replace("\n===\n", "\n")):
        assert parse_pairs(broken) is None, broken


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
    result = filtered(((question, answer),), must)
    if reason is None:
        want = question.replace("[0.1, 0.2, 0.3, 0.4]", "[0.100, 0.200, 0.300, 0.400]")
        assert result == ((want, answer),)
    else:
        assert result == reason


@pytest.mark.parametrize("task, reply, reason", [
    ("attribute", "I am sorry.", FORMAT), ("attribute", single("What is there?", "a cup"), KEPT),
    ("attribute", single(f"What is in {R1}?", R2), IN_ANSWER), ("general", "", FORMAT),
    ("general", "Question: What?\n===\nAnswer: that", NO_REGION),
    ("general", f"Question: What is in {R1}?\n===\nAnswer: that", KEPT),
    ("dialogue", "Question: a\n===\nQuestion: b", FORMAT),
    ("dialogue", "Question: a\n===\nQuestion: b\n===\nQuestion: c", FORMAT)])
def test_what_a_chat_model_gets_wrong_is_counted(task, reply, reason):
    """Guards: a filter that only the rule-based chat passes, and counts that do not add up."""
    made, counts = generate(scenes(WORLDS["small"], 3), lambda s: lambda m: reply, None,
                            random.Random(0), task=task)
    assert counts == {reason: 3} and len(made) == (3 if reason == KEPT else 0)


def test_a_dialogue_of_which_two_turns_are_answered_is_dropped():
    """Guards: dialogues below three questions; one without any region that is kept."""
    for pairs, reason in ((2, FORMAT), (3, NO_REGION)):
        answers = messages.as_pairs([("a?", "1"), ("b?", "2"), ("c?", "3")][:pairs])

        def chat(request):
            asked = "Questions:" in request[-1]["content"]
            return answers if asked else messages.as_questions(["a?", "b?", "c?"])

        assert generate(scenes(WORLDS["small"], 2), lambda s: chat, None, random.Random(0),
                        task="dialogue")[1] == {reason: 2}


def test_categories():
    """Guards: a task that the FineEval report cannot place."""
    assert set(CATEGORY) == {t for tasks in STRATEGIES.values() for t in tasks} == set(STRATEGY_OF)
    assert set(CATEGORY.values()) == {"recognition", "attribute", "reasoning", "counting", "other"}


# ---- command and local model ---------------------------------------------------------------------

def test_the_command_writes_what_it_promises(tmp_path, capsys):
    """Guards: lines that name another scene than the one they are about; counts left unsaid."""
    out = tmp_path / "new" / "out.jsonl"
    assert main([str(out), "--count", "40", "--seed", "7", "--world", "rich"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    told = {name: int(n) for n, name in re.findall(r"^ *(\d+)  (.+)$", capsys.readouterr().out,
                                                   re.MULTILINE)}
    assert set(told) == {KEPT, FORMAT, IN_ANSWER, NO_REGION, NOTHING}
    assert len(lines) == told[KEPT] == 40 and told[FORMAT] > 0, "OCR without words is dropped"
    everything = {s.seed: s for s in (make_scene(WORLDS["rich"], "train", 7, i)
                                      for i in range(400))}
    for line in lines:
        assert set(line) == {"turns", "strategy", "task", "category", "scene"}
        assert line["category"] == CATEGORY[line["task"]]
        assert line["task"] in STRATEGIES[line["strategy"]]
        check(everything[line["scene"]], Instruction(line["turns"], "", line["task"]))
    again = tmp_path / "again.jsonl"
    main([str(again), "--count", "40", "--seed", "7", "--world", "rich"])
    assert again.read_bytes() == out.read_bytes()
    main([str(again), "--count", "5", "--strategy", "general"])
    assert {json.loads(s)["task"] for s in again.read_text().splitlines()} == {"general"}


def test_bad_input_is_one_line(tmp_path, capsys):
    """Guards: a traceback for a missing model, a folder in the way, an empty model."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    for args in (["--chat", str(tmp_path / "none")], ["--chat", str(tmp_path / "empty")]):
        assert main([str(tmp_path / "out.jsonl"), "--count", "2", *args]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: chat model") and error.count("\n") == 1
    assert main([str(tmp_path), "--count", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "out.jsonl"), "--count", "0"])


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
    request = messages.request("attribute", messages.scene_notes(scenes(WORLDS["small"], 1)[0]),
                               random.Random(0))
    reply = chat(request)
    assert isinstance(reply, str) and len(reply.split()) <= 8 and reply == chat(request)
    made, counts = generate(scenes(WORLDS["small"], 3), lambda s: chat, "general",
                            random.Random(0))
    assert not made and counts == {FORMAT: 3}
    chat.tokenizer.chat_template = None
    chat.tokenizer.save_pretrained(tmp_path)
    chat.model.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="no chat template"):
        LocalChat(tmp_path)
