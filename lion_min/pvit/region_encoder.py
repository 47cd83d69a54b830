"""PVIT's region encoder: an image and a box -> the feature of what lies in the box.

The tiny one pools the ViT's states. Around a pretrained ViT, which saw whole pictures of few patches,
each box is cut out and encoded as a picture of its own. The published one, RegionCLIP, has a
backbone of its own (`lion_min/published/regionclip.py`). All have a `width` F and
`pool(maps, boxes, box_image)`.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from lion_min.features import encode_images
from lion_min.kept import BoxFeatures, Cut
from lion_min.parts import fingerprint
from lion_min.regions import pool_regions
from lion_min.vision import VisionEncoder


@dataclass
class TinyRegionSettings:
    """What is pooled: bins x bins of the ViT's states of these depths (0 is the stem)."""

    vision_width: int = 128
    depths: tuple[int, ...] = (0, 4)
    bins: int = 3


class TinyRegions(nn.Module):
    """Stem states know edges and colours, deep ones what is where; no parameter of its own."""

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


@dataclass
class CropSettings:
    """Of a crop's state after this many blocks: CLS, and the mean of the patches."""

    vision_width: int
    depth: int


class CropRegions(nn.Module):
    """The frozen ViT of `vision` sees each box alone, once; no parameter of its own. `kept` holds
    the features; give it a folder and they stay for later runs."""

    def __init__(self, settings: CropSettings, vision: VisionEncoder):
        super().__init__()
        self.settings, self.width = settings, 2 * settings.vision_width

        def look(cuts: list[Cut]) -> Tensor:           # holds the ViT, which is no submodule here
            state = encode_images(vision, [crop(*cut) for cut in cuts])[settings.depth].float()
            return torch.cat([state[:, 0], state[:, 1:].mean(1)], 1)

        self.kept = BoxFeatures(self.width, look, lambda: (
            fingerprint(vision), vision.settings, next(vision.parameters()).dtype, settings.depth))

    @torch.no_grad()
    def pool(self, pictures: list[Image.Image], boxes: Tensor, box_image: Tensor) -> Tensor:
        """pictures: upright, RGB; boxes [R, 4] xyxy fractions; box_image [R] the row of `pictures`
        -> [R, F]."""
        return self.kept.take(pictures, boxes.tolist(), box_image.tolist()).to(boxes.device)


def crop(image: Image.Image, box: tuple[float, ...]) -> Image.Image:
    """What lies in the box, at least two pixels wide and high."""
    (w, h), (x1, y1, x2, y2) = image.size, box
    left, top = round(x1 * w), round(y1 * h)
    return image.crop((left, top, max(left + 2, round(x2 * w)), max(top + 2, round(y2 * h))))
