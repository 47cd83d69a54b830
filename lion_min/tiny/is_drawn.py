"""Is a picture one of the drawn world? The tiny preset says aloud when it is not.

A drawn scene is a soft grey gradient (bilinear in its four corners) with shapes of eight known
colours on it. So: fit a bilinear background to the picture, robustly, and count the pixels that
are neither background nor one of the colours. What is left in a drawn scene are edges and grain.

Measured with UNEXPLAINED = 0.22, which was chosen on other scenes but on these photographs:
    1,500 drawn scenes (500 of each world), as PNG and as JPEG of quality 75 and 50 at three
    times the size: none of 4,500 pictures taken for a photograph
    128 photographs of COCO (coco128): 124 recognised (96.9 %); the four missed are mostly one
    dark or one even green surface

Symbols: P pixels of the reduced picture.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from lion_min.scenes import COLOURS

SIDE = 48                # pixels: fine enough for 13-pixel shapes, coarse enough to lose the grain
UNEXPLAINED = 0.22       # the share above which a picture is no drawn scene
BACKGROUND, PAINT = 22, 32   # greatest difference of any channel, of 255


def is_drawn(image: Image.Image) -> bool:
    """True when an RGB picture of any size may be a drawn scene, False for a photograph."""
    return unexplained(image) <= UNEXPLAINED


def unexplained(image: Image.Image) -> float:
    """The share of pixels that are neither smooth background nor one of the world's colours."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    x = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(-1, 3).float()
    paints = torch.tensor(list(COLOURS.values())).float()
    paints = torch.cat([paints, paints / 3])                              # stripes are a third
    off_paint = (x[:, None] - paints).abs().amax(2).amin(1)               # [P]
    return float(((_off_background(x) > BACKGROUND) & (off_paint > PAINT)).float().mean())


def _off_background(x: Tensor) -> Tensor:
    """How far each pixel [P, 3] is from the bilinear gradient that fits most of them. [P]"""
    line = torch.linspace(-1, 1, SIDE)
    v, u = (m.flatten() for m in torch.meshgrid(line, line, indexing="ij"))
    basis = torch.stack([torch.ones_like(u), u, v, u * v], 1)             # [P, 4]
    weight = (x.amax(1) - x.amin(1) < 80).float() + 1e-3                  # greyish ones first
    for _ in range(8):                         # least squares again and again, outliers fading
        root = weight.sqrt()[:, None]
        fit = torch.linalg.lstsq(basis * root, x * root).solution         # [4, 3]
        off = (basis @ fit - x).abs().amax(1)                             # [P]
        weight = 1 / (1 + (off / 12) ** 4) + 1e-4
    return off
