"""Photographs in the place of drawn scenes: pictures of a disk, asked in training, held out.

A `Photo` goes wherever a Scene goes: `draw()` gives the picture, `examples(rng, tasks)` its
questions. COCO's objects are asked about by the makers of tasks.py, as drawn objects are; other
formats bring their own questions. Every fifth picture (or what the data's own splits hold back)
is never trained on.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from lion_min import BadInput, tasks
from lion_min.cli import MAX_BAD
from lion_min.datasets import SCENES, Annotations, load
from lion_min.datasets.records import Sample
from lion_min.images import load_image
from lion_min.scenes import Thing, World, listed
from lion_min.tasks import BOX, OPPOSITE, SIDES, TEMPLATES, Example, a, printed, stands

FIFTH = 5                                  # every fifth picture is held out
TRAINING = ("", "train", "train2014", "train2017")   # the splits that may be trained on
SCORED = ("caption", "existence", "existence", "count", "relation", "rec")  # and every object: REG
# A task -> the makers to try in turn. Classes of objects have no colours, and no second name.
LAST = ("existence", "count", "caption")
TRIES = {"existence": LAST, "colour": LAST, "kind": LAST, "side": LAST, "talk": LAST,
         "count": ("count", "caption"), "relation": ("relation", *LAST), "rec": ("rec", "reg"),
         "rec_relational": ("rec", "reg"), "box_talk": ("reg",)}
ONLY_ONE = ("count", "relation", "rec")    # need to know every object of the kind that is named


@dataclass(frozen=True)
class Photo:
    """One picture file and what may be asked about it. One of COCO's may be without objects: it
    is asked what it does not show."""

    path: Path
    samples: tuple[Sample, ...]            # as the data set gives them
    objects: tuple[Thing, ...] = ()        # COCO's, of a kind and a box alone
    names: tuple[str, ...] = ()            # the data set's kinds of objects
    boxless: frozenset[str] = frozenset()  # kinds that are here as well without a box: crowds
    constant: frozenset[str] = frozenset()   # kinds that are in every picture of the data set

    @cached_property
    def world(self) -> World:
        """The words of the questions, for tasks.py: the data set's kinds alone."""
        return World("photographs", 0, self.names, (), {})

    def draw(self) -> Image.Image:
        """The picture as stored, RGB, upright, of any size."""
        return load_image(self.path)

    def caption(self) -> str:
        """The data set's own; of COCO's instances, which have none, the kinds that are here, the
        largest object first; else ''."""
        if told := [s.answer for s in self.samples if s.task == "caption"]:
            return told[0]
        ordered = sorted(self.objects, key=lambda o: -(o.box[2] - o.box[0]) * (o.box[3] - o.box[1]))
        kinds = dict.fromkeys(thing.kind for thing in ordered)
        return listed([a(name) for name in kinds]) if kinds else ""

    def examples(self, rng: random.Random, tasks: tuple[str, ...]) -> list[Example]:
        """One question a task; what cannot be asked here is replaced by a like one."""
        return [self._of_objects(rng, task) if self.names else self._of_samples(rng, task)
                for task in tasks]

    def _of_objects(self, rng: random.Random, task: str) -> Example:
        for name in (*TRIES.get(task, (task,)), "existence"):
            photo = self.counted if name in ONLY_ONE else self
            if (photo.objects or name == "existence") and (made := MAKERS[name](photo, rng)):
                return made
        raise AssertionError("a picture that cannot be asked about")  # photos_of has dropped it

    @cached_property
    def counted(self) -> Photo:
        """The photograph with the objects of those kinds alone that have all their boxes."""
        return self if not self.boxless else replace(self, objects=tuple(
            thing for thing in self.objects if thing.kind not in self.boxless))

    @cached_property
    def absent(self) -> list[str]:
        """The kinds that are surely not here, in the order of `names`."""
        here = {thing.kind for thing in self.objects} | self.boxless
        return [name for name in self.names if name not in here]

    def _of_samples(self, rng: random.Random, task: str) -> Example:
        s = rng.choice([s for s in self.samples if s.task == task] or self.samples)
        boxes = BOX.parse(s.prompt) + BOX.parse(s.answer)   # s.boxes has those of the turns, too
        return Example(s.task, s.prompt, s.answer, tuple(boxes), turns=s.turns)

    def tags(self) -> list[str]:
        """The kinds that are here, in the order of `names`: what a tagger should say."""
        kinds = {thing.kind for thing in self.objects} | self.boxless
        return [name for name in self.names if name in kinds]


def existence(photo: Photo, rng: random.Random) -> Example | None:
    """Half yes, half no; None where the coin asks for what cannot be asked of this picture.

    A kind that every picture holds is not asked about: the answer would always be yes.
    """
    shown = [thing.kind for thing in photo.objects if thing.kind not in photo.constant]
    yes = bool(photo.objects) and rng.random() < 0.5
    if not (kinds := shown if yes else photo.absent):
        return None
    text = rng.choice(TEMPLATES["existence"]).format(a(rng.choice(kinds)))
    return Example("existence", text, "yes" if yes else "no")


def instruction(photo: Photo, rng: random.Random) -> Example:
    """A question about one box or two, as PVIT's template strategies ask them."""
    first, second = rng.choice(photo.objects), rng.choice(photo.objects)
    sides = [side for side in SIDES if stands(first, side, second)]
    others = [name for name in photo.names if name != first.kind]
    sort = rng.random()
    if sort < 0.6 or (sort < 0.8 and not sides) or not others:
        return tasks.reg(photo, rng)
    (text, box), (other, other_box) = printed(first.box), printed(second.box)
    if sort < 0.8:
        true, side = rng.random() < 0.5, rng.choice(sides)
        return Example("relation", f"Is {text} {side if true else OPPOSITE[side]} {other}?",
                       "yes" if true else "no", (box, other_box))
    true = rng.random() < 0.5
    return Example("existence", f"Does {text} show {a(first.kind if true else rng.choice(others))}?",
                   "yes" if true else "no", (box,))


MAKERS = tasks.MAKERS | {"existence": existence, "instructions": instruction}


# ---- from the disk -------------------------------------------------------------------------------

def is_photos(data: Path, form: str | None = None) -> bool:
    """Whether --data names photographs: it has a format, or is no folder of drawn scenes."""
    return form is not None or not (data / SCENES).exists()


def read_photos(data: Path | str, form: str | None = None, images: Path | None = None,
                max_bad: float = MAX_BAD) -> list[Photo]:
    """Every picture of an annotation file or of a data set's folder, as datasets.load reads it.

    In the order of its first sample; pictures without objects stand last.
    """
    return photos_of(load(data, form, images, max_bad))


def photos_of(annotations: Annotations) -> list[Photo]:
    """The pictures of annotations that were loaded, each with its samples."""
    by_picture: dict[Path, list[Sample]] = defaultdict(list)
    for sample in annotations.samples:
        by_picture[sample.image].append(sample)
    if annotations.form != "coco":
        return [Photo(path, tuple(samples)) for path, samples in by_picture.items()]
    names = tuple(sorted({sample.answer for sample in annotations.samples}))
    annotated = annotations.pictures.annotated
    constant = frozenset(names).intersection(*annotated.values())
    photos = []
    for path in dict.fromkeys([*by_picture, *annotated]):
        samples = tuple(by_picture.get(path, ()))
        objects = tuple(map(_thing, samples))
        boxless = frozenset(annotations.pictures.boxless[path])
        photos.append(Photo(path, samples, objects, names, boxless, constant))
    return [photo for photo in photos if photo.objects or photo.absent]


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
        made = dict.fromkeys(photo.examples(rng, SCORED)) if photo.names else ()
        asked += photo.samples
        asked += [Sample(photo.path, e.task, e.prompt, e.answer, e.boxes)
                  for e in made if e.task != "reg"]
    return asked
