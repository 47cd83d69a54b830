"""PVIT's region encoder around a pretrained ViT, which saw whole pictures of few patches: each box
is cut out and encoded as a picture of its own.

Symbols: R regions, F width of a region's feature, N patches, Dv ViT width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from lion_min.features import encode_images
from lion_min.kept import BoxFeatures, Cut
from lion_min.parts import fingerprint
from lion_min.vision import VisionEncoder


@dataclass
class CropSettings:
    """Of a crop's state after this many blocks: CLS, and the mean of the patches."""

    vision_width: int
    depth: int


class CropRegions(nn.Module):
    """The frozen ViT of `vision` sees each box alone, once; no parameter of its own. `kept` holds the
    features; give it a folder and they stay for later runs."""

    reads = "pictures"

    def __init__(self, settings: CropSettings, vision: VisionEncoder):
        super().__init__()
        self.settings, self.width = settings, 2 * settings.vision_width

        def look(cuts: list[Cut]) -> Tensor:           # holds the ViT, which is no submodule here
            state = encode_images(vision, [crop(*cut) for cut in cuts])[settings.depth].float()
            return torch.cat([state[:, 0], state[:, 1:].mean(1)], 1)

        self.kept = BoxFeatures(self.width, look, lambda: (
            fingerprint(vision), vision.settings, next(vision.parameters()).dtype, settings.depth))

    def encode_images(self, images: list[Image.Image]) -> list[Image.Image]:
        """What `pool` takes: the pictures themselves."""
        return images

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
