"""The frozen image encoder that returns every block's states, and the tag head that reads them.

Symbols: B images, N patches (a square grid, row by row), Dv width, G tags.

Both families are transformers' own classes: a CLIP ViT (the tiny preset puts a small
convolutional stem before it) and the EVA ViT of InstructBLIP, which LION uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class VisionSettings:
    """Sizes of an encoder built from a config."""

    family: str = "clip"                   # 'clip' or 'eva'
    image: int = 64                        # pixels of the square input
    patch: int = 8
    width: int = 128
    blocks: int = 4
    heads: int = 4
    mlp: int = 512
    stem: tuple[int, ...] = (48, 96)       # channels of the strided convolutions; () = one patch
    ln_eps: float = 1e-5

    @classmethod
    def of(cls, image: int) -> "VisionSettings":
        """The tiny encoder of pictures `image` pixels wide: 8x8 patches, whatever the size."""
        return cls(image=image, patch=image // 8)

    @property
    def side(self) -> int:
        """Patches along one side."""
        return self.image // self.patch


class ConvStem(nn.Sequential):
    """Strided 3x3 convolutions in the place of one patch convolution: [B,3,H,W] -> [B,Dv,h,w].

    Each halves the map; three give patches of 8 pixels whose edges overlap, which small shapes
    need ("Early Convolutions Help Transformers See Better", Xiao et al. 2021).
    """

    def __init__(self, channels: tuple[int, ...], width: int):
        layers, before = [], 3
        for after in (*channels, width):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
            before = after
        super().__init__(*layers[:-1])

    @property
    def weight(self) -> Tensor:
        """transformers asks the patch layer for its dtype."""
        return self[0].weight


class VisionEncoder(nn.Module):
    """pixels [B, 3, H, W] -> states, a list of blocks+1 tensors [B, 1+N, Dv], CLS first.

    states[0] is the embedding (the stem), states[i] the raw residual stream after block i: no
    final norm. LION's 0-based blocks 38, 28, 18 are states 39, 29, 19 here.
    """

    def __init__(self, settings: VisionSettings):
        super().__init__()
        import transformers
        s = self.settings = settings
        if s.family == "eva":
            self.model = transformers.InstructBlipVisionModel(transformers.InstructBlipVisionConfig(
                image_size=s.image, patch_size=s.patch, hidden_size=s.width,
                intermediate_size=s.mlp, num_hidden_layers=s.blocks, layer_norm_eps=s.ln_eps,
                num_attention_heads=s.heads, hidden_act="gelu", qkv_bias=True))
            self.model.post_layernorm = nn.Identity()  # InstructBLIP's own; the states are raw
        elif s.family == "clip":
            self.model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(
                image_size=s.image, patch_size=s.patch, hidden_size=s.width,
                intermediate_size=s.mlp, num_hidden_layers=s.blocks, layer_norm_eps=s.ln_eps,
                num_attention_heads=s.heads))
            if s.stem:
                if 2 ** (len(s.stem) + 1) != s.patch:
                    raise ValueError(f"a stem of {len(s.stem) + 1} strides is not a patch of "
                                     f"{s.patch}")
                self.model.embeddings.patch_embedding = ConvStem(s.stem, s.width)
        else:
            raise ValueError(f"unknown vision family {s.family!r}: 'clip' or 'eva'")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return list(self.model(pixels, output_hidden_states=True).hidden_states)


class TagHead(nn.Module):
    """Image tags as RAM gives them: one learned query a tag looks at the image and says yes or no.

    RAM (arXiv 2306.03514) decodes 4585 tag queries with two cross-attention layers and no
    self-attention; here one layer. states[-1] [B, 1+N, Dv] -> logits [B, G].
    """

    def __init__(self, width: int, tags: tuple[str, ...], heads: int = 4):
        super().__init__()
        self.tags = tags
        self.queries = nn.Parameter(torch.randn(1, len(tags), width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, state: Tensor) -> Tensor:
        seen = self.norm(state)                                           # [B, 1+N, Dv]
        queries = self.queries.expand(len(seen), -1, -1)                  # [B, G, Dv]
        return self.ffn(queries + self.attention(queries, seen, seen)[0])[..., 0]

    @torch.no_grad()
    def predict(self, state: Tensor, threshold: float = 0.5) -> list[list[str]]:
        """The tags of each image, in vocabulary order."""
        yes = self(state).sigmoid() > threshold
        return [[tag for tag, y in zip(self.tags, row) if y] for row in yes.tolist()]
