"""MQ-Former: a Q-Former of which some queries read the image and some the detected objects.

Lyrics' multi-scale querying transformer (arXiv 2312.05278; official modeling_lyrics.py):

    [image queries ; object queries ; text] -> one self-attention for all three
        image queries  -> cross to V, the image's tokens           -> query_ffn
        object queries -> object_cross to O, the objects' features -> query_ffn
        text                                                       -> text_ffn

The two kinds meet only in self-attention. Text attends to the queries, never to the picture.
Without object queries this is the Q-Former, parameter for parameter.

Symbols: B images, S samples (S = n*B), N image tokens, M objects, L text tokens, Qi image and
Qo object queries, Q = Qi + Qo, D width, Dv and Do widths of image and object features, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lion_min.qformer import Attention, QFormer, QFormerLayer, QFormerSettings
from lion_min.rows import Rows

Cache = list[list[Tensor]]  # for each layer the queries' keys and values, [S,H,Q,D/H] each


@dataclass
class MQFormerSettings(QFormerSettings):
    """`queries` counts both kinds; the last `object_queries` of them read objects.
    Lyrics: queries=96, object_queries=64, object_width=260 (256 of the detector and the box)."""
    object_queries: int = 0
    object_width: int = 0


@dataclass
class Sources(Rows):
    """What the queries cross-attend to: the image's tokens and the objects of the same picture."""
    image: Tensor                      # V [B, N, Dv]
    objects: Tensor | None = None      # O [B, M, Do]; M may be 0. None without object queries
    mask: Tensor | None = None         # [B, M] True = an object, False = padding; None: all are

    def with_blank(self) -> Sources:
        """Objects and one row of zeros, for pictures without an object alone; mask [B,1,1,M+1].
        Attention over nothing would be NaN; the official code always has 900 detections."""
        if self.objects is None:
            return self
        mask = torch.ones_like(self.objects[..., 0]).bool() if self.mask is None else self.mask
        objects = self.objects.masked_fill(~mask[..., None], 0)                 # [B, M, Do]
        mask = torch.cat([mask, ~mask.any(1, keepdim=True)], 1)                 # [B, M+1]
        return Sources(self.image, F.pad(objects, (0, 0, 0, 1)), mask[:, None, None])


class MQFormerLayer(QFormerLayer):
    """A Q-Former layer whose last `object_queries` queries cross-attend to objects instead."""

    def __init__(self, settings: MQFormerSettings, cross: bool):
        super().__init__(settings, cross)
        s = settings
        self.groups = (s.queries - s.object_queries, s.object_queries)
        self.object_cross = Attention(s.width, s.heads, s.object_width, ln_eps=s.ln_eps,
                                      dropout=s.dropout) if cross and s.object_queries else None

    def cross_attend(self, queries: Tensor, sources: Sources
                     ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor] | None]:
        """queries [S,Q,D] -> the same and, with cross-attention, maps ([S,H,Qi,N], [S,H,Qo,M])."""
        if self.object_cross is None:
            return super().cross_attend(queries, sources.image)
        if sources.objects is None:
            raise ValueError("object queries need objects; a tensor [B, 0, Do] says there are none")
        for_image, for_objects = queries.split(self.groups, dim=1)              # [S, Qi | Qo, D]
        for_image, image_map = super().cross_attend(for_image, sources.image)
        for_objects, object_map = self.object_cross(for_objects, sources.objects, sources.mask)
        return torch.cat([for_image, for_objects], 1), (image_map, object_map[..., :-1])

    def encode_text(self, text: Tensor, mask: Tensor, cache: list[Tensor] | None) -> Tensor:
        """A plain BERT layer, [S,L,D] -> [S,L,D], that may also attend to cached queries."""
        return self.text_ffn(self.attention(text, text, mask, cache)[0])


class MQFormer(QFormer):
    """Three passes: `forward` joint, `encode_image` queries alone, `encode_text` text alone or on
    their cache."""

    layer_type = MQFormerLayer

    def forward(self, sources: Sources, text_ids: Tensor | None = None,
                text_mask: Tensor | None = None, return_attention: bool = False,
                positions: Tensor | None = None) -> Tensor | tuple[Tensor, list]:
        """Queries and text together, all attending to all: ITM, and instructions in stage 2.

        text_ids, text_mask, positions [S,L], None as in the Q-Former. Returns Z [S,Q,D], image
        queries first; with return_attention also a pair of maps for each layer with
        cross-attention, ([S,H,Qi,N], [S,H,Qo,M]).
        """
        Z, maps = self.run(sources.with_blank(),
                           *self.embed(len(sources.image), text_ids, text_mask, positions))
        return (Z, maps) if return_attention else Z

    def encode_image(self, sources: Sources) -> tuple[Tensor, Cache]:
        """Queries without text: Z [B,Q,D] and the cache that `encode_text` needs. ITC."""
        cache: Cache = [[] for _ in self.layers]
        queries = self.embed(len(sources.image), None, None)
        return self.run(sources.with_blank(), *queries, cache)[0], cache

    def encode_text(self, ids: Tensor, mask: Tensor, positions: Tensor | None = None,
                    cache: Cache | None = None, causal: bool = False) -> Tensor:
        """Text states [S,L,D]; ids, positions [S,L] and mask [S,L] (False = padding, at the end).

        Without a cache it attends to itself alone (ITC); on the cache of `encode_image`, of as
        many pictures as texts, also to the queries, which never attend to it: causal for ICG, both
        ways for MSP. Equal to one pass over [queries ; text] under `masks.mask_matrix`.
        """
        mask = mask.bool()[:, None, None]                                       # [S, 1, 1, L]
        if causal:
            mask = mask & mask.new_ones(2 * ids.shape[1:]).tril()               # [S, 1, L, L]
        if cache is not None:
            mask = F.pad(mask, (self.settings.queries, 0), value=True)          # [S, 1, *, Q+L]
        text = self.norm(self.embed_text(ids, positions))                       # [S, L, D]
        text = F.dropout(text, self.settings.dropout, self.training)
        for layer, queries in zip(self.layers, cache or [None] * len(self.layers)):
            text = layer.encode_text(text, mask, queries)
        return text
