"""What a frozen model saw in a picture, kept on the disk: a file a picture.

A file's name is the hash of the picture's pixels, of the model and of how it was asked, so it is
never read for another picture, model or question. A file that is missing or broken is made anew.
Lyrics' refiner keeps its boxes this way, PVIT's encoder of crops their features.

Symbols: R boxes, F width of a feature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lion_min import BadInput, checkpoints, parallel
from lion_min.boxes import Box
from lion_min.features import CHUNK

PICTURES = 20_000                          # whose features are kept in memory, a few kB a box
Cut = tuple[Image.Image, Box]              # a picture and a box in it, xyxy fractions


def file_of(folder: Path, image: Image.Image, model: tuple | str, *asked) -> Path:
    """The file of a picture. model: its fingerprint, and settings that change what it sees."""
    known = repr((model, image.size, *asked)).encode()
    return folder / f"{hashlib.sha256(known + image.tobytes()).hexdigest()[:32]}.safetensors"


def read(path: Path, names: set[str]) -> dict[str, Tensor] | None:
    """The tensors of a kept file; None where it is missing or broken, or lacks one of the names."""
    try:
        tensors = checkpoints.load_tensors(path)
    except BadInput:
        return None
    sound = names <= tensors.keys() and not checkpoints.not_finite(tensors)
    return tensors if sound else None


class BoxFeatures:
    """Features of boxes, float32 [F] each: in memory and, once it has a `folder`, on the disk.

    width: F; look: boxes in pictures -> [R, F]; model: as file_of, called once, where there is a
    folder.
    """

    def __init__(self, width: int, look: Callable[[list[Cut]], Tensor],
                 model: Callable[[], tuple]):
        self.width, self.look, self.model = width, look, cache(model)
        self.folder: Path | None = None
        self.known: dict[Path, dict[Box, Tensor]] = {}    # a picture's file -> its boxes

    def take(self, images: list[Image.Image], boxes: list[Box], rows: list[int]) -> Tensor:
        """R boxes, each in the image of its row -> [R, F]; only boxes not yet seen are looked at."""
        if not rows:
            return torch.zeros(0, self.width)
        if len(self.known) > PICTURES:
            self.known.clear()
        files = {row: self.file(images[row]) for row in {*rows}}
        keys = [(files[row], tuple(round(x, 4) for x in box)) for row, box in zip(rows, boxes)]
        new = {key: (images[row], key[1]) for key, row in zip(keys, rows)
               if key[1] not in self.known[key[0]]}
        for start in range(0, len(new), CHUNK):
            some = [*new][start:start + CHUNK]
            for (file, box), feature in zip(some, self.look([new[key] for key in some]).cpu()):
                self.known[file][box] = feature
        if self.folder is not None and parallel.is_first():        # the first process writes
            for file in {file for file, _ in new}:
                boxes_of, features = zip(*self.known[file].items())
                checkpoints.save_tensors({"boxes": torch.tensor(boxes_of),
                                          "features": torch.stack(features)}, file)
        return torch.stack([self.known[file][box] for file, box in keys])

    def file(self, image: Image.Image) -> Path:
        """Where a picture's features lie; those on the disk are read when it first comes."""
        path = file_of(self.folder or Path(), image, self.model() if self.folder else "")
        if path not in self.known:
            stored = self.folder and read(path, {"boxes", "features"})
            self.known[path] = self.boxes_in(stored) if stored else {}
        return path

    def boxes_in(self, stored: dict[str, Tensor]) -> dict[Box, Tensor]:
        """What `take` wrote; nothing where the shapes are not its own."""
        boxes, features = stored["boxes"], stored["features"]
        if boxes.shape[1:] != (4,) or features.shape != (len(boxes), self.width) \
                or features.dtype != torch.float32:
            return {}
        return dict(zip([tuple(round(x, 4) for x in box) for box in boxes.tolist()], features))
