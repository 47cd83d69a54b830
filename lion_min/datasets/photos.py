"""Photographs in the place of drawn scenes: pictures of a disk, asked in training, held out.

A `Photo` goes wherever a Scene goes: `draw()` gives the picture, `examples(rng, tasks)` its
questions. COCO's objects are asked about by the makers of tasks.py, as drawn objects are; other
formats bring their own questions. Every fifth picture (or what the data's own splits hold back)
is never trained on.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from lion_min import BadInput, tasks
from lion_min.datasets import SCENES, read_samples
from lion_min.datasets.records import Sample
from lion_min.images import load_image
from lion_min.scenes import Thing, World, listed
from lion_min.tasks import BOX, OPPOSITE, SIDES, Example, a, printed, stands

COCO_FILES = ("instances.json", "annotations/instances_train2017.json")
FIFTH = 5                                  # every fifth picture is held out
TRAINING = ("", "train", "train2014", "train2017")   # the splits that may be trained on
SCORED = ("caption", "existence", "existence", "count", "relation", "rec")  # and every object: REG
# A task -> the makers to try in turn. Classes of objects have no colours, and no second name.
TRIES = {"colour": ("existence",), "kind": ("existence",), "side": ("existence",),
         "relation": ("relation", "existence"), "rec": ("rec", "reg"),
         "rec_relational": ("rec", "reg"), "talk": ("existence",), "box_talk": ("reg",)}


@dataclass(frozen=True)
class Photo:
    """One picture file and what may be asked about it."""

    path: Path
    samples: tuple[Sample, ...]            # as the data set gives them
    objects: tuple[Thing, ...] = ()        # COCO's, of a kind and a box alone
    names: tuple[str, ...] = ()            # the data set's kinds of objects

    @cached_property
    def world(self) -> World:
        """The words of the questions, for tasks.py: the data set's kinds alone."""
        return World("photographs", 0, self.names, (), {})

    def draw(self) -> Image.Image:
        """The picture as stored, RGB, upright, of any size."""
        return load_image(self.path)

    def caption(self) -> str:
        """The kinds that are here, the largest object first (instances have no captions)."""
        ordered = sorted(self.objects, key=lambda o: -(o.box[2] - o.box[0]) * (o.box[3] - o.box[1]))
        return listed([a(name) for name in dict.fromkeys(thing.kind for thing in ordered)])

    def examples(self, rng: random.Random, tasks: tuple[str, ...]) -> list[Example]:
        """One question a task; what cannot be asked here is replaced by a like one."""
        return [self._of_objects(rng, task) if self.objects else self._of_samples(rng, task)
                for task in tasks]

    def _of_objects(self, rng: random.Random, task: str) -> Example:
        made = (MAKERS[name](self, rng) for name in TRIES.get(task, (task,)))
        return next(example for example in made if example is not None)

    def _of_samples(self, rng: random.Random, task: str) -> Example:
        s = rng.choice([s for s in self.samples if s.task == task] or self.samples)
        boxes = BOX.parse(s.prompt) + BOX.parse(s.answer)   # s.boxes has those of the turns, too
        return Example(s.task, s.prompt, s.answer, tuple(boxes))

    def tags(self) -> list[str]:
        """The kinds that are here, in the order of `names`: what a tagger should say."""
        kinds = {thing.kind for thing in self.objects}
        return [name for name in self.names if name in kinds]


def instruction(photo: Photo, rng: random.Random) -> Example:
    """A question about one box or two, as PVIT's template strategies ask them."""
    first, second = rng.choice(photo.objects), rng.choice(photo.objects)
    sides = [side for side in SIDES if stands(first, side, second)]
    sort = rng.random()
    if sort < 0.6 or (sort < 0.8 and not sides):
        return tasks.reg(photo, rng)
    (text, box), (other, other_box) = printed(first.box), printed(second.box)
    if sort < 0.8:
        true, side = rng.random() < 0.5, rng.choice(sides)
        return Example("relation", f"Is {text} {side if true else OPPOSITE[side]} {other}?",
                       "yes" if true else "no", (box, other_box))
    return Example("existence", f"Does {text} show {a(second.kind)}?",
                   "yes" if first.kind == second.kind else "no", (box,))


MAKERS = tasks.MAKERS | {"instructions": instruction}


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
    if form != "coco":
        return [Photo(path, tuple(samples)) for path, samples in by_picture.items()]
    names = tuple(sorted({s.answer for samples in by_picture.values() for s in samples}))
    return [Photo(path, tuple(samples), tuple(map(_thing, samples)), names)
            for path, samples in by_picture.items()]


def _thing(sample: Sample) -> Thing:
    """The object that a REG sample of COCO is about."""
    return Thing(sample.answer, None, None, None, sample.boxes[0])


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
    asked = []
    for photo in photos:
        rng = random.Random(f"photos/{seed}/{photo.path.name}")
        made = photo.examples(rng, SCORED) if photo.objects else []
        asked += photo.samples
        asked += [Sample(photo.path, e.task, e.prompt, e.answer, e.boxes)
                  for e in made if e.task != "reg"]
    return asked
