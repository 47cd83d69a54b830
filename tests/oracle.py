"""A system that knows each picture's scene and reads each question by itself."""

import re

import torch

from lion_min.boxes import BoxText, iou
from lion_min.scenes import WORLDS, Scene, make_scene
from lion_min.tasks import TEMPLATES, fits, stands

WORLD, COUNT, SEED = WORLDS["medium"], 60, 3
RELATION = re.compile(r"the (.+?)(?: (left of|right of|above|below) the (.+))?")


def understand(prompt: str) -> tuple[str, tuple[str, ...]]:
    """(task, what fills the template's places); the template that leaves least text free."""
    found = []
    for task, templates in TEMPLATES.items():
        for template in templates:
            pattern = re.escape(template)
            if task == "relation":
                pattern = pattern.replace(r"\{1\}", "(left of|right of|above|below)")
            match = re.fullmatch(re.sub(r"\\{\d\\}", "(.+)", pattern), prompt, re.IGNORECASE)
            found += [(task, tuple(g.lower() for g in match.groups()))] if match else []
    return min(found, key=lambda f: sum(map(len, f[1])))


def solve(scene: Scene, prompt: str) -> str:
    """The answer from the scene and the words alone."""
    task, words = understand(prompt)
    text = BoxText()

    def named(phrase: str) -> list:
        return [t for t in scene.objects if fits(phrase, t)] or list(scene.objects)
    if task == "caption":
        return scene.caption()
    if task == "existence":
        return "yes" if any(fits(words[0].split(" ", 1)[1], t) for t in scene.objects) else "no"
    if task == "count":
        one = words[0].removesuffix("es" if words[0].endswith("crosses") else "s")
        return str(sum(fits(one, t) for t in scene.objects))
    if task in ("colour", "kind"):
        return getattr(named(words[0])[0], task)
    if task == "relation":
        a, b = (named(phrase.removeprefix("the "))[0] for phrase in words[::2])
        return "true" if stands(a, words[1], b, 0) else "false"
    if task == "reg":
        best = max(scene.objects, key=lambda t: overlap(text.parse(words[0])[0], t.box))
        return "a " + best.words()
    what, side, other = RELATION.fullmatch(words[0]).groups()
    right = [t for t in named(what) if side is None or stands(t, side, named(other)[0], 0)]
    return text.format((right or named(what))[0].box)


def overlap(a, b) -> float:
    return float(iou(torch.tensor(a), torch.tensor(b)))


class Knowing:
    """Recognises each picture by its bytes and answers from its scene."""

    def __init__(self, answer=solve):
        scenes = [make_scene(WORLD, "heldout", SEED, i, pairs) for i in range(COUNT)
                  for pairs in ("train", "heldout")]
        self.known = {scene.draw().tobytes(): scene for scene in scenes}
        self.how = answer

    def encode(self, images):
        return [self.known[image.tobytes()] for image in images]

    @staticmethod
    def index(chunks, rows):
        flat = [scene for chunk in chunks for scene in chunk]
        return [flat[row] for row in rows]

    def answer(self, features, prompts):
        assert len(features) == len(prompts)
        return [self.how(scene, prompt) for scene, prompt in zip(features, prompts)]
