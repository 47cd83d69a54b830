"""PVIT's region encoder around a pretrained ViT, which saw whole pictures of few patches: each box
is cut out and encoded as a picture of its own.

Symbols: R regions, F width of a region's feature, N patches, Dv ViT width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from lion_min.features import CHUNK, encode_images
from lion_min.vision import VisionEncoder

KEPT = 200_000                             # features of crops that are kept, a few kB each


@dataclass
class CropSettings:
    """Of a crop's state after this many blocks: CLS, and the mean of the patches."""

    vision_width: int
    depth: int


class CropRegions(nn.Module):
    """The frozen ViT of `vision` sees each box alone; no parameter of its own. A box of a picture
    file is encoded once and its feature kept."""

    reads = "pictures"

    def __init__(self, settings: CropSettings, vision: VisionEncoder):
        super().__init__()
        self.settings, self.width = settings, 2 * settings.vision_width
        self.encode = lambda crops: encode_images(vision, crops)[settings.depth]    # no submodule
        self.kept: dict[tuple, Tensor] = {}

    def encode_images(self, images: list[Image.Image]) -> list[Image.Image]:
        """What `pool` takes: the pictures themselves."""
        return images

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
