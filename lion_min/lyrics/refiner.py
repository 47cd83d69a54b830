"""The visual refiner: a picture -> tags, boxes with scores and features, and segments.

    states of the frozen ViT
      +- tagger ------------------------ "red, blue, circle."       what is there (RAM's part)
      +- detector, prompted by the tags - M boxes, scores, features  where it is (Grounding-DINO's)
      +- segmenter, prompted by queries - M masks                    which pixels (SAM's)

The tiny form: small heads on the ViT's states; published/lyrics_refiner.py has the same `Refined`
from the published models. The detector follows Grounding-DINO (arXiv 2303.05499): the prompt's
words are its classes, the patches most alike to a word become the queries, each decoder layer
corrects the last one's box. The released code has no segmenter, the abstract does: a setting.

Ours: sizes and textures (`attributes`) are in every prompt, for the tagger has no such tags;
plain attention for deformable, one image level, prompt and patches in one cross-attention, a
selected patch's own state (not a learned vector) as its query's content.

Symbols: B images, N patches, Dv ViT width, G words, M queries, d their width, K masks of H x W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.lyrics.segmenter import Segmenter
from lion_min.lyrics.suppression import choose, corners, rows_of
from lion_min.rows import Rows
from lion_min.trainable import freeze, start_at_zero
from lion_min.vision import TagHead


@dataclass
class Refined(Rows):
    """A refiner's output. Rows: the kept ones first, then the others, each by falling score."""
    tags: list[list[str]]        # of each picture
    boxes: Tensor                # [B, M, 4] xyxy fractions, inside the picture
    scores: Tensor               # [B, M] in 0..1
    labels: list[list[str]]      # M words or phrases a picture; "" where nothing was kept
    features: Tensor             # [B, M, d+4] the decoder's last state and box: [hs ; ref]
    mask: Tensor                 # [B, M] kept: above the threshold and left by the suppression
    segments: Tensor | None      # [B, K, H, W] logits of the first K rows, no row kept beyond


@dataclass
class RefinerSettings:
    """Sizes of the tiny heads; `threshold` and `overlap` are the published ones (spec 2.5)."""
    vision_width: int = 128
    side: int = 8                # patches along one side
    depths: tuple[int, int] = (0, -1)      # ViT states that the heads read: stem and last
    width: int = 128
    queries: int = 12
    layers: int = 2
    heads: int = 4
    segmenter: bool = True
    mask_size: int = 32          # a multiple of `side`
    attributes: tuple[str, ...] = ()       # words of every prompt, before the tags
    threshold: float = 0.25      # a box's best word must be this likely
    text_threshold: float = 0.4  # each word of its label (published: 0.2, too loose for two words)
    overlap: float = 0.6         # IoU above which the lower score goes


@dataclass
class Detections:
    """One guess at the objects: by the patches, or by the queries after a decoder layer."""
    logits: Tensor               # [B, M, G]; -inf for a tag outside the prompt
    boxes: Tensor                # [B, M, 4] cxcywh fractions
    hidden: Tensor               # [B, M, d]

    @property
    def scores(self) -> Tensor:
        """The best word's probability, [B, M]; 0 under an empty prompt."""
        return self.logits.sigmoid().amax(-1)


def _mlp(inside: int, outside: int, width: int = 128) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, width), nn.GELU(), nn.Linear(width, outside))


class Detector(nn.Module):
    """Patches read the prompt, the best M become queries, decoder layers correct their boxes."""

    def __init__(self, settings: RefinerSettings, words: int):
        super().__init__()
        self.settings, s, d = settings, settings, settings.width
        self.patches = nn.ModuleList(nn.Sequential(
            nn.LayerNorm(s.vision_width), nn.Linear(s.vision_width, d)) for _ in s.depths)
        self.words = nn.Parameter(torch.randn(1 + words, d))   # the prompt's full stop, its words
        self.reads = nn.MultiheadAttention(d, s.heads, batch_first=True)
        self.norm = nn.LayerNorm(d)
        self.bias = nn.Parameter(torch.tensor(-3.0))           # at first almost nothing is there
        self.first_box, self.next_box, self.place = _mlp(d, 4), _mlp(d, 4), _mlp(4, d)
        self.layers = nn.ModuleList(nn.TransformerDecoderLayer(
            d, s.heads, 2 * d, dropout=0.0, batch_first=True) for _ in range(s.layers))
        for head in (self.first_box, self.next_box):           # at first no box is corrected
            start_at_zero(head[-1])
        centre = (torch.arange(s.side) + 0.5) / s.side
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        size = torch.full_like(x, 0.25)
        self.register_buffer("anchors", torch.stack([x, y, size, size], -1).flatten(0, 1), False)

    def forward(self, states: list[Tensor], prompted: Tensor) -> list[Detections]:
        """states [B, 1+N, Dv] each, prompted [B, G] -> guesses of the patches and every layer."""
        patches = sum(p(states[i][:, 1:]) for p, i in zip(self.patches, self.settings.depths))
        words = self.words.expand(len(patches), -1, -1)                       # [B, 1+G, d]
        ignored = F.pad(~prompted, (1, 0))               # the full stop is always attended to
        from_words = self.reads(patches, words, words, key_padding_mask=ignored)[0]
        patches = self.norm(patches + from_words)                             # [B, N, d]
        anchors = self.anchors.expand(len(patches), -1, -1)                   # [B, N, 4]
        guess = self.guess(patches, anchors, prompted, self.first_box)
        best = guess.scores.topk(self.settings.queries, 1).indices            # [B, M]
        guesses, hidden, boxes = [guess], rows_of(patches, best), rows_of(guess.boxes, best)
        memory = torch.cat([words, patches + self.place(self.anchors)], 1)    # [B, 1+G+N, d]
        ignored = F.pad(ignored, (0, patches.shape[1]))
        for layer in self.layers:
            boxes = boxes.detach()                       # each layer learns its own correction
            hidden = layer(hidden + self.place(boxes), memory, memory_key_padding_mask=ignored)
            guesses.append(self.guess(hidden, boxes, prompted, self.next_box))
            boxes = guesses[-1].boxes
        return guesses

    def guess(self, hidden: Tensor, boxes: Tensor, prompted: Tensor, head: nn.Module) -> Detections:
        """Word likeness and a corrected box for states [B, M, d] at boxes [B, M, 4]."""
        likeness = hidden @ self.words[1:].T / math.sqrt(hidden.shape[-1]) + self.bias
        boxes = (torch.logit(boxes.float(), 1e-4) + head(hidden).float()).sigmoid()
        likeness = likeness.float().masked_fill(~prompted[:, None], -torch.inf)
        return Detections(likeness, boxes, hidden)


class TinyRefiner(nn.Module):
    """The tiny refiner. A stage trains `detector` and `segmenter`; the tagger stays as it is."""

    def __init__(self, settings: RefinerSettings, tagger: TagHead):
        super().__init__()
        self.settings, self.tagger = settings, freeze(tagger)
        self.words = (*settings.attributes, *tagger.tags)      # of a label, in this order
        self.detector = Detector(settings, len(self.words))
        self.segmenter = Segmenter(
            settings.depths, settings.vision_width, settings.width, settings.side,
            settings.mask_size) if settings.segmenter else None

    def forward(self, states: list[Tensor], tags: list[list[str]] | None = None):
        """(tags, guesses of patches and layers, features [B, M, d+4] of the last guess)."""
        tags = self.tagger.predict(states[-1]) if tags is None else tags
        guesses = self.detector(states, self.prompted(tags))
        return tags, guesses, torch.cat([guesses[-1].hidden, guesses[-1].boxes], -1)

    def prompted(self, tags: list[list[str]]) -> Tensor:
        """Which words the prompt names, [B, G]: the attributes and these tags."""
        rows = [[w in row or w in self.settings.attributes for w in self.words] for row in tags]
        return torch.tensor(rows, device=self.detector.bias.device)

    @torch.no_grad()
    def refine(self, states: list[Tensor], tags: list[list[str]] | None = None) -> Refined:
        """All states of the ViT, each [B, 1+N, Dv]; `tags` prompt in the tagger's place."""
        s = self.settings
        tags, guesses, features = self(states, tags)
        boxes, scores, logits = corners(guesses[-1].boxes), guesses[-1].scores, guesses[-1].logits
        order, mask = choose(boxes, scores, s.threshold, s.overlap)
        boxes, scores, logits, features = (
            rows_of(x, order) for x in (boxes, scores, logits, features))
        says = (logits.sigmoid() > s.text_threshold) & mask[..., None]         # [B, M, G]
        labels = [[" ".join(word for word, y in zip(self.words, row) if y) for row in rows]
                  for rows in says.tolist()]
        segments = None if self.segmenter is None else self.segmenter(states, features)
        return Refined(tags, boxes, scores, labels, features, mask, segments)
