"""Lyrics stage 1: four objectives that align the MQ-Former's queries with text and places.

    ITC  image-text contrast       which caption is whose picture's?      queries and text apart
    ITM  image-text matching       do these two belong together?          one joint pass
    ICG  image-grounded captions   which word comes next?                 causal, on the cache
    MSP  masked spatial prediction which tag or coordinate is hidden?     both ways, on the cache

Spec 3.1 (arXiv 2312.05278; official pretrain_lyrics.py, modeling_lyrics.py); masks.py has their
attention masks. Where ours differs: on one device the contrast is plain and symmetric, with
gradient through both sides; MSP keeps [CLS] in its input.

Symbols: B pairs, Q queries, L text tokens, D width, E width of the contrast, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.lyrics.pairtext import PairText, Specials, draw_units
from lion_min.lyrics.mqformer import Cache, MQFormer, MQFormerSettings, Sources
from lion_min.qformer import init_bert


@dataclass
class ObjectiveSettings:
    """Settings of the four objectives; Lyrics' contrast is 256 wide.

    matched_objects: the share of texts that keep their objects in ITC and ITM. The official code
    keeps all, but the picture's own boxes give it away, and a bare caption, all that retrieval
    has, is then never matched. 0: captions alone; 0.5: both are learned.
    """
    contrast: int = 64
    temperature: float = 0.07       # learned from here on, never clamped
    smoothing: float = 0.1          # of ITC, ICG and MSP; ITM has none
    mask_share: float = 0.15        # of the units, MSP
    matched_objects: float = 1.0


class Heads(nn.Module):
    """What stage 1 puts on the MQ-Former and stage 2 takes off again."""

    def __init__(self, settings: ObjectiveSettings, qformer: MQFormerSettings):
        super().__init__()
        self.settings, width = settings, qformer.width
        self.vision_proj, self.text_proj = (nn.Linear(width, settings.contrast) for _ in range(2))
        self.itm_head = nn.Linear(width, 2)
        self.lm_dense = nn.Linear(width, width)
        self.lm_norm = nn.LayerNorm(width, eps=qformer.ln_eps)
        self.lm_bias = nn.Parameter(torch.zeros(qformer.vocab))
        self.temperature = nn.Parameter(torch.tensor(settings.temperature))
        self.apply(partial(init_bert, std=qformer.init_std))

    def project_queries(self, Z: Tensor) -> Tensor:
        """Query states [B,Q,D] -> points on the unit sphere [B,Q,E]."""
        return F.normalize(self.vision_proj(Z), dim=-1)

    def project_text(self, text: Tensor) -> Tensor:
        """Text states [B,L,D] -> the point of each [CLS], [B,E]."""
        return F.normalize(self.text_proj(text[:, 0]), dim=-1)

    def words(self, states: Tensor, embedding: nn.Embedding) -> Tensor:
        """[*,D] -> logits [*,V]; the decoder is the word embedding itself."""
        x = self.lm_norm(F.gelu(self.lm_dense(states)))
        return F.linear(x, embedding.weight, self.lm_bias)

    def word_loss(self, states: Tensor, ids: Tensor, embedding: nn.Embedding) -> Tensor:
        """states [K,D], ids [K] -> the mean over K tokens; 0, not NaN, when there is none."""
        loss = F.cross_entropy(self.words(states, embedding), ids, reduction="sum",
                               label_smoothing=self.settings.smoothing)
        return loss / max(len(ids), 1)


def objectives(mqformer: MQFormer, heads: Heads, sources: Sources, text: PairText,
               special: Specials) -> tuple[Tensor, dict[str, Tensor]]:
    """B pictures and their B texts -> (the sum, its parts itc, itm, icg, msp), each a mean."""
    Z, cache = mqformer.encode_image(sources)                           # [B, Q, D]
    keep = torch.rand(len(Z), device=Z.device) < heads.settings.matched_objects
    matched = text.without_objects(keep)                                # for ITC and ITM
    loss, scores = itc(mqformer, heads, Z, matched)
    parts = {"itc": loss, "itm": itm(mqformer, heads, sources, matched, scores.detach()),
             "icg": icg(mqformer, heads, cache, text, special),
             "msp": msp(mqformer, heads, cache, text, special)}
    return sum(parts.values()), {name: part.detach() for name, part in parts.items()}


def itc(mqformer: MQFormer, heads: Heads, Z: Tensor, text: PairText) -> tuple[Tensor, Tensor]:
    """(loss, scores [B,B]): s(i,j) = max_q z_q^i . t^j / tau, right on the diagonal."""
    t = heads.project_text(mqformer.encode_text(text.ids, text.mask, text.positions))  # [B, E]
    scores = similarity(heads.project_queries(Z), t) / heads.temperature  # [B pictures, B texts]
    diagonal, smoothing = torch.arange(len(Z), device=Z.device), heads.settings.smoothing
    loss = sum(F.cross_entropy(s, diagonal, label_smoothing=smoothing) for s in (scores, scores.T))
    return loss / 2, scores


def itm(mqformer: MQFormer, heads: Heads, sources: Sources, text: PairText,
        scores: Tensor) -> Tensor:
    """True pairs against each text with a wrong picture and each picture with a wrong text."""
    rows = torch.arange(len(scores), device=scores.device)              # [B]
    pictures = torch.cat([rows, hard_negatives(scores.T), rows])        # [3B]
    texts = torch.cat([rows, rows, hard_negatives(scores)])             # [3B]
    logits = match(mqformer, heads, sources.pick(pictures), text.pick(texts))
    labels = torch.arange(len(texts), device=rows.device) < len(rows)   # 1..., 0..., 0...
    return F.cross_entropy(logits, labels.long())


def similarity(z: Tensor, t: Tensor) -> Tensor:
    """Points of queries [I,Q,E] and of texts [T,E] -> [I,T]: of the query that fits best."""
    return torch.einsum("iqe,te->itq", z, t).amax(-1)


def hard_negatives(scores: Tensor) -> Tensor:
    """For each row of scores [B,B] a column off the diagonal, likelier the better it scores."""
    if len(scores) < 2:
        raise ValueError("ITM takes its negatives from the batch: at least two pairs are needed")
    weights = (scores.softmax(1) + 1e-4).fill_diagonal_(0)  # 1e-4: some weight always remains
    return torch.multinomial(weights, 1).squeeze(1)                     # [B]


def match(mqformer: MQFormer, heads: Heads, sources: Sources, text: PairText) -> Tensor:
    """Does picture r belong to text r? Logits [R, 2], 1 = yes, a mean over the queries."""
    Z = mqformer(sources, text.ids, text.mask, positions=text.positions)  # [R, Q, D]
    return heads.itm_head(Z).mean(1)


def icg(mqformer: MQFormer, heads: Heads, cache: Cache, text: PairText,
        special: Specials) -> Tensor:
    """Each caption token from the queries, the objects' text and the tokens before it."""
    ids = text.ids.clone()
    ids[:, 0] = special.dec  # the sign of decoding to the same weights
    states = mqformer.encode_text(ids, text.mask, text.positions, cache, causal=True)
    caption = text.caption[:, 1:]                                       # the token before predicts
    return heads.word_loss(states[:, :-1][caption], text.ids[:, 1:][caption], mqformer.words)


def msp(mqformer: MQFormer, heads: Heads, cache: Cache, text: PairText,
        special: Specials) -> Tensor:
    """Hidden tags and coordinates, from the queries, the objects left and the whole caption."""
    hidden = draw_units(text.units, heads.settings.mask_share)          # [B, L]
    ids = text.ids.masked_fill(hidden, special.mask)
    states = mqformer.encode_text(ids, text.mask, text.positions, cache)
    return heads.word_loss(states[hidden], text.ids[hidden], mqformer.words)
