"""RegionCLIP (CVPR 2022), PVIT's published region encoder: a CLIP ResNet-50x4 trained on regions.

    encode_images(images) -> maps           from a picture of about 800x1333 pixels of its own
    pool(maps, boxes, box_image) -> [R, F]  for every box of every turn

The paper's section 3.2; `lion_min/pvit/region_encoder.py` is the tiny one.

Symbols: B images, R regions, C channels, h w cells of the map, S bins a side, T tokens, F width of
a region feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lion_min.images import CLIP_MEAN, CLIP_STD
from lion_min.regions import roi_align

STRIDE = 16  # pixels a cell of res4


@dataclass
class RegionCLIPSettings:
    """The defaults are RN50x4 as PVIT runs it (spec 2.3, region_clip_config.yaml)."""

    layers: tuple[int, int, int, int] = (4, 6, 10, 6)
    width: int = 80
    heads: int = 40                        # of the attention pool; 64 channels each
    output: int = 640
    resolution: int = 288                  # of CLIP's pretraining; sizes the attention pool
    shortest: int = 800                    # pixels of the picture's sides
    longest: int = 1333

    @property
    def roi(self) -> int:
        """Bins a side of a crop: a crop is to layer4 what a whole picture was in pretraining."""
        return self.resolution // STRIDE


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics never change: one scale and one shift a channel."""

    def __init__(self, channels: int):
        super().__init__()
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((channels,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            FrozenBatchNorm(outputs)]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut. CLIP halves the map by averaging, not by striding."""

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            *conv(inputs, planes, 1), nn.ReLU(), *conv(planes, planes, 3), nn.ReLU(),
            nn.AvgPool2d(stride), *conv(planes, 4 * planes, 1))           # AvgPool2d(1): nothing
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != 4 * planes:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), *conv(inputs, 4 * planes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class AttentionPool(nn.Module):
    """[R, C, h, w] -> [R, F]: the mean of the cells asks all cells.

    CLIP lets every token ask and reads the first; only that one's query is computed here.
    """

    def __init__(self, side: int, channels: int, heads: int, output: int):
        super().__init__()
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(side ** 2 + 1, channels) * channels ** -0.5)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Linear(channels, output)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(2).transpose(1, 2)                              # [R, h*w, C]
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + self.positions  # [R, T, C]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (
            self.query(tokens[:, :1]), self.key(tokens), self.value(tokens)))  # [R, heads, T, 64]
        mixed = F.scaled_dot_product_attention(q, k, v)                   # [R, heads, 1, 64]
        return self.out(mixed.transpose(1, 2).flatten(1))                 # [R, F]


class RegionCLIP(nn.Module):
    """CLIP's ResNet with the RoI cut before its last stage (RegionCLIP, CVPR 2022; spec 2.2-2.4).

    Maps are [res4 [B, C, h, w], sizes [B, 2]]: the sizes are the resized pictures' own width and
    height, because the batch is padded to its largest one. Always float32, also under autocast,
    so that a feature does not depend on who asks for it.
    """

    reads = "maps"

    def __init__(self, settings: RegionCLIPSettings):
        super().__init__()
        s, half = settings, settings.width // 2
        self.settings, self.width = s, s.output
        self.stem = nn.Sequential(*conv(3, half, 3, stride=2), nn.ReLU(), *conv(half, half, 3),
                                  nn.ReLU(), *conv(half, s.width, 3), nn.ReLU(), nn.AvgPool2d(2))
        inputs = s.width
        for i, blocks in enumerate(s.layers):                             # layer1 .. layer4
            planes, stride = s.width * 2 ** i, 1 if i == 0 else 2
            stage = [Bottleneck(inputs if j == 0 else 4 * planes, planes, stride if j == 0 else 1)
                     for j in range(blocks)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
            inputs = 4 * planes
        self.attnpool = AttentionPool(s.resolution // 32, inputs, s.heads, s.output)

    def res4(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> [B, 16 width, ~H/16, ~W/16]."""
        return self.layer3(self.layer2(self.layer1(self.stem(pixels))))

    def encode_images(self, images: list[Image.Image]) -> list[Tensor]:
        """RGB pictures of any sizes -> maps; once an image, however often it is asked about."""
        pixels, sizes = region_pixels(images, self.settings.shortest, self.settings.longest)
        device = self.attnpool.positions.device
        with torch.autocast(device.type, enabled=False):
            return [self.res4(pixels.to(device)), sizes.to(device)]

    def crops(self, maps: list[Tensor], boxes: Tensor, box_image: Tensor) -> Tensor:
        """RoIAlign of boxes [R, 4] (fractions) on res4: [R, C, S, S]."""
        res4, sizes = maps
        pixels = boxes * sizes[box_image].repeat(1, 2)                    # [R, 4] of the resized
        rois = torch.cat([box_image[:, None].to(pixels.dtype), pixels], 1)
        return roi_align(res4, rois, self.settings.roi, 1 / STRIDE)

    def pool(self, maps: list[Tensor], boxes: Tensor, box_image: Tensor) -> Tensor:
        """boxes [R, 4] xyxy fractions, box_image [R] the row of `maps` -> [R, F], not normed."""
        with torch.autocast(boxes.device.type, enabled=False):
            return self.attnpool(self.layer4(self.crops(maps, boxes, box_image)))


def region_size(width: int, height: int, shortest: int, longest: int) -> tuple[int, int]:
    """Detectron2's ResizeShortestEdge: the short side to `shortest` unless the long one then
    passes `longest`; the shape is kept. (width, height) -> (width, height)."""
    scale = shortest / min(width, height)
    scale *= min(1.0, longest / (max(width, height) * scale))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def region_pixels(images: list[Image.Image], shortest: int, longest: int) -> tuple[Tensor, Tensor]:
    """(pixels [B, 3, H, W], sizes [B, 2]): resized, normalised, then padded right and below.

    The padding comes after the normalisation, so it is 0, CLIP's mean colour, and not black.
    """
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    rows = []
    for image in images:
        size = region_size(*image.size, shortest, longest)
        small = image.resize(size, Image.Resampling.BILINEAR)
        flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        picture = flat.view(size[1], size[0], 3).permute(2, 0, 1).float() / 255   # [3, h, w]
        rows.append((picture - mean) / std)
    H, W = (max(row.shape[side] for row in rows) for side in (1, 2))
    padded = [F.pad(row, (0, W - row.shape[2], 0, H - row.shape[1])) for row in rows]
    sizes = torch.tensor([[float(row.shape[2]), float(row.shape[1])] for row in rows])
    return torch.stack(padded), sizes
