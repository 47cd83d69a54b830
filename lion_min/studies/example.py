"""The example picture, lion_min/example.png: a held-out scene that all four systems know well.

`python -m lion_min.studies.pictures --example` chooses it: the first clear scene about which the
bundled systems answer every one of `questions` rightly. The file says which scene it is, so that
its truth need not be stored; it stays as long as it fits the weights.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import count
from pathlib import Path

from PIL import Image, ImageStat, PngImagePlugin

from lion_min import BadInput
from lion_min.cli import SYSTEMS, note

EXAMPLE = Path(__file__).resolve().parents[1] / "example.png"


@cache
def opened(name: str, stage: int | None = None):
    """A bundled system, of its last stage or another one; each is loaded once."""
    from lion_min import launch
    return opened(name).open_stage(stage) if stage else launch.load(name, device="cpu")


def example_scene():
    """The truth about the example picture, by the key that the file holds."""
    from lion_min.scenes import WORLDS, make_scene
    with Image.open(EXAMPLE) as picture:
        key = picture.info.get("scene", "")
    try:
        world, split, pairs, seed, index = key.split("/")
        return make_scene(WORLDS[world], split, int(seed), int(index), pairs)
    except (ValueError, KeyError):
        raise BadInput(f"{EXAMPLE}: names no scene, but {key!r}; choose one with --example") from None


def names(scene) -> dict:
    """The shortest name that fits each object alone; objects without one are left out."""
    from lion_min.tasks import matching, phrases
    single = {thing: [p for p in phrases(thing) if matching(p, scene) == 1] for thing in scene.objects}
    return {thing: min(named, key=len) for thing, named in single.items() if named}


def questions(scene) -> list:
    """What all four systems must answer rightly: every object's box described and found again, and
    three draws of each other kind of question but captions."""
    from lion_min.tasks import MAKERS, TASKS, Example, printed
    rng, asked = random.Random(scene.seed), []
    for thing in scene.objects:
        said, text = "a " + thing.words(), printed(thing.box)[0]
        short = "[{:.2f},{:.2f},{:.2f},{:.2f}]".format(*thing.box)
        asked += [Example("reg", f"describe box {short}", said),
                  Example("reg", f"What is in {short}?", said)]
        asked += [Example("rec", f"Where is the {name}?", text)
                  for name in [names(scene).get(thing)] if name]
    asked += [MAKERS[task](scene, rng) for task in TASKS if task != "caption" for _ in range(3)]
    return [example for example in dict.fromkeys(asked) if example is not None]


def mistakes(image: Image.Image, asked: list) -> list[tuple[str, str, str]]:
    """(system, question, its answer) of every wrong answer."""
    from lion_min.scores import is_right
    wrong = []
    for name in SYSTEMS:
        system = opened(name)
        features = system.index([system.encode([image])], [0] * len(asked))
        answers = system.answer(features, [example.prompt for example in asked])
        wrong += [(name, e.prompt, said) for e, said in zip(asked, answers) if not is_right(said, e)]
    return wrong


def clear(scene) -> bool:
    """Four objects with names, of three colours or more, some striped, none near an edge, an other
    one, or a background of its own brightness."""
    from lion_min.scenes import COLOURS
    things, grey = scene.objects, ImageStat.Stat(scene.draw().convert("L")).median[0]
    if len(things) < 4 or len(names(scene)) < 4 or len({t.colour for t in things}) < 3:
        return False
    apart = all(max(b.box[0] - a.box[2], a.box[0] - b.box[2], b.box[1] - a.box[3],
                    a.box[1] - b.box[3]) > 0.03 for a in things for b in things if a is not b)
    bright = all(abs(sum(COLOURS[t.colour]) / 3 - grey) > 25 for t in things)
    inside = all(0.02 < v < 0.98 for t in things for v in t.box)
    twins = len({t.kind for t in things}) == 3 and {t.texture for t in things} == {"plain", "striped"}
    return apart and bright and inside and twins


def choose() -> None:
    """Write the first clear held-out scene without a mistake; the present one is tried first."""
    from lion_min.panel import DRAWN
    from lion_min.scenes import WORLDS, make_scene
    world = WORLDS["medium"]

    def candidates():
        if EXAMPLE.exists() and "scene" in Image.open(EXAMPLE).info:
            yield example_scene()
        yield from filter(clear, (make_scene(world, "heldout", 1, i) for i in count()))

    for scene in candidates():
        image = scene.draw(DRAWN // world.image)
        if not (wrong := mistakes(image, questions(scene))):
            break
        note(f"{scene.seed}: {len(wrong)} wrong, such as {wrong[0]}")
    about = PngImagePlugin.PngInfo()
    about.add_text("scene", scene.seed)
    image.save(EXAMPLE, pnginfo=about, optimize=True)
    print(f"wrote {EXAMPLE}: {scene.seed}, {scene.caption()}",
          *(f"{e.prompt}  ->  {e.answer}" for e in questions(scene)), sep="\n")
