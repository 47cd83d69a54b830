"""What the page asks for: pictures, answers, explanations, all as plain JSON values.

Models are loaded once, features of a picture are kept, and one lock lets one request at a time use
them: torch would otherwise share two cores among as many threads as there are clicks.
"""

from __future__ import annotations

import base64
import io
import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageStat

from lion_min import BadInput
from lion_min.boxes import BoxText
from lion_min.cli import SYSTEMS, TITLES
from lion_min.drawing import box_points
from lion_min.explanation import KINDS, AttentionMap, Explanation
from lion_min.features import encode_images, hide
from lion_min.images import decode
from lion_min.scenes import WORLDS, make_scene
from lion_min.system import Reply, System
from lion_min.tasks import examples

GRID = 8                                   # cells a side that the brush hides
LONG_SIDE = 1024                           # pixels; more of a photograph are not kept
PICTURES, REPLIES = 32, 64                 # how many are remembered
MAX_SEED = 10**9
TASKS = ("rec", "colour", "count", "relation")     # of the questions to try on a scene


class Recent(OrderedDict):
    """A dict that forgets what was stored longest ago."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        if len(self) > self.most:
            self.popitem(last=False)


@dataclass
class Picture:
    image: Image.Image
    background: Image.Image                # of the same size: what lies behind the objects


class Session:
    """Systems, pictures and replies. A method takes a request's JSON object, or a picture's bytes,
    and returns a JSON object; BadInput for what it cannot answer."""

    def __init__(self, load: Callable[[str], System], first: str, world: str = "medium"):
        self.load, self.first, self.world = load, first, WORLDS[world]
        self.lock = threading.RLock()
        self.systems: dict[str, System] = {}
        self.pictures, self.features, self.replies = Recent(PICTURES), Recent(REPLIES), Recent(REPLIES)
        self.count = 0

    def about(self) -> dict:
        """What the page must know before the first question."""
        return {"systems": [[name, TITLES[name]] for name in SYSTEMS], "first": self.first,
                "kinds": KINDS, "grid": GRID, "max_seed": MAX_SEED}

    def system(self, name: str) -> System:
        """The system, loaded by the first who asks for it."""
        with self.lock:
            if name not in self.systems:
                self.systems[name] = self.load(name)
            return self.systems[name]

    # ---- pictures ----------------------------------------------------------------------------

    def scene(self, data: dict) -> dict:
        """A drawn scene that no training has shown; 'seed': which one."""
        seed = field(data, "seed", int)
        if not 0 <= seed <= MAX_SEED:
            raise BadInput(f"seed: {seed} is not from 0 to {MAX_SEED}")
        scene = make_scene(self.world, "heldout", seed, 0)
        kept = self.keep(Picture(scene.draw(), replace(scene, objects=()).draw()))
        asked = [e.prompt for e in examples(scene, random.Random(seed), TASKS)]
        return kept | {"caption": "A drawn scene: " + scene.caption(), "questions": asked}

    def upload(self, body: bytes) -> dict:
        """A user's picture; its background is its middle colour."""
        with self.lock:                    # one at a time is decoded: each may take 150 MB
            image = decode(io.BytesIO(body), "given")
            image.thumbnail((LONG_SIDE, LONG_SIDE))
            middle = tuple(ImageStat.Stat(image).median)
            kept = self.keep(Picture(image, Image.new("RGB", image.size, middle)))
        return kept | {"caption": "Your picture.", "questions": []}

    def keep(self, picture: Picture) -> dict:
        with self.lock:
            self.count += 1
            self.pictures[self.count] = picture
            file = io.BytesIO()
            picture.image.save(file, "PNG")
            return {"picture": self.count, "width": picture.image.width,
                    "height": picture.image.height,
                    "url": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()}

    # ---- questions ---------------------------------------------------------------------------

    def ask(self, data: dict) -> dict:
        """The answer of one system; 'hidden' are cells of the grid, 'by' says how."""
        reply = self.reply(data)[1]
        return {"answer": reply.answer, "boxes": reply.boxes, "prompt": reply.prompt,
                "asked": reply.prompt_boxes, "notes": reply.notes,
                "seconds": round(reply.seconds, 3)}

    def explain(self, data: dict) -> dict:
        """What stands behind the same answer."""
        with self.lock:
            system, reply = self.reply(data)
            return as_json(system.explain(reply), reply)

    @torch.no_grad()
    def reply(self, data: dict) -> tuple[System, Reply]:
        name, prompt, number = (field(data, key, kind) for key, kind in (
            ("system", str), ("prompt", str), ("picture", int)))
        hidden, by = frozenset(cells(field(data, "hidden", list, []))), field(data, "by", str, "pixels")
        if name not in SYSTEMS:
            raise BadInput(f"system: {name!r:.40} is none of {', '.join(SYSTEMS)}")
        if by not in ("pixels", "states"):
            raise BadInput(f"by: {by!r:.40} is neither pixels nor states")
        with self.lock:
            if number not in self.pictures:
                raise BadInput("picture: it is no longer kept; load it again")
            system, shown = self.system(name), (number, name, hidden, by if hidden else "")
            if shown not in self.features:
                self.features[shown] = self.encode(system, self.pictures[number], hidden, by)
            if (*shown, prompt) not in self.replies:
                self.replies[*shown, prompt] = system.ask(self.pictures[number].image, prompt,
                                                          self.features[shown])
            return system, self.replies[*shown, prompt]

    @staticmethod
    def encode(system: System, picture: Picture, hidden: frozenset[int], by: str) -> dict:
        """Features of a picture with some cells hidden: background in the place of their pixels, or
        the mean of the others in the place of their patches' states."""
        image, side = picture.image, system.parts.vision.settings.side
        if hidden and by == "pixels":
            mask = Image.new("L", (GRID, GRID))
            mask.putdata([255 * (i in hidden) for i in range(GRID * GRID)])
            image = Image.composite(picture.background, image,
                                    mask.resize(image.size, Image.Resampling.NEAREST))
        states = encode_images(system.parts.vision, [image])
        if hidden and by == "states":
            at = [int((i + 0.5) / side * GRID) for i in range(side)]       # the cell of its middle
            states = hide(states, [i for i in range(side * side)
                                   if at[i // side] * GRID + at[i % side] in hidden])
        return system.features(states, [image])


# ---- to and from JSON -----------------------------------------------------------------------------

def field(data: dict, name: str, kind: type, default=None):
    """A value of a request; BadInput where it is missing or of another type."""
    value = data.get(name, default)
    if type(value) is not kind:
        raise BadInput(f"{name}: {value!r:.40} is not of the type {kind.__name__}")
    return value


def cells(numbers: list) -> list[int]:
    if not all(type(n) is int and 0 <= n < GRID * GRID for n in numbers):
        raise BadInput(f"hidden: {numbers!r:.40} are not cells, numbers from 0 to {GRID * GRID - 1}")
    return numbers


def as_json(found: Explanation, reply: Reply) -> dict:
    """An explanation without tensors, and the points that RoIAlign reads for each box."""
    boxes = reply.prompt_boxes if found.bins else []
    return vars(found) | {
        "maps": [map_as_json(one) for one in found.maps],
        "points": [box_points(box, found.side, found.bins) for box in boxes],
        "before_boxes": BoxText().parse(found.before or ""),
        "detections": found.detections and [
            vars(d) | {"mask": None if d.mask is None else (d.mask > 0.5).int().tolist()}
            for d in found.detections]}


def map_as_json(one: AttentionMap) -> dict:
    """The weights as whole numbers, ten thousandths."""
    return {"part": one.part, "queries": one.queries, "start": one.start, "says": one.says(),
            "shape": list(one.weights.shape),
            "weights": (one.weights * 1e4).round().int().flatten().tolist()}
