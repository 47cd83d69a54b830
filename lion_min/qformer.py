"""Q-Former: a few learned queries attend to an image and to a question about it.

BLIP-2's and InstructBLIP's querying transformer (arXiv 2301.12597, 2305.06500), as LION uses it
(LION sec. 3, official models/Qformer.py). BERT layers in post-norm form:

    [queries ; text] -> self-attention -> queries only: cross-attention to the image
                                       -> queries: query_ffn | text: text_ffn

Shapes: S samples, B images (S = n*B, sample s is about image s // n), N image tokens, L text
tokens, Q queries, T = Q + L, D width, Dv vision width, H heads, d = D / H.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min import BadInput


@dataclass
class QFormerSettings:
    """Sizes of a Q-Former. LION: 768, 12, 12, 3072, 32, 2, 1408, 30523, 512."""

    width: int
    layers: int
    heads: int
    ffn: int  # inner width of both feed-forward nets
    queries: int
    vision_width: int
    vocab: int
    max_text: int  # positions of the text; queries have none
    cross_every: int = 2  # cross-attention in layers 0, cross_every, 2 * cross_every, ...
    ln_eps: float = 1e-12
    dropout: float = 0.0
    init_std: float = 0.02  # BERT's, made for width 768; a width of 128 wants 1/sqrt(128)


def init_bert(module: nn.Module, std: float = 0.02) -> None:
    """BERT's start, for `parent.apply(init_bert)`: matrices N(0, std), biases 0."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class MultiHead(nn.Module):
    """Multi-head attention of x over a context: x itself or, for cross-attention, another tensor.

    A context with fewer rows than x is shared: rows n*b .. n*b+n-1 of x attend to its row b."""

    def __init__(self, width: int, heads: int, context_width: int | None = None,
                 dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key, self.value = (nn.Linear(context_width or width, width) for _ in range(2))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None,
                cache: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """x [S,T,D], context [B,N,Dc] -> ([S,T,D], probabilities [S,H,T,N]).

        mask: True = attended to, [B,1,1,N] or, where S == B, [B,1,T,N]; or numbers [T,N], added
        to the scores. An empty `cache` takes the keys and values of the context; those of a filled
        one come before the context's, in the mask as well."""
        images, n = len(context), len(x) // len(context)
        if len(x) != n * images:
            raise ValueError(f"{len(x)} samples cannot share {images} images evenly")
        # Samples of one image are laid side by side: B longer rows instead of n copies of keys.
        rows = x.reshape(images, -1, x.shape[-1])                               # [B, n*T, D]
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2)            # [B, H, *, d]
                   for y in (self.query(rows), self.key(context), self.value(context)))
        if cache:
            k, v = (torch.cat(pair, 2) for pair in zip(cache, (k, v)))          # [B, H, *+N, d]
        elif cache is not None:
            cache += [k, v]
        # Plain products: the fused kernel returns no probabilities and is slow in bf16 on a CPU.
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5                  # [B, H, n*T, N]
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool \
                else scores + mask.repeat(n, 1)
        weights = scores.softmax(-1)
        mixed = F.dropout(weights, self.dropout, self.training) @ v             # [B, H, n*T, d]
        weights = weights.unflatten(2, (n, x.shape[1])).transpose(1, 2)         # [B, n, H, T, N]
        return self.out(mixed.transpose(1, 2).reshape(x.shape)), weights.flatten(0, 1)


class Attention(MultiHead):
    """BERT's attention sub-layer, LN(x + Drop(MHA(x, context))), with MHA's probabilities."""

    def __init__(self, width: int, heads: int, context_width: int | None = None,
                 ln_eps: float = 1e-12, dropout: float = 0.0):
        super().__init__(width, heads, context_width, dropout)
        self.norm = nn.LayerNorm(width, eps=ln_eps)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None,
                cache: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        mixed, weights = super().forward(x, context, mask, cache)
        return self.norm(x + F.dropout(mixed, self.dropout, self.training)), weights


class FeedForward(nn.Module):
    """BERT's feed-forward sub-layer: LN(x + Drop(W_2 GELU(W_1 x))), exact GELU. [*,D] -> [*,D]."""

    def __init__(self, width: int, inner: int, ln_eps: float = 1e-12, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.up, self.out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=ln_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + F.dropout(self.out(F.gelu(self.up(x))), self.dropout, self.training))


class QFormerLayer(nn.Module):
    """One layer. A form with more sources extends `__init__` and `cross_attend`."""

    def __init__(self, settings: QFormerSettings, cross: bool):
        super().__init__()
        s, rest = settings, dict(ln_eps=settings.ln_eps, dropout=settings.dropout)
        self.queries = s.queries
        self.register_parameter("anchors", None)       # see QFormer.anchor
        self.attention = Attention(s.width, s.heads, **rest)
        self.cross = Attention(s.width, s.heads, s.vision_width, **rest) if cross else None
        self.query_ffn = FeedForward(s.width, s.ffn, **rest)
        self.text_ffn = FeedForward(s.width, s.ffn, **rest)

    def cross_attend(self, queries: Tensor, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries [S,Q,D] attend to the image [B,N,Dv], `anchors` [Q,N] added to the scores:
        ([S,Q,D], map [S,H,Q,N] or None)."""
        return (queries, None) if self.cross is None else self.cross(queries, image, self.anchors)

    def forward(self, hidden: Tensor, mask: Tensor | None, image: Tensor, last: bool = False,
                cache: list[Tensor] | None = None) -> tuple[Tensor, Tensor | None]:
        """hidden [S,T,D] -> ([S,T,D], cross-attention map or None); the last layer -> [S,Q,D]."""
        rows = hidden[:, :self.queries] if last else hidden
        hidden, _ = self.attention(rows, hidden, mask, cache)                   # [S, T, D]
        queries, text = hidden[:, :self.queries], hidden[:, self.queries:]
        queries, seen = self.cross_attend(queries, image)                       # [S, Q, D]
        queries = self.query_ffn(queries)
        return torch.cat([queries, self.text_ffn(text)], 1) if text.shape[1] else queries, seen


class QFormer(nn.Module):
    """Instruction-aware Q-Former with learned query tokens [1,Q,D] ~ N(0, 0.02)."""

    layer_type = QFormerLayer  # the multi-scale form has another

    def __init__(self, settings: QFormerSettings):
        super().__init__()
        s = self.settings = settings
        self.query_tokens = nn.Parameter(torch.randn(1, s.queries, s.width) * 0.02)
        self.words = nn.Embedding(s.vocab, s.width)
        self.positions = nn.Embedding(s.max_text, s.width)
        self.norm = nn.LayerNorm(s.width, eps=s.ln_eps)
        self.layers = nn.ModuleList(self.layer_type(s, i % s.cross_every == 0)
                                    for i in range(s.layers))
        self.apply(partial(init_bert, std=s.init_std))

    def forward(self, image: Tensor, text_ids: Tensor | None = None,
                text_mask: Tensor | None = None, return_attention: bool = False,
                ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """image [B,N,Dv], text_ids [S,L] (None: no question, S = B), text_mask [S,L], 0 or False on
        padding -> the query states [S,Q,D] and, with return_attention, one map [S,H,Q,N] for each
        layer that has cross-attention."""
        hidden, maps = self.run(image, *self.embed(len(image), text_ids, text_mask))
        return (hidden, maps) if return_attention else hidden

    def anchor(self, tokens: int, start: float) -> None:
        """Let every query begin with an equal share of the N image tokens, in their order: a
        learned number for each pair, at first `start` inside the share and 0 elsewhere."""
        share = torch.arange(tokens) * self.settings.queries // tokens          # [N]
        scores = start * (share == torch.arange(self.settings.queries)[:, None])   # [Q, N]
        for layer in self.layers:
            if layer.cross is not None:
                layer.anchors = nn.Parameter(scores.clone())

    def run(self, image: Tensor, hidden: Tensor, mask: Tensor | None,
            caches: list[list[Tensor]] | None = None) -> tuple[Tensor, list[Tensor]]:
        """All layers over the output of `embed`: (query states [S,Q,D], cross-attention maps)."""
        maps = []
        for i, layer in enumerate(self.layers):
            hidden, seen = layer(hidden, mask, image, i == len(self.layers) - 1,
                                 caches[i] if caches else None)
            maps += [] if seen is None else [seen]
        return hidden, maps

    def embed(self, images: int, text_ids: Tensor | None, text_mask: Tensor | None,
              positions: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """([queries ; text] after one LayerNorm [S,T,D], self-attention mask [S,1,1,T] or None)."""
        x = self.query_tokens.expand(images if text_ids is None else len(text_ids), -1, -1)
        if text_ids is not None:
            x = torch.cat([x, self.embed_text(text_ids, positions)], dim=1)     # [S, T, D]
        mask = None
        if text_mask is not None:
            mask = F.pad(text_mask.bool(), (self.settings.queries, 0), value=True)[:, None, None]
        return F.dropout(self.norm(x), self.settings.dropout, self.training), mask

    def embed_text(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Words and positions (0, 1, ... unless given) before the LayerNorm: [S,L] -> [S,L,D]."""
        length, most = ids.shape[1], self.settings.max_text
        if positions is None:
            if length > most:
                raise BadInput(f"question of {length} tokens: the Q-Former reads at most {most}; "
                               "shorten it")
            positions = torch.arange(length, device=ids.device)
        return self.words(ids) + self.positions(positions)
