"""The frozen encoder's features of pictures: kept in memory, or computed for every batch.

A system's `encode` turns pictures into features: a dict of "states" (every state of the ViT,
each [B, 1+N, Dv]), "tags" (B lists of words) and whatever else a system needs once a picture.
Symbols: B images, N patches, Dv encoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lion_min import BadInput
from lion_min.cli import progress
from lion_min.images import to_pixels
from lion_min.left_out import UNREADABLE, BadRecord, LeftOut, note
from lion_min.vision import VisionEncoder

MEMORY = 8e9                               # bytes that kept states and pictures may take
PICTURE = 1e6                              # bytes of a photograph of 640 x 480 pixels
CHUNK = 128                                # pictures that are encoded at once


def encode_images(vision: VisionEncoder, images: list[Image.Image]) -> list[Tensor]:
    """Every state of the encoder, each [B, 1+N, Dv]; no gradient unless its parameters train."""
    s = vision.settings
    pixels = to_pixels(images, s.image, s.mean, s.std)
    return vision(pixels.to(next(vision.parameters()).device))


def readable(draws: Iterable[Callable[[], Image.Image]], left_out: LeftOut) -> dict[int, Image.Image]:
    """The pictures that can be drawn, by their place; left_out counts the others."""
    images = {}
    for i, draw in enumerate(draws):
        try:
            images[i] = draw()
        except BadInput as error:
            left_out.add(BadRecord(str(error), UNREADABLE))
    return images


def hide(states: list[Tensor], patches: list[int]) -> list[Tensor]:
    """Replace some patches' states, at every depth, by the mean of the others: [B, 1+N, Dv] each.
    Deeper states of other patches, and CLS, keep what they took from the hidden ones."""
    shown = [i for i in range(1, states[0].shape[1]) if i - 1 not in patches] or [0]
    out = [state.clone() for state in states]
    for state in out:
        state[:, [1 + i for i in patches]] = state[:, shown].mean(1, keepdim=True)
    return out


def index(features: dict, rows: list[int]) -> dict:
    """The features of some pictures, one for each row; a picture may come twice."""
    return {key: _rows(value, rows) for key, value in features.items()}


def _rows(value, rows: list[int]):
    if value is None:
        return None
    if hasattr(value, "pick"):                         # Objects (lyrics)
        return value.pick(rows)
    return [v[rows] for v in value] if isinstance(value[0], Tensor) else [value[r] for r in rows]


def join(chunks: list[dict]) -> dict:
    """Several encoded chunks as one."""
    return {key: _joined([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _joined(values: list):
    first = values[0]
    if first is None or len(values) == 1:
        return first
    if hasattr(first, "pick"):
        return type(first)(*(torch.cat(field) for field in zip(*(vars(v).values()
                                                                 for v in values))))
    if isinstance(first[0], Tensor):
        with torch.autocast(first[0].device.type, enabled=False):         # knows no float16
            return [torch.cat(same_size(depth)) for depth in zip(*values)]    # each [size, 1+N, Dv]
    return [item for value in values for item in value]


def same_size(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Maps [size, C, h, w] of different sizes, the last row and column repeated: what RoIAlign reads
    inside a picture stays as it was. Other tensors as they are."""
    if tensors[0].ndim != 4:
        return list(tensors)
    h, w = (max(t.shape[side] for t in tensors) for side in (2, 3))
    return [F.pad(t, (0, w - t.shape[3], 0, h - t.shape[2]), mode="replicate") for t in tensors]


class FeatureCache:
    """Encodes all scenes once and keeps the states that the model uses, in half precision.

    left_out counts the pictures that cannot be read; BadInput where no other is left.
    """

    def __init__(self, system, scenes: list):
        self.left_out = LeftOut("data", "pictures", len(scenes))
        self.position: dict[int, int] = {}             # of a scene's features
        chunks = []
        for start in progress(range(0, len(scenes), CHUNK), f"encoding {len(scenes)} pictures"):
            images = readable([s.draw for s in scenes[start:start + CHUNK]], self.left_out)
            for row in images:
                self.position[start + row] = len(self.position)
            if not images:
                continue
            with torch.no_grad():
                chunk = system.encode([*images.values()])
            chunk["states"] = [s.half() if d in system.depths else s[:, :0].half()
                               for d, s in enumerate(chunk["states"])]
            chunks.append(chunk)
        if not chunks:
            self.left_out.check()
        self.features = join(chunks)

    def unreadable(self, rows: list[int]) -> set[int]:
        """Those of the scenes whose pictures cannot be read."""
        return set(rows) - self.position.keys()

    def take(self, rows: list[int]) -> dict:
        """The features of some scenes; states are empty at depths that the model does not use."""
        taken = index(self.features, [self.position[row] for row in rows])
        return taken | {"states": [s.float() for s in taken["states"]]}


class FeaturesOnTheFly:
    """Encodes every batch on demand; used when the encoder trains or the cache would not fit.

    left_out counts the pictures that were met and cannot be read; each is told when it is met.
    """

    def __init__(self, system, scenes: list):
        self.system, self.scenes = system, scenes
        self.left_out = LeftOut("data", "pictures", len(scenes))
        self.bad: set[int] = set()
        self.drawn: dict[int, Image.Image] = {}        # by the last `unreadable`, for `take`

    def unreadable(self, rows: list[int]) -> set[int]:
        """Those of the scenes whose pictures cannot be read; the others are kept for `take`."""
        drawn: dict[int, Image.Image] = {}
        for row in dict.fromkeys(rows):
            if row in self.drawn:
                drawn[row] = self.drawn[row]
            elif row not in self.bad:
                drawn |= {row: image for image in readable([self.scenes[row].draw],
                                                           self.left_out).values()}
                if row not in drawn:
                    self.bad.add(row)
                    note(f"{self.left_out.count} of {len(self.scenes)} pictures left out so far; the "
                         f"last: {self.left_out.last}", every_process=True)
        self.drawn = drawn
        return self.bad & set(rows)

    def take(self, rows: list[int]) -> dict:
        drawn, self.drawn = self.drawn, {}
        return self.system.encode([drawn[r] if r in drawn else self.scenes[r].draw() for r in rows])


Features = FeatureCache | FeaturesOnTheFly


def features_of(system, scenes: list, encoder_trains: bool) -> Features:
    """The cache where it fits in MEMORY and stays valid while training."""
    v = system.parts.vision.settings
    size = 2 * len(scenes) * (1 + v.side ** 2) * v.width * max(1, len(system.depths))   # bytes
    size += len(scenes) * PICTURE * system.keeps_pictures
    anew = encoder_trains or size > MEMORY or not system.keeps_features
    return (FeaturesOnTheFly if anew else FeatureCache)(system, scenes)
