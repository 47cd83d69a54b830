"""PVIT's region encoder: an image and a box -> the feature of what lies in the box.

The tiny one pools the ViT's states. Around a pretrained ViT each box is cut out and encoded as a
picture of its own (`lion_min/pretrained/crops.py`); the published one, RegionCLIP, has a backbone
of its own (`lion_min/published/regionclip.py`). All have a `width` F, `pool(maps, boxes, box_image)`,
and say what they read: the ViT's 'states', or what `encode_images` gives: 'pictures', 'maps'.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lion_min.regions import pool_regions


@dataclass
class TinyRegionSettings:
    """What is pooled: bins x bins of the ViT's states of these depths (0 is the stem)."""

    vision_width: int = 128
    depths: tuple[int, ...] = (0, 4)
    bins: int = 3


class TinyRegions(nn.Module):
    """Stem states know edges and colours, deep ones what is where; no parameter of its own."""

    reads = "states"

    def __init__(self, settings: TinyRegionSettings):
        super().__init__()
        self.settings = settings
        self.width = settings.bins ** 2 * len(settings.depths) * settings.vision_width

    def pool(self, maps: list[Tensor], boxes: Tensor, box_image: Tensor) -> Tensor:
        """maps: the ViT's states, each [B, 1+N, Dv]; boxes [R, 4] xyxy fractions; box_image [R]
        the row of `maps` -> [R, F]."""
        pooled = [pool_regions(maps[d][:, 1:], boxes, box_image, self.settings.bins)
                  for d in self.settings.depths]                          # each [R, bins^2, Dv]
        return torch.cat(pooled, -1).flatten(1)
