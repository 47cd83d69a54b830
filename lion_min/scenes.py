"""The embedded world: draws scenes and knows the truth about them (no download, no data set).

A scene is a few coloured shapes on a noisy background, a pure function of (world, split, seed,
index): training and held-out scenes never meet, whatever the seeds. Boxes are xyxy fractions of
the image. Some colour-kind pairs never occur in training, to score composing, not remembering.

    python -m lion_min.scenes OUT_DIR --count 3 --seed 99001      # PNG files and scenes.jsonl
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

from lion_min import BadInput

COLOURS = {"red": (214, 40, 40), "green": (40, 160, 60), "blue": (45, 80, 220),
           "yellow": (238, 208, 40), "purple": (138, 50, 170), "orange": (244, 132, 30),
           "cyan": (40, 200, 210), "pink": (250, 150, 190)}
KINDS = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart", "moon",
         "arrow")


@dataclass(frozen=True)
class World:
    """A named difficulty. Sizes are pixels of the drawn square image."""

    name: str
    image: int
    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    sizes: dict[str, tuple[int, int]] = field(hash=False)
    textures: tuple[str, ...] = ("plain",)
    objects: tuple[int, int] = (1, 4)

    def heldout_pairs(self) -> set[tuple[str, str]]:
        """(colour, kind) pairs that no training picture of any world shows: one per kind.

        The LLM has read of them, as a real one has; the encoder and the bridge never see one.
        """
        return {(tuple(COLOURS)[(i + 2) % 6], kind) for i, kind in enumerate(self.kinds)}


WORLDS = {world.name: world for world in (
    World("small", 64, KINDS[:6], tuple(COLOURS)[:6], {"small": (14, 16), "large": (20, 24)}),
    World("medium", 64, KINDS[:8], tuple(COLOURS), {"small": (13, 15), "large": (19, 23)},
          ("plain", "striped")),
    World("rich", 96, KINDS, tuple(COLOURS),
          {"small": (15, 18), "medium": (20, 24), "large": (27, 32)}, ("plain", "striped"), (1, 5)),
)}


@dataclass(frozen=True)
class Thing:
    """An object and its box, xyxy fractions of the image; a photograph's has a kind alone."""

    kind: str
    colour: str | None
    size: str | None
    texture: str | None
    box: tuple[float, float, float, float]

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    def words(self) -> str:
        """'small red circle', 'small red striped circle', or a photograph's 'traffic light'."""
        texture = None if self.texture == "plain" else self.texture
        return " ".join(filter(None, (self.size, self.colour, texture, self.kind)))


@dataclass(frozen=True)
class Scene:
    """The truth about one picture; `draw()` makes the picture. Objects in reading order."""

    world: World
    objects: tuple[Thing, ...]
    seed: str

    def caption(self) -> str:
        """'a small red circle, a large blue star and a large green ring.'"""
        return listed(["a " + thing.words() for thing in self.objects])

    def draw(self, scale: int = 1) -> Image.Image:
        """The picture, RGB, [image, image] pixels, deterministic; `scale` times as many a side, for
        people to look at: shapes with sharper edges on the same grain."""
        rng, size = random.Random("draw/" + self.seed), self.world.image
        canvas = _background(rng, size).resize([size * scale] * 2, Image.Resampling.NEAREST)
        for thing in self.objects:
            x1, y1, x2, y2 = (round(v * size) * scale for v in thing.box)
            mask = stencil(thing.kind, x2 - x1)
            colour = tuple(min(255, max(0, c + rng.randint(-18, 18)))
                           for c in COLOURS[thing.colour])
            canvas.paste(colour, (x1, y1), mask)
            if thing.texture == "striped":
                dark = tuple(c // 3 for c in colour)
                canvas.paste(dark, (x1, y1), ImageChops.multiply(mask, _stripes(x2 - x1, scale)))
        return canvas


def listed(names: list[str]) -> str:
    """'a star, a ring and a moon.'"""
    return (", ".join(names[:-1]) + " and " if names[1:] else "") + names[-1] + "."


def make_scene(world: World, split: str, seed: int, index: int, pairs: str = "train",
               most: int | None = None) -> Scene:
    """One scene. `pairs`: 'train' (no held-out colour-kind pair), 'heldout' (only those), 'any'.

    `most` caps the number of objects (a curriculum). Nothing overlaps; two objects often share
    words, so that naming one takes attributes or a relation, but never all of them.
    """
    key = f"{world.name}/{split}/{pairs}/{seed}/{index}"
    rng = random.Random(key)
    held = sorted(world.heldout_pairs())
    low, high = world.objects
    count = rng.randint(low, min(high, most or high))
    things: list[Thing] = []
    for _ in range(40 * count):
        if len(things) == count:
            break
        colour, kind = _colour_and_kind(rng, world, pairs, held, things)
        name = rng.choice(list(world.sizes))
        side = rng.randint(*world.sizes[name])
        x, y = rng.randint(0, world.image - side), rng.randint(0, world.image - side)
        box = tuple(v / world.image for v in (x, y, x + side, y + side))
        new = Thing(kind, colour, name, rng.choice(world.textures), box)
        if all(_apart(box, other.box, 1 / world.image) and new.words() != other.words()
               for other in things):
            things.append(new)
    things.sort(key=lambda t: (int(t.centre[1] * 8), int(t.centre[0] * 8)))
    return Scene(world, tuple(things), key)


def _colour_and_kind(rng, world, pairs, held, things):
    """A colour-kind pair the split allows, echoing an earlier object about every other time."""
    if pairs == "heldout":
        return rng.choice(held)
    while True:
        colour, kind = rng.choice(world.colours), rng.choice(world.kinds)
        if things and (echo := rng.random()) < 0.6:
            other = rng.choice(things)
            colour = other.colour if echo < 0.45 else colour
            kind = other.kind if echo < 0.3 or echo >= 0.45 else kind
        if pairs == "any" or (colour, kind) not in held:
            return colour, kind


def _apart(a, b, gap: float) -> bool:
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


# ---- drawing: sprites are cached stencils, so that a scene costs well under a millisecond ----

@lru_cache(maxsize=None)
def stencil(kind: str, side: int) -> Image.Image:
    """Antialiased mask [side, side] of a kind, touching all four sides of its box."""
    n = side * 8                                          # drawn 8 times larger, then reduced
    image = Image.new("L", (n, n))
    pen, h = ImageDraw.Draw(image), n / 2
    polygon = {
        "square": [(0, 0), (n, 0), (n, n), (0, n)],
        "triangle": [(h, 0), (n, n), (0, n)],
        "diamond": [(h, 0), (n, h), (h, n), (0, h)],
        "cross": [(n * a, n * b) for a, b in (
            (.33, 0), (.67, 0), (.67, .33), (1, .33), (1, .67), (.67, .67), (.67, 1), (.33, 1),
            (.33, .67), (0, .67), (0, .33), (.33, .33))],
        "arrow": [(n * a, n * b) for a, b in (
            (0, .3), (.5, .3), (.5, 0), (1, .5), (.5, 1), (.5, .7), (0, .7))],
        "star": _star(n),
    }
    if kind in polygon:
        pen.polygon(polygon[kind], fill=255)
    elif kind == "heart":
        pen.polygon([(0, n * .36), (n, n * .36), (h, n)], fill=255)
        pen.pieslice((0, 0, h * 1.02, n * .72), 180, 360, fill=255)
        pen.pieslice((h * .98, 0, n, n * .72), 180, 360, fill=255)
    else:
        pen.ellipse((0, 0, n - 1, n - 1), fill=255)
        if kind == "ring":
            pen.ellipse((n * .27, n * .27, n * .73, n * .73), fill=0)
        if kind == "moon":
            pen.ellipse((n * .4, -n * .1, n * 1.4, n * .9), fill=0)
            image = image.crop(image.getbbox())               # its horns end before the circle did
    return image.resize((side, side), Image.Resampling.BOX)


def _star(n: int) -> list[tuple[float, float]]:
    """Five-pointed star stretched to touch its box."""
    points = [(math.sin(k * math.pi / 5) * r, -math.cos(k * math.pi / 5) * r)
              for k in range(10) for r in ((1.0, 0.45)[k % 2],)]
    xs, ys = zip(*points)
    return [((x - min(xs)) / (max(xs) - min(xs)) * n, (y - min(ys)) / (max(ys) - min(ys)) * n)
            for x, y in points]


@lru_cache(maxsize=None)
def _stripes(side: int, scale: int) -> Image.Image:
    rows = bytes(255 * (row // scale % 4 in (1, 2)) for row in range(side))
    return Image.frombytes("L", (1, side), rows).resize((side, side), Image.Resampling.NEAREST)


@lru_cache(maxsize=None)
def _noise() -> Image.Image:
    """One seeded RGB noise tile; scenes cut their grain from random places of it."""
    return Image.frombytes("RGB", (256, 256), random.Random("noise").randbytes(256 * 256 * 3))


def _background(rng: random.Random, size: int) -> Image.Image:
    """Soft greyish gradient with grain."""
    grey = rng.randint(60, 210)
    corners = bytes(min(255, max(0, grey + rng.randint(-28, 28))) for _ in range(12))
    soft = Image.frombytes("RGB", (2, 2), corners).resize((size, size), Image.Resampling.BILINEAR)
    x, y = rng.randint(0, 256 - size), rng.randint(0, 256 - size)
    return Image.blend(soft, _noise().crop((x, y, x + size, y + size)), rng.uniform(0.02, 0.10))


def main(argv: list[str] | None = None) -> int:
    """Write COUNT held-out scenes as PNG files and their truth as scenes.jsonl."""
    from lion_min.cli import Parser, command, whole
    parser = Parser(prog="python -m lion_min.scenes", description=main.__doc__)
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--count", type=whole(1), default=8)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--world", choices=WORLDS, default="medium", help="default: medium")
    parser.add_argument("--pairs", choices=("train", "heldout"), default="train",
                        help="heldout: only colour-kind pairs that no training scene shows")
    return command(parser, lambda a: write_scenes(a.out, a.count, a.seed, a.world, a.pairs), argv)


def write_scenes(out: Path, count: int, seed: int, world: str = "medium",
                 pairs: str = "train") -> None:
    """PNG files scene_SEED_INDEX.png and scenes.jsonl, one JSON object a line.

    BadInput where the folder lists other scenes already.
    """
    side, listed_in = WORLDS[world].image, out / "scenes.jsonl"
    scenes = {f"scene_{seed}_{index:04d}.png": make_scene(WORLDS[world], "heldout", seed, index, pairs)
              for index in range(count)}
    text = "".join(json.dumps({"file": file, "width": side, "height": side, "objects": [
        asdict(thing) for thing in scene.objects], "caption": scene.caption()}) + "\n"
        for file, scene in scenes.items())
    if listed_in.exists() and listed_in.read_text(errors="replace") != text:
        raise BadInput(f"{listed_in}: lists other scenes; give another folder, or remove this one")
    out.mkdir(parents=True, exist_ok=True)
    for file, scene in scenes.items():
        scene.draw().save(out / file)
    listed_in.write_text(text)
    print(f"wrote {count} scenes and scenes.jsonl to {out}")


if __name__ == "__main__":
    raise SystemExit(main())
