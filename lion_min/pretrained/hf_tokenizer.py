"""The tokenizer of a pretrained LLM, behind the same few words as the tiny preset's own.

A box is written out in digits, "[0.440,0.060,0.650,0.367]", as LION and Shikra do: a pretrained
LLM has seen numbers. A chat model was taught to answer inside a template; `chat_prompt` puts a
prompt into it.

Shapes: V rows of the LLM's embedding table, at least as many as there are tokens.
"""

from __future__ import annotations

import re

from lion_min import BadInput
from lion_min.boxes import BRACKETS, Box, BoxText

MARK = "\ue000"                            # a private character, which no template contains
NUMBER = re.compile(r"(\d\.\d+)")          # of a box, as BoxText writes it
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


class PretrainedTokenizer:
    """A fast tokenizer of transformers with the interface of TinyTokenizer.

    tokenizer: what AutoTokenizer.from_pretrained returns. vocab: V. `len()` is V, and what stands
    for features has ids from V on, which no text can name: V and V+1 are PVIT's marks around a
    region (pvit/prompt.py), V+2 is region_id, V+3 hint_id.
    """

    box_length = 34                        # tokens of a box in digits, at most

    def __init__(self, tokenizer, vocab: int):
        self._hf, self.vocab = tokenizer, vocab
        named = tokenizer.get_added_vocab()
        self._special = set(named.values()) | set(tokenizer.all_special_ids)
        if (last := max(tokenizer.get_vocab().values())) >= vocab:
            raise BadInput(f"{tokenizer.name_or_path}: the tokenizer has ids up to {last}, the LLM "
                           f"up to {vocab - 1}; give a folder whose tokenizer and weights belong "
                           "together")
        # T5's unigram model holds '</s>' as a word like any other: spell such names out.
        self._spelt: dict[int, list[int]] = {}
        self._spelt = {i: [part for letter in name for part in self._plain(letter)]
                       for name, i in named.items() if i != tokenizer.unk_token_id}
        self.region_id, self.hint_id = vocab + 2, vocab + 3
        self.unk_id = tokenizer.unk_token_id           # None: every text has ids
        self._before, self._after, self.eos_id = self._template()
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_id if pad is None else pad

    def __len__(self) -> int:
        return self.vocab

    def encode(self, text: str, region: bool = False) -> list[int]:
        """Text -> ids, no special token among them; `region` puts region_id behind each box."""
        ids, end = [], 0
        for match in BRACKETS.finditer(text) if region else ():
            if BoxText().parse(match[0]):
                ids += [*self._plain(text[end:match.end()]), self.region_id]
                end = match.end()
        return ids + self._plain(text[end:])

    def box_pieces(self, box: Box) -> list[list[int]]:
        """The ids of a box literal's parts: '[', '0.352', ',', ...; each second one is a number."""
        return [self.encode(text) for text in NUMBER.split(BoxText().format(box))]

    def piece(self, token: int) -> str:
        """The text of one id; '' for one that is no word."""
        return self.decode([token])

    def decode(self, ids: list[int]) -> str:
        """Ids -> text up to the first end of an answer; padding and the like are left out."""
        ids = ids[:ids.index(self.eos_id)] if self.eos_id in ids else ids
        words = [i for i in ids if 0 <= i < self.vocab and i not in self._special]
        return self._hf.decode(words, clean_up_tokenization_spaces=False).strip()

    def chat_prompt(self, ids: list[int]) -> list[int]:
        """A prompt's ids -> the same inside the chat template, up to where the answer begins.

        Without a template: as the LLM's texts begin (Llama: <s>) and end (T5: </s>).
        """
        return [*self._before, *ids, *self._after]

    def _plain(self, text: str) -> list[int]:
        """What a user typed: '<|im_end|>' is ten letters, not the end of the turn."""
        ids = self._hf(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return [part for i in ids for part in self._spelt.get(i, [i])]

    def _template(self) -> tuple[list[int], list[int], int]:
        """(ids before a prompt, ids behind it, what ends an answer)."""
        if not self._hf.chat_template:
            ids, plain = self._hf("x").input_ids, self._plain("x")
            at = next(i for i in range(len(ids)) if ids[i:i + len(plain)] == plain)
            return ids[:at], ids[at + len(plain):], self._hf.eos_token_id
        before, after = self._rendered([{"role": "user", "content": MARK}], add_generation_prompt=True)
        try:
            closing = self._rendered([{"role": "user", "content": "?"},
                                      {"role": "assistant", "content": MARK}])[1]
        except BadInput:                               # some want the user's word last
            closing = []
        ends = [i for i in closing if i in self._special]  # ChatML: <|im_end|>, then a line's end
        return before, after, ends[0] if ends else self._hf.eos_token_id

    def _rendered(self, messages: list[dict], **options) -> list[list[int]]:
        """The ids around MARK in a conversation; here the names of special tokens count.

        Templates raise what they like: for a system message that is there, or that is not. So it
        is left out, and tried with one where that is refused; BadInput where both are.
        """
        reason = "it leaves the question out"
        for opening in ([], [SYSTEM]):
            try:
                text = self._hf.apply_chat_template([*opening, *messages], tokenize=False,
                                                    enable_thinking=False, **options)   # Qwen3's word
            except Exception as error:                 # of jinja2, which runs the template
                reason = " ".join(str(error).split())[:200]
                continue
            if text.count(MARK) == 1:
                return [self._hf(side, add_special_tokens=False).input_ids for side in text.split(MARK)]
        raise BadInput(f"{self._hf.name_or_path}: its chat template takes no plain question ({reason}); "
                       "mend chat_template in tokenizer_config.json, or take it out there")
