"""LION's Vision Aggregator: the last ViT state attends to two earlier ones (LION sec. 3).

    V = B2(B1(V_i; V_j); V_k)        B(X; Y) = FFN(XAttn(Attn(X), Y))

with i, j, k = blocks 38, 28, 18 of EVA ViT-g (0-based), for the spatial detail of the middle of the
ViT. Official code: models/lion_adapters.py, `FusionAdapter` of stock, post-norm BertLayers.

Shapes: B batch, N patches (and CLS), D width of the ViT, H heads.
"""

from functools import partial

from torch import Tensor, nn

from lion_min.qformer import Attention, FeedForward, init_bert
from lion_min.trainable import start_at_zero


class AggregatorBlock(nn.Module):
    """B(X; Y). Both attentions are over every patch, without a mask."""

    def __init__(self, width: int, heads: int, ffn: int, ln_eps: float, dropout: float,
                 init_std: float):
        super().__init__()
        self.attention = Attention(width, heads, ln_eps=ln_eps, dropout=dropout)
        self.cross = Attention(width, heads, ln_eps=ln_eps, dropout=dropout)
        self.ffn = FeedForward(width, ffn, ln_eps=ln_eps, dropout=dropout)
        self.apply(partial(init_bert, std=init_std))
        # With every output projection at zero, the block only normalises its tokens: the untrained
        # branch returns a standardised V_i, not noise.
        for part in (self.attention, self.cross, self.ffn):
            start_at_zero(part.out)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x, y [B,N,D] -> ([B,N,D], map [B,H,N,N] of the cross-attention)."""
        x, weights = self.cross(self.attention(x, x)[0], y)
        return self.ffn(x), weights


class VisionAggregator(nn.Module):
    """A chain of blocks, one for each earlier ViT state. LION: 1408, 16 heads, ffn 3072, 2."""

    def __init__(self, width: int, heads: int, ffn: int, blocks: int = 2,
                 ln_eps: float = 1e-12, dropout: float = 0.0, init_std: float = 0.02):
        super().__init__()
        self.blocks = nn.ModuleList(
            AggregatorBlock(width, heads, ffn, ln_eps, dropout, init_std) for _ in range(blocks))

    def forward(self, query_state: Tensor, key_states: list[Tensor],
                return_attention: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """query_state V_i [B,N,D], key_states [V_j, V_k] each [B,N,D], all raw residual streams.
        Returns [B,N,D] and, with return_attention, one cross-attention map [B,H,N,N] a block.
        ValueError unless there is one key state for each block."""
        x, maps = query_state, []
        for block, y in zip(self.blocks, key_states, strict=True):
            x, weights = block(x, y)
            maps += [weights] if return_attention else []
        return (x, maps) if return_attention else x
