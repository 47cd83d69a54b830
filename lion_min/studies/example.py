"""The example picture, lion_min/example.png: a held-out scene that all four systems know well.

`python -m lion_min.studies.pictures --example` chooses it: the first clear scene about which the
bundled systems answer every one of `questions` rightly. The file says which scene it is, so that
its truth need not be stored; it stays as long as it fits the weights.
"""

from __future__ import annotations

import random
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from PIL import Image, ImageStat, PngImagePlugin

from lion_min import BadInput, launch
from lion_min.cli import SYSTEMS, note
from lion_min.panel import DRAWN
from lion_min.scenes import COLOURS, WORLDS, Scene, Thing, make_scene
from lion_min.scores import is_right
from lion_min.system import System
from lion_min.tasks import MAKERS, TASKS, Example, matching, phrases, printed

EXAMPLE = Path(__file__).resolve().parents[1] / "example.png"
WORLD, SEED, SCENES = WORLDS["medium"], 1, 20_000     # the scenes that it is chosen from


@cache
def opened(name: str, stage: int | None = None) -> System:
    """A bundled system, of its last stage or another one; each is loaded once."""
    return opened(name).open_stage(stage) if stage else launch.load(name, device="cpu")


def example_scene() -> Scene:
    """The truth about the example picture, by the key that the file holds."""
    with Image.open(EXAMPLE) as picture:
        key = picture.info.get("scene", "")
    try:
        world, split, pairs, seed, index = key.split("/")
        return make_scene(WORLDS[world], split, int(seed), int(index), pairs)
    except (ValueError, KeyError):
        raise BadInput(f"{EXAMPLE}: names no scene, but {key!r:.40}; choose one: python -m "
                       "lion_min.studies.pictures --example") from None


def names(scene: Scene) -> dict[Thing, str]:
    """The shortest name that fits each object alone; objects without one are left out."""
    own = {thing: [p for p in phrases(thing) if matching(p, scene) == 1] for thing in scene.objects}
    return {thing: min(named, key=len) for thing, named in own.items() if named}


def questions(scene: Scene) -> list[Example]:
    """What all four systems must answer rightly: every object's box described and found again, and
    three draws of each kind of question but captions."""
    rng, asked = random.Random(scene.seed), []
    for thing in scene.objects:
        short = "[{:.2f},{:.2f},{:.2f},{:.2f}]".format(*thing.box)
        asked += [Example("reg", prompt.format(short), "a " + thing.words())
                  for prompt in ("describe box {}", "What is in {}?")]
    asked += [Example("rec", f"Where is the {name}?", printed(thing.box)[0])
              for thing, name in names(scene).items()]
    asked += [MAKERS[task](scene, rng) for task in TASKS if task != "caption" for _ in range(3)]
    return [example for example in dict.fromkeys(asked) if example is not None]


def mistakes(image: Image.Image, asked: list[Example]) -> list[tuple[str, str, str]]:
    """(system, question, its answer) of every wrong answer."""
    wrong = []
    for name in SYSTEMS:
        system = opened(name)
        features = system.index([system.encode([image])], [0] * len(asked))
        answers = system.answer(features, [example.prompt for example in asked])
        wrong += [(name, example.prompt, said) for example, said in zip(asked, answers)
                  if not is_right(said, example)]
    return wrong


def clear(scene: Scene) -> bool:
    """Four objects that have names, of three kinds and colours or more, some of them striped; none
    near an edge or another one, or as bright as the background."""
    things = scene.objects
    if len(names(scene)) < 4 or len({t.colour for t in things}) < 3:
        return False
    grey = ImageStat.Stat(scene.draw().convert("L")).median[0]
    gaps = [max(b.box[0] - a.box[2], a.box[0] - b.box[2], b.box[1] - a.box[3], a.box[1] - b.box[3])
            for i, a in enumerate(things) for b in things[:i]]
    return (min(gaps) > 0.03 and all(0.02 < v < 0.98 for t in things for v in t.box)
            and all(abs(sum(COLOURS[t.colour]) / 3 - grey) > 25 for t in things)
            and len({t.kind for t in things}) == 3 and len({t.texture for t in things}) == 2)


def choose() -> None:
    """Write the first clear held-out scene without a mistake; the present one is tried first.
    BadInput where there is none."""
    present = []
    with suppress(BadInput, FileNotFoundError):
        present.append(example_scene())
    drawn = (make_scene(WORLD, "heldout", SEED, i) for i in range(SCENES))
    for scene in chain(present, filter(clear, drawn)):
        image = scene.draw(DRAWN // WORLD.image)
        if not (wrong := mistakes(image, questions(scene))):
            break
        note(f"{scene.seed}: {len(wrong)} wrong, such as {wrong[0]}")
    else:
        raise BadInput(f"{EXAMPLE}: no scene of {SCENES} fits the bundled weights; train them "
                       "further")
    about = PngImagePlugin.PngInfo()
    about.add_text("scene", scene.seed)
    image.save(EXAMPLE, pnginfo=about, optimize=True)
    print(f"wrote {EXAMPLE}: {scene.seed}, {scene.caption()}",
          *(f"{e.prompt}  ->  {e.answer}" for e in questions(scene)), sep="\n")
