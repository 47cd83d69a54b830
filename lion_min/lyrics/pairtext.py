"""The text of a pair in Lyrics stage 1: the picture's detected objects, then its caption.

    ids        [CLS] tag  <x1> .. <b9> [SEP] tag <x4> .. <b8> [SEP] caption ... [END]
    positions    0    1    2   ..  7     8    9   10  ..  15   16     1     ...  Lc
    units        0    1    2   ..  7     0    8    9  ..  14    0     0     ...   0

Spec 2.5 and 3.1 (official generate_bbox_caption, prepare_inputs_for_pretrain). Where ours
differs: a box is six words of the tokenizer, not four numbers in brackets; all of them can be
hidden (the official indices are off by one); captions end, so that a decoder can stop; rows are
padded to the longest, not to 600.

Symbols: B pairs, L text tokens, Lc of the caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lion_min.rows import Rows


@dataclass
class Specials:
    """Ids of the Q-Former's special tokens. BERT's: 0, 102, 101, 30522, 103, 102."""
    pad: int
    end: int
    cls: int
    dec: int
    mask: int
    sep: int


@dataclass
class PairText(Rows):
    """B texts, padded at the end. All fields [B, L]."""
    ids: Tensor
    mask: Tensor                    # True = a token
    positions: Tensor
    units: Tensor                   # k > 0: part of the row's k-th unit, hidden as a whole by MSP
    caption: Tensor                 # True on the caption and its end: what ICG predicts

    def without_objects(self, keep: Tensor) -> PairText:
        """Hide the objects' text of the rows where keep [B] is False. Exactly the caption alone:
        its positions do not depend on what stood before it."""
        stays = self.caption | keep[:, None]
        stays[:, 0] = True                                              # [CLS]
        return replace(self, mask=self.mask & stays)


def pair_text(lines: Sequence[Sequence[list[int]]], parts: Sequence[Sequence[list[int]]],
              captions: Sequence[list[int]], special: Specials, limit: int = 88,
              most: int = 512) -> PairText:
    """The lines of B pictures' objects and B captions' ids -> one padded batch.

    lines: the ids of an object's label and box, padded; a line of padding is no object. parts: the
    unit of each id in its line, from 1 on, or 0, which is never masked. Objects that end beyond
    `most` tokens are left out: give the surest first. A caption and its end take at most `limit`
    tokens, numbered from 1 again: what the table of positions must hold is the longer of the two
    parts, not their sum.
    """
    rows = []
    for picture, owns, caption in zip(lines, parts, captions, strict=True):
        ids, units = [special.cls], [0]
        for line, own in zip(picture, owns):
            line = [i for i in line if i != special.pad]
            if len(ids) + len(line) + 1 > most:
                break
            if line:
                last = max(units)
                units += [n and last + n for n in own[:len(line)]] + [0]
                ids += [*line, special.sep]
        caption = [*caption[:limit - 1], special.end]
        size, rest = len(ids), len(caption)
        rows.append(torch.tensor([ids + caption, [1] * (size + rest),
                                  [*range(size), *range(1, rest + 1)], units + [0] * rest,
                                  [0] * size + [1] * rest]).T)                    # [L, 5]
    ids, mask, positions, units, caption = pad_sequence(rows, batch_first=True).unbind(-1)
    mask = mask.bool()
    return PairText(ids.masked_fill(~mask, special.pad), mask, positions, units, caption.bool())


def draw_units(units: Tensor, share: float) -> Tensor:
    """Which tokens MSP hides: [B, L] unit numbers -> [B, L] bool, each unit whole or not at all."""
    drawn = torch.rand(len(units), int(units.max()) + 1, device=units.device) < share
    drawn[:, 0] = False                                                 # 0 is no unit
    return drawn.gather(1, units)
