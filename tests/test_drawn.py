"""The tiny preset's honesty about photographs: silent on drawn scenes, loud on the rest."""

import io
import random

import pytest
from PIL import Image

from lion_min.tiny.is_drawn import is_drawn, unexplained
from lion_min.scenes import WORLDS, make_scene


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_drawn_scenes_pass(world):
    """Guards: a warning about photographs on the very pictures the model was trained for."""
    for i in range(40):
        image = make_scene(world, "heldout", 31, i, "heldout" if i % 2 else "train").draw()
        assert is_drawn(image), (world.name, i, unexplained(image))
        file = io.BytesIO()                                    # as a user re-saves it
        image.resize((image.width * 3,) * 2, Image.Resampling.BICUBIC).save(file, "JPEG")
        assert is_drawn(Image.open(file)), (world.name, i)


def test_busy_pictures_do_not_pass():
    """Guards: a test that calls everything drawn: patches of many colours, as photographs have."""
    rng = random.Random(1)
    for cells in (3, 5, 8, 16):
        for _ in range(10):
            patches = Image.frombytes("RGB", (cells, cells), rng.randbytes(cells * cells * 3))
            for way in (Image.Resampling.BICUBIC, Image.Resampling.NEAREST):
                assert not is_drawn(patches.resize((300, 200), way)), cells
