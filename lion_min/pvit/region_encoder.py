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

from lion_min.features import CHUNK, encode_images
from lion_min.regions import pool_regions
from lion_min.vision import VisionEncoder

KEPT = 200_000                             # features of crops that are kept, a few kB each


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
    """The frozen ViT of `vision` sees each box alone; no parameter of its own. A box of a picture
    file is encoded once and its feature kept."""

    def __init__(self, settings: CropSettings, vision: VisionEncoder):
        super().__init__()
        self.settings, self.width = settings, 2 * settings.vision_width
        self.encode = lambda crops: encode_images(vision, crops)[settings.depth]    # no submodule
        self.kept: dict[tuple, Tensor] = {}

    @torch.no_grad()
    def pool(self, pictures: list[Image.Image], boxes: Tensor, box_image: Tensor) -> Tensor:
        """pictures: upright, RGB; boxes [R, 4] xyxy fractions; box_image [R] the row of `pictures`
        -> [R, F]."""
        rows = box_image.tolist()
        shown = [pictures[row] for row in rows]
        keys = [(getattr(image, "filename", "") or row, *(round(x, 4) for x in box))
                for row, image, box in zip(rows, shown, boxes.tolist())]
        if len(self.kept) > KEPT:
            self.kept.clear()
        new = {key: crop(image, key[1:]) for key, image in zip(keys, shown) if key not in self.kept}
        for start in range(0, len(new), CHUNK):
            some = [*new][start:start + CHUNK]
            states = self.encode([new[key] for key in some]).float()      # [some, 1+N, Dv]
            self.kept |= zip(some, torch.cat([states[:, 0], states[:, 1:].mean(1)], 1))
        pooled = [self.kept[key] for key in keys]
        for key in {key for key in keys if isinstance(key[0], int)}:      # of no file: not kept
            del self.kept[key]
        return torch.stack(pooled) if keys else boxes.new_zeros(0, self.width)


def crop(image: Image.Image, box: tuple[float, ...]) -> Image.Image:
    """What lies in the box, at least two pixels wide and high."""
    (w, h), (x1, y1, x2, y2) = image.size, box
    left, top = round(x1 * w), round(y1 * h)
    return image.crop((left, top, max(left + 2, round(x2 * w)), max(top + 2, round(y2 * h))))
