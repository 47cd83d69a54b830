"""The refiner's segmenter: a mask for each detected object, to be shown and scored.

A query's vector is multiplied with every pixel's, as in MaskFormer and SAM. No query of the
MQ-Former reads a mask, so the language model answers the same without this file.

Symbols: B images, N patches, Dv ViT width, M queries, d their width, C channels, H W mask sides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Segmenter(nn.Module):
    """Masks from the patches of the `depths` ViT states and the detector's features."""

    def __init__(self, depths: tuple[int, int], vision_width: int, width: int, side: int,
                 mask_size: int, channels: int = 32):
        super().__init__()
        self.depths, self.side = depths, side
        self.finer = mask_size // side                         # pixels of a mask along a patch
        self.pixels = nn.Sequential(nn.LayerNorm(2 * vision_width),
                                    nn.Linear(2 * vision_width, channels * self.finer ** 2))
        self.mixes = nn.Sequential(nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1),
                                   nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.query = nn.Sequential(nn.Linear(width + 4, 128), nn.GELU(),
                                   nn.Linear(128, channels + 1))

    def forward(self, states: list[Tensor], features: Tensor) -> Tensor:
        """states, each [B, 1+N, Dv], features [B, M, d+4] -> logits [B, M, H, W]."""
        both = torch.cat([states[i][:, 1:] for i in self.depths], -1)         # [B, N, 2Dv]
        coarse = self.pixels(both).unflatten(1, (self.side, -1)).permute(0, 3, 1, 2)
        fine = self.mixes(F.pixel_shuffle(coarse, self.finer))                # [B, C, H, W]
        vector, bias = self.query(features).split([fine.shape[1], 1], -1)     # [B, M, C], [B, M, 1]
        return torch.einsum("bmc,bchw->bmhw", vector, fine) + bias[..., None]
