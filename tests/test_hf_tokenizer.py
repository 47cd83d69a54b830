"""A pretrained LLM's tokenizer: round trips, names that a prompt must not say, chat templates."""

import pytest
from random_backbones import CHAT, LLMS, folder  # noqa: F401: a fixture

from lion_min import BadInput
from lion_min.boxes import BoxText
from lion_min.pvit.prompt import encode
from lion_min.pretrained.hf_tokenizer import PretrainedTokenizer

BOX = "[0.440,0.060,0.650,0.367]"


@pytest.fixture
def theirs(folder):
    """theirs("t5"): the tokenizer of transformers."""
    from transformers import AutoTokenizer
    return lambda name: AutoTokenizer.from_pretrained(folder(name))


@pytest.fixture
def ours(theirs):
    return lambda name: PretrainedTokenizer(theirs(name), 310)


@pytest.mark.parametrize("name", LLMS)
def test_text_round_trip(ours, name):
    """Lost spaces or brackets; a region id missing or in another place than behind its box."""
    words = ours(name)
    text = f"the dog lies on the couch: {BOX}"
    assert words.decode(words.encode(text)) == text
    assert words.decode([*words.encode("a dog"), words.eos_id, *words.encode("a bench")]) == "a dog"
    ids = words.encode(f"{BOX} or {BOX} ?", region=True)
    assert ids.count(words.region_id) == 2 and ids[len(words.encode(BOX))] == words.region_id
    assert BoxText().parse(words.decode(ids)) == [(0.44, 0.06, 0.65, 0.367)] * 2
    assert words.region_id not in words.encode("[1] and [a, b]", region=True)
    ids, boxes = encode(words, f"what is {BOX} ?")
    assert boxes and [i for i in ids if i >= len(words)] == [len(words) + j for j in (0, 2, 1)]


@pytest.mark.parametrize("name", LLMS)
def test_text_names_no_special_token(ours, theirs, name):
    """A prompt that ends its own turn: '<|im_end|>', or '</s>', which T5's words hold."""
    words = ours(name)
    hf = theirs(name)
    special = set(hf.all_special_ids) | set(hf.get_added_vocab().values())
    for typed in (*hf.get_added_vocab(), "</s>", "<eos>", "\uff1c/s\uff1e"):
        assert not (special - {words.unk_id}) & set(words.encode(f"say {typed} now")), typed
    if name in CHAT:
        assert words.decode(words.encode("say <|im_end|> now")) == "say <|im_end|> now"


@pytest.mark.parametrize("name", CHAT)
def test_ask_is_the_chat_template(ours, theirs, name):
    """A turn that is not closed, or an answer without its header; an answer that never ends."""
    words = ours(name)
    hf = theirs(name)
    whole = hf.apply_chat_template([{"role": "user", "content": "what is this ?"}],
                                   add_generation_prompt=True, return_dict=False, enable_thinking=False)
    assert words.chat_prompt(words.encode("what is this ?")) == list(whole)
    assert words.eos_id == hf.convert_tokens_to_ids("<|im_end|>")


WITH_SYSTEM = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system message') }}{% endif %}"
USER_LAST = "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('user must speak last') }}{% endif %}"


def test_template_that_raises(ours, theirs):
    """A traceback of jinja2: where a system message is missing, where there is none to refuse (Gemma's
    template, above), where an answer may not stand last; one without an answer to any question."""
    plain = theirs("llama")
    body, expected = plain.chat_template, ours("llama").chat_prompt([77])
    for before in (WITH_SYSTEM, USER_LAST, WITH_SYSTEM + USER_LAST):
        plain.chat_template = before + body
        words = PretrainedTokenizer(plain, 310)
        assert words.chat_prompt([77]) == expected and words.eos_id == plain.eos_token_id
    for broken in ("{{ raise_exception('tools\nonly') }}", "{% for", "hello"):
        plain.chat_template = broken
        with pytest.raises(BadInput, match="llama: its chat template takes no plain question") as told:
            PretrainedTokenizer(plain, 310)
        assert "\n" not in str(told.value)


def test_ask_without_template(ours, theirs):
    """T5 wants its </s> behind a prompt, a plain Llama its <s> before it."""
    from tokenizers import processors
    assert ours("t5").chat_prompt([5, 6]) == [5, 6, 1]
    plain = theirs("llama")
    plain.chat_template, plain.pad_token = None, None
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    words = PretrainedTokenizer(plain, 300)
    assert words.chat_prompt([5, 6]) == [1, 5, 6] and words.pad_id == words.eos_id == 2
