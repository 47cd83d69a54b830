"""The tiny preset's tokenizer: a word per token, and a box in six tokens.

A box literal `[0.438,0.062,0.656,0.359]` is text everywhere in this package. Only here, on its
way into a tiny LLM, it becomes six words that a 1 M-parameter model can learn: column and row
of the cell of an 8x8 grid that holds its centre, then the distances from that cell's centre to
its four sides in 1/64 of the image: `<x4> <y1> <l8> <t8> <r6> <b11>`. Decoding writes the
literal again, so a box survives the round trip to 1/128 of the image. (Shikra and LION write
digits; measured on tiny models, absolute digits or bins are several times harder to learn than
a cell and offsets.)

The words stand in `vocab.txt`, one a line; unknown words become `<unk>`.
"""

from __future__ import annotations

import re
from pathlib import Path

from lion_min.boxes import Box, BoxText

GRID, UNIT, REACH = 8, 64, (-4, 40)       # cells a side; units an image; reach of a distance
SPECIALS = ("<pad>", "<eos>", "<unk>", "<bos>", "<region>", "<extra_id_0>")
SIDES, WORDS = "ltrb", 6                  # words of a box
LITERAL = re.compile(r"\[[-+0-9.,eE ]*\]")


def box_words(box: tuple[float, float, float, float]) -> list[str]:
    """xyxy fractions -> ['<x4>', '<y1>', '<l8>', '<t8>', '<r6>', '<b11>']."""
    x1, y1, x2, y2 = box
    col, row = (min(GRID - 1, int((a + b) / 2 * GRID)) for a, b in ((x1, x2), (y1, y2)))
    cx, cy = (col + 0.5) / GRID, (row + 0.5) / GRID
    reach = (round(min(max(d * UNIT, REACH[0]), REACH[1])) for d in (cx - x1, cy - y1,
                                                                    x2 - cx, y2 - cy))
    return [f"<x{col}>", f"<y{row}>"] + [f"<{s}{d}>" for s, d in zip(SIDES, reach)]


def words_box(words: list[str]) -> tuple[float, float, float, float] | None:
    """Back from six words; None when they are no box (wrong kinds, reversed sides)."""
    if [w[1:2] for w in words] != ["x", "y", *SIDES]:
        return None
    col, row, *reach = (int(w[2:-1]) for w in words)
    cx, cy = (col + 0.5) / GRID, (row + 0.5) / GRID
    l, t, r, b = (d / UNIT for d in reach)
    box = tuple(min(1.0, max(0.0, v)) for v in (cx - l, cy - t, cx + r, cy + b))
    return box if box[0] < box[2] and box[1] < box[3] else None


class TinyTokenizer:
    """Words <-> ids on the `tokenizers` library; box literals <-> six ids.

    `encode` never lets text name a special token: '<eos>' in a prompt is three plain words.
    """

    box_length = WORDS                     # tokens of a box, at most

    def __init__(self, vocab: Path = Path(__file__).with_name("vocab.txt")):
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
        words = vocab.read_text().split()
        self.words = [*SPECIALS, *(f"<{axis}{i}>" for axis in "xy" for i in range(GRID)),
                      *(f"<{s}{d}>" for s in SIDES for d in range(REACH[0], REACH[1] + 1)),
                      *words]
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.pad_id, self.eos_id, self.unk_id, self.bos_id, self.region_id, self.hint_id = range(6)
        plain = Tokenizer(models.WordLevel({w: i for i, w in enumerate(self.words)
                                            if not (w[0] == "<" and len(w) > 1)}
                                           | {"<unk>": self.unk_id}, unk_token="<unk>"))
        plain.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[0-9]|[^\sa-z0-9]"), "removed",
                                                   invert=True)
        self._plain = plain

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str, region: bool = False) -> list[int]:
        """Text -> ids, no special token added; `region` puts <region> behind each box."""
        ids, end = [], 0
        for match in LITERAL.finditer(text):
            boxes = BoxText().parse(match[0])
            if boxes:
                ids += self._plain.encode(text[end:match.start()]).ids
                ids += [self.ids[w] for w in box_words(boxes[0])] + [self.region_id] * region
                end = match.end()
        return ids + self._plain.encode(text[end:]).ids

    def box_pieces(self, box: Box) -> list[list[int]]:
        """The ids of a box's words, each behind the signs before it, here none."""
        return [piece for word in box_words(box) for piece in ([], [self.ids[word]])]

    @staticmethod
    def chat_prompt(ids: list[int]) -> list[int]:
        """A prompt as the LLM reads it; a pretrained one has a template for it (words.py)."""
        return ids

    def piece(self, token: int) -> str:
        """The word of one id as it stands in the vocabulary; '' beyond it."""
        return self.words[token] if token < len(self.words) else ""

    def decode(self, ids: list[int]) -> str:
        """Ids -> text up to the first <eos>; six box ids become one literal again. Words of a box
        that is not whole, and special tokens, are left out: they would tell a reader nothing."""
        words = [self.words[i] for i in ids]
        words = words[:words.index("<eos>")] if "<eos>" in words else words
        out, i = [], 0
        while i < len(words):
            box = words_box(words[i:i + WORDS])
            out += [BoxText().format(box)] if box else [words[i]] * (words[i][0] != "<")
            i += WORDS if box else 1
        text = " ".join(out)
        return re.sub(r" ([.,?!:;])", r"\1", text)
