"""Photographs in the place of drawn scenes: pictures of a disk, asked in training, held out.

A `Photo` goes wherever a Scene goes: `draw()` gives the picture, `examples(rng, tasks)` its
questions. Those of COCO's objects are made here, as tasks.py makes them of drawn objects; other
formats bring their own. Every fifth picture (or what the data's own splits hold back) is never
trained on.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lion_min import BadInput
from lion_min.boxes import Box
from lion_min.datasets import SCENES, read_samples
from lion_min.images import load_image
from lion_min.datasets.records import Sample
from lion_min.tasks import BOX, MARGIN, OPPOSITE, SIDES, TEMPLATES, Example

COCO_FILES = ("instances.json", "annotations/instances_train2017.json")
FIFTH = 5                                  # every fifth picture is held out
TRAINING = ("", "train", "train2014", "train2017")   # the splits that may be trained on
SCORED = ("caption", "existence", "existence", "count", "relation", "rec")  # and every object: REG


@dataclass(frozen=True)
class Photo:
    """One picture file and what may be asked about it."""

    path: Path
    samples: tuple[Sample, ...]            # as the data set gives them
    objects: tuple[tuple[str, Box], ...] = ()   # (name, box) of COCO's objects
    names: tuple[str, ...] = ()            # the data set's kinds of objects

    def draw(self) -> Image.Image:
        """The picture as stored, RGB, upright, of any size."""
        return load_image(self.path)

    def examples(self, rng: random.Random, tasks: tuple[str, ...]) -> list[Example]:
        """One question a task; what cannot be asked here is replaced by a like one."""
        if self.objects:
            return [MAKERS.get(task, existence)(self, rng) for task in tasks]
        found = []
        for task in tasks:
            fitting = [s for s in self.samples if s.task == task] or self.samples
            sample = rng.choice(fitting)
            found.append(Example(sample.task, sample.prompt, sample.answer))
        return found

    def tags(self) -> list[str]:
        """The kinds that are here, in the order of `names`: what a tagger should say."""
        here = {name for name, _ in self.objects}
        return [name for name in self.names if name in here]

    def lone(self) -> list[tuple[str, Box]]:
        """The objects that are the only ones of their name."""
        every = [name for name, _ in self.objects]
        return [(name, box) for name, box in self.objects if every.count(name) == 1]


# ---- questions about COCO's objects --------------------------------------------------------------

def a(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _ask(rng: random.Random, task: str, answer: str, *slots: str) -> Example:
    return Example(task, rng.choice(TEMPLATES[task]).format(*slots), answer)


def caption(photo: Photo, rng: random.Random) -> Example:
    """The kinds that are here, the largest object first (instances have no captions)."""
    ordered = sorted(photo.objects, key=lambda o: -(o[1][2] - o[1][0]) * (o[1][3] - o[1][1]))
    names = [a(name) for name in dict.fromkeys(name for name, _ in ordered)]
    told = ", ".join(names[:-1]) + " and " if names[1:] else ""
    return _ask(rng, "caption", f"{told}{names[-1]}.")


def existence(photo: Photo, rng: random.Random) -> Example:
    """As often yes as no (POPE's random setting)."""
    here = sorted({name for name, _ in photo.objects})
    absent = [name for name in photo.names if name not in here]
    yes = not absent or rng.random() < 0.5
    return _ask(rng, "existence", "yes" if yes else "no", a(rng.choice(here if yes else absent)))


def count(photo: Photo, rng: random.Random) -> Example:
    every = [name for name, _ in photo.objects]
    name = rng.choice(sorted(set(every)))
    return Example("count", f"How many objects of the kind {name} are there?",
                   str(every.count(name)))


def relation(photo: Photo, rng: random.Random) -> Example:
    """True or false, about two lone objects that stand clearly apart; else an existence."""
    lone = photo.lone()
    pairs = [(p, q, side) for p in lone for q in lone if p is not q for side in SIDES
             if _apart(p[1], q[1], side)]
    if not pairs:
        return existence(photo, rng)
    (first, _), (second, _), side = rng.choice(pairs)
    true = rng.random() < 0.5
    return _ask(rng, "relation", "true" if true else "false", f"the {first}",
                side if true else OPPOSITE[side], f"the {second}")


def _apart(one: Box, other: Box, side: str) -> bool:
    axis, sign = SIDES[side]
    gap = (one[axis] + one[axis + 2] - other[axis] - other[axis + 2]) / 2
    return gap * sign > MARGIN


def reg(photo: Photo, rng: random.Random) -> Example:
    name, box = rng.choice(photo.objects)
    return _ask(rng, "reg", name, BOX.format(box))


def rec(photo: Photo, rng: random.Random) -> Example:
    """Where is the only one of its kind? Else what is in a box."""
    if not (lone := photo.lone()):
        return reg(photo, rng)
    name, box = rng.choice(lone)
    return _ask(rng, "rec", BOX.format(box), f"the {name}")


def instruction(photo: Photo, rng: random.Random) -> Example:
    """A question about one box or two, as PVIT's template strategies ask them."""
    (name, box), (other, second) = rng.choice(photo.objects), rng.choice(photo.objects)
    sides = [side for side in SIDES if _apart(box, second, side)]
    kind = rng.random()
    if kind < 0.6 or (kind < 0.8 and not sides):
        return reg(photo, rng)
    if kind < 0.8:
        true = rng.random() < 0.5
        side = rng.choice(sides)
        return Example("relation", f"Is {BOX.format(box)} {side if true else OPPOSITE[side]} "
                       f"{BOX.format(second)}?", "yes" if true else "no")
    return Example("existence", f"Does {BOX.format(box)} show {a(other)}?",
                   "yes" if name == other else "no")


MAKERS: dict[str, Callable[[Photo, random.Random], Example]] = {
    "caption": caption, "existence": existence, "count": count, "relation": relation,
    "reg": reg, "rec": rec, "rec_relational": rec, "instructions": instruction}


# ---- from the disk -------------------------------------------------------------------------------

def is_photos(data: Path) -> bool:
    """Whether --data names photographs: an annotation file, or a folder without drawn scenes."""
    return data.is_file() or not (data / SCENES).exists()


def read_photos(data: Path | str, form: str | None = None) -> list[Photo]:
    """Every picture of an annotation file or of a COCO folder, in the order of its first sample.

    form: one of datasets.FORMATS; None: COCO instances. BadInput names a bad record, or a folder
    that holds no annotations.
    """
    file = Path(data)
    if file.is_dir():
        found = [file / name for name in COCO_FILES if (file / name).is_file()]
        if not found:
            raise BadInput(f"data {str(data)!r}: holds none of {SCENES}, {', '.join(COCO_FILES)}; "
                           "give the annotation file itself and its --format")
        file = found[0]
    form = form or "coco"
    images = file.parent.parent if file.parent.name == "annotations" else None
    by_picture: dict[Path, list[Sample]] = defaultdict(list)
    for sample in read_samples(file, form, images):
        by_picture[sample.image].append(sample)
    coco = form == "coco"
    names = tuple(sorted({s.answer for own in by_picture.values() for s in own})) if coco else ()
    return [Photo(path, tuple(own), tuple((s.answer, s.boxes[0]) for s in own) if coco else (),
                  names) for path, own in by_picture.items()]


def split(photos: list[Photo]) -> tuple[list[Photo], list[Photo]]:
    """(to train on, held out): by the data's own splits where it has several, else every fifth."""
    known = {s.split for p in photos for s in p.samples}
    if known & set(TRAINING) and known - set(TRAINING):
        kept = [p for p in photos if all(s.split in TRAINING for s in p.samples)]
        return kept, [p for p in photos if all(s.split not in TRAINING for s in p.samples)]
    photos = sorted(photos, key=lambda p: p.path.name)
    held = photos[FIFTH - 1::FIFTH]
    if not held:
        raise BadInput(f"data: {len(photos)} pictures; at least {FIFTH} are needed, one in "
                       f"{FIFTH} of them is held out")
    return [p for i, p in enumerate(photos) if i % FIFTH != FIFTH - 1], held


def questions(photos: list[Photo], seed: int = 0) -> list[Sample]:
    """What held-out pictures are scored on: the data's own samples; with COCO's objects, each
    once as REG and the questions of SCORED beside them."""
    found = []
    for photo in photos:
        rng = random.Random(f"photos/{seed}/{photo.path.name}")
        made = photo.examples(rng, SCORED) if photo.objects else []
        found += photo.samples
        found += [Sample(photo.path, e.task, e.prompt, e.answer,
                         tuple(BOX.parse(e.prompt) + BOX.parse(e.answer)))
                  for e in made if e.task != "reg"]
    return found
