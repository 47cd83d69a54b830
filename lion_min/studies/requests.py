"""Do the requests attend to what the question names? Their attention inside that object's box.

    python -m lion_min.studies.requests --count 500 --seed 7

asked: the share in the box of the object that the question names; other: in the same box, while
another object of the scene is asked for; area: what a flat map has. +half: the box grown by half
a patch. S questions, two a scene, side by side; N = side * side patches.
"""

import math
import random
import re
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from lion_min import BadInput
from lion_min.cli import LMEYE, Parser, command, whole
from lion_min import launch
from lion_min.lmeye.prompt import make_inputs
from lion_min.scenes import WORLDS, Scene, Thing, make_scene
from lion_min.tasks import BOX, MAKERS, fits

TASKS = ("rec", "colour", "kind", "reg")   # their questions name one object
COLUMNS = ("asked", "other", "area", "asked+half", "other+half", "area+half")


def named(scene: Scene, prompt: str) -> Thing:
    """The object whose box stands in a question, else the one that all its words are true of."""
    traits = {w for t in scene.objects for w in (t.colour, t.kind, t.size, t.texture)}
    words = " ".join(w for w in re.findall("[a-z]+", prompt.lower()) if w in traits)
    boxed = [t for t in scene.objects if BOX.format(t.box) in prompt]
    return (boxed or [t for t in scene.objects if fits(words, t)])[0]


def two_questions(scene: Scene, task: str, rng: random.Random) -> list[tuple[Thing, str]]:
    """[(object, question that names it)] of two objects; [] where the task finds no two."""
    prompts = [example.prompt for _ in range(20) if (example := MAKERS[task](scene, rng))]
    questions = {named(scene, prompt): prompt for prompt in prompts}
    return list(questions.items())[:2] if len(questions) > 1 else []


def covered(boxes: Tensor, side: int, margin: float = 0.0) -> Tensor:
    """How much of each patch a box [S, 4], grown by `margin` of the picture, covers: [S, N]."""
    x1, y1, x2, y2 = (boxes + margin * torch.tensor([-1, -1, 1, 1])).T[..., None]
    edge = torch.arange(side + 1) / side
    columns, rows = ((high.minimum(edge[1:]) - low.maximum(edge[:-1])).clamp(min=0) * side
                     for low, high in ((x1, x2), (y1, y2)))               # each [S, side]
    return (rows[:, :, None] * columns[:, None]).flatten(1)


def shares(system, features: dict, questions: list[tuple[Thing, str]]) -> Tensor:
    """COLUMNS of S questions, two for each image of `features`: [S, 6]."""
    x = make_inputs(system.model, system.tokenizer, features["states"], [q for _, q in questions])
    maps = system.model.attention_maps(x).mean(1)                         # [S, N], all requests
    swapped = maps.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)            # the other question's
    boxes, side = torch.tensor([thing.box for thing, _ in questions]), math.isqrt(maps.shape[1])
    parts = (covered(boxes, side, margin) for margin in (0, 0.5 / side))
    return torch.stack([column for part in parts for column in (
        (maps * part).sum(1), (swapped * part).sum(1), part.mean(1))], 1)


def measure(system, scenes: list[Scene], seed: int) -> dict[str, dict[str, float]]:
    """{task, and 'all' questions: {column: mean, 'questions': how many}}."""
    rows: dict[str, list[Tensor]] = {task: [] for task in (*TASKS, "all")}
    for i, scene in enumerate(scenes):
        features = system.encode([scene.draw()])
        for task in TASKS:
            if questions := two_questions(scene, task, random.Random(f"looks/{seed}/{task}/{i}")):
                rows[task].append(shares(system, features, questions))
                rows["all"].append(rows[task][-1])
    return {task: dict(zip(COLUMNS, torch.cat(r).mean(0).tolist())) | {"questions": 2 * len(r)}
            for task, r in rows.items() if r}


def run(count: int, seed: int, weights: Path | None) -> dict[str, dict[str, float]]:
    """Measure a trained system on `count` held-out scenes, print the table, return it."""
    world = WORLDS[launch.read_config(LMEYE, weights)["world"]]
    system = launch.load(LMEYE, weights)
    if not system.stage.requests or system.model.settings.control == "static":
        raise BadInput(f"weights {str(weights)!r}: asks nothing; give a stage 2 that does")
    scenes = (make_scene(world, "heldout", seed, i) for i in range(100 * count))
    several = (scene for scene in scenes if len(scene.objects) > 1)
    result = measure(system, list(islice(several, count)), seed)
    print(f"{'task':<6}" + "".join(f"{name:>12}" for name in (*COLUMNS, "questions")))
    for task, row in result.items():
        print(f"{task:<6}" + "".join(f"{row[k]:>12.3f}" for k in COLUMNS) + f"{row['questions']:>12}")
    return result


if __name__ == "__main__":
    p = Parser(prog="python -m lion_min.studies.requests", description=__doc__.splitlines()[0])
    p.add_argument("--count", type=whole(1), default=500, help="scenes of two objects or more")
    p.add_argument("--seed", type=whole(0), default=7)
    p.add_argument("--weights", type=Path, metavar="DIR", help="default: the bundled stage 2")
    raise SystemExit(command(p, lambda a: run(a.count, a.seed, a.weights)))
