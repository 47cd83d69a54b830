"""The frozen image encoder, which returns every block's states, and the tag head on top of it.

Symbols: B images, N patches (a square grid, row by row), Dv width, G tags.

All families are transformers' own classes: a CLIP ViT (the tiny preset puts a small
convolutional stem before it), the EVA ViT of InstructBLIP, which LION uses, SigLIP's and DINOv2's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lion_min.images import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

STATISTICS = {"siglip": ((0.5,) * 3,) * 2, "dinov2": (IMAGENET_MEAN, IMAGENET_STD)}


@dataclass
class VisionSettings:
    """Sizes of an encoder built from a config."""

    family: str = "clip"                   # 'clip', 'eva', 'siglip' or 'dinov2'
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

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the pixels it was trained on, a channel each; EVA's are CLIP's."""
        return STATISTICS.get(self.family, (CLIP_MEAN, CLIP_STD))[0]

    @property
    def std(self) -> tuple[float, float, float]:
        """What pixels less their mean are divided by."""
        return STATISTICS.get(self.family, (CLIP_MEAN, CLIP_STD))[1]


class ConvStem(nn.Sequential):
    """Strided 3x3 convolutions instead of one patch convolution: [B,3,H,W] -> [B,Dv,h,w].

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
        """transformers takes the dtype of the patch layer."""
        return self[0].weight


class VisionEncoder(nn.Module):
    """pixels [B, 3, H, W] -> states, a list of blocks+1 tensors [B, 1+N, Dv], CLS first.

    states[0] is the embedding (the stem), states[i] the raw residual stream after block i: no
    final norm. LION's 0-based blocks 38, 28, 18 are states 39, 29, 19 here. SigLIP has no CLS:
    the mean of the patches stands first, at every depth. DINOv2's registers, which stand between
    CLS and the patches, are left out.
    model: a ready one of the family (backbones.py); None: a random one of these settings.
    """

    def __init__(self, settings: VisionSettings, model: nn.Module | None = None):
        super().__init__()
        self.settings = settings
        self.model = model if model is not None else build(settings)
        if settings.family == "eva":
            self.model.post_layernorm = nn.Identity()  # InstructBLIP's own; the states are raw

    def forward(self, pixels: Tensor) -> list[Tensor]:
        states = self.model(pixels, output_hidden_states=True).hidden_states
        if self.settings.family == "siglip":
            return [torch.cat([s.mean(1, keepdim=True), s], 1) for s in states]
        if registers := getattr(self.model.config, "num_register_tokens", 0):
            return [torch.cat([s[:, :1], s[:, 1 + registers:]], 1) for s in states]
        return list(states)


def build(s: VisionSettings) -> nn.Module:
    """A randomly initialised transformers model of these sizes, no network."""
    import transformers
    kinds = {"clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
             "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
             "eva": (transformers.InstructBlipVisionConfig, transformers.InstructBlipVisionModel)}
    if s.family not in kinds:
        raise ValueError(f"unknown vision family {s.family!r}: {', '.join(kinds)}")
    config, model = kinds[s.family]
    model = model(config(
        image_size=s.image, patch_size=s.patch, hidden_size=s.width, intermediate_size=s.mlp,
        num_hidden_layers=s.blocks, layer_norm_eps=s.ln_eps, num_attention_heads=s.heads,
        **{"hidden_act": "gelu", "qkv_bias": True} if s.family == "eva" else {}))
    if s.family == "clip" and s.stem:
        if 2 ** (len(s.stem) + 1) != s.patch:
            raise ValueError(f"a stem of {len(s.stem) + 1} strides is not a patch of {s.patch}")
        model.embeddings.patch_embedding = ConvStem(s.stem, s.width)
        model.set_attn_implementation("eager")     # as the tiny LLMs, see language_build.py
    return model


class TagHead(nn.Module):
    """Image tags as in RAM: one learned query a tag attends to the image, for a yes or a no.

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
        image = self.norm(state)                                          # [B, 1+N, Dv]
        queries = self.queries.expand(len(image), -1, -1)                 # [B, G, Dv]
        return self.ffn(queries + self.attention(queries, image, image)[0])[..., 0]

    @torch.no_grad()
    def predict(self, state: Tensor, threshold: float = 0.5) -> list[list[str]]:
        """The tags of each image, in vocabulary order."""
        yes = self(state).sigmoid() > threshold
        return [[tag for tag, y in zip(self.tags, row) if y] for row in yes.tolist()]
