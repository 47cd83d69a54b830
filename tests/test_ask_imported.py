"""infer.py on an imported checkpoint: official files -> import -> an answer."""

import json
from pathlib import Path

import official_files as official
import pytest
import torch
from commands import call, refused
from official_files import run
from PIL import Image
from random_backbones import write_t5

import infer
from lion_min import launch


def write_bert(folder: Path, count: int | None = None) -> Path:
    """InstructBLIP's folder as far as the Q-Former's tokenizer goes: [CLS] letters [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789?[].,"]
    names = names[:count]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]",
                            cls_token="[CLS]", sep_token="[SEP]"
                            ).save_pretrained(folder / "qformer_tokenizer")
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def imported(reference, tmp_path_factory) -> Path:
    """A tiny official LION beside the tokenizers it was published with."""
    place = tmp_path_factory.mktemp("imported")
    words = official.write_lion(place, reference("lion"))
    assert run("lion", words, place / "lion") == 0
    write_t5(place / "t5")
    (place / "blip").mkdir()
    write_bert(place / "blip")
    Image.new("RGB", (90, 60), "red").save(place / "photo.jpg")
    return place


def test_an_imported_lion_answers(imported, capsys):
    """Guards: imported weights that nothing on the command line can use."""
    common = (imported / "photo.jpg", "What is in [9,6,60,40]?", "--weights", imported / "lion",
              "--vision", imported / "blip", "--llm", imported / "t5", "--json")
    code, out, err = call(infer.main, capsys, *common)
    reply = json.loads(out)
    assert code == 0 and reply["preset"] == "own" and isinstance(reply["answer"], str), err


@torch.no_grad()
def test_it_answers_as_the_model_does(imported):
    """Guards: another text around the question than the official one: BERT's marks at its ends,
    </s> behind the prompt, no tags; or other beams."""
    system = launch.load("lion", imported / "lion", "cpu", None, str(imported / "blip"),
                         str(imported / "t5"))
    seen = system.encode([Image.new("RGB", (56, 56), "red")])
    x = system.inputs(seen, ["where is it?"], 0)
    assert x.question_ids[0, 0] == 2 and x.question_ids[0, -1] == 3       # [CLS], [SEP]
    assert x.prompts[0] == system.tokenizer.encode("where is it?") + [1]  # </s>
    ids = system.model.generate(x, max_new_tokens=8)
    again = system.answer(seen, ["where is it?"], max_new_tokens=8)[0]
    assert again == system.tokenizer.decode(ids[0].tolist())
    assert system.model.settings.generate["num_beams"] == 5


def test_what_is_missing_is_told(imported, capsys, tmp_path):
    """Guards: a traceback where the tokenizers are not said, or another room's import is asked."""
    common = (imported / "photo.jpg", "What?", "--weights", imported / "lion")
    refused(call(infer.main, capsys, *common), "--vision DIR --llm DIR")
    refused(call(infer.main, capsys, *common, "--vision", imported / "t5", "--llm",
                 imported / "t5"), "holds no tokenizer")
    refused(call(infer.main, capsys, *common, "--system", "pvit"), "system is 'lion'", "--system")
