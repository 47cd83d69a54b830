"""Image tags from outside, in the tag head's place: `--tags FILE`, one JSON object a line.

    {"image": "000000000009.jpg", "tags": ["bowl", "orange"], "scores": [0.97, 0.61]}

LION's own tagger is RAM, which transformers lacks: its users run it once over a data set and keep
what it says. A picture is found by its file's name, whatever its folder. `scores`, one a tag from
0 to 1, may be left out; with them, tags below THRESHOLD are dropped, as the tag head does.
"""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from lion_min import BadInput
from lion_min.cli import MAX_BAD, TITLES
from lion_min.datasets.records import Record, json_lines, show
from lion_min.left_out import BadRecord, LeftOut
from lion_min.system import System

THRESHOLD = 0.5
FIELDS = ("image", "tags", "scores")


class TagFile:
    """Calling it with a picture of images.load_image gives the picture's tags, in the file's order.

    Bad lines are left out and told; BadInput for more than the share max_bad of them, or no good one.
    """

    def __init__(self, file: Path, max_bad: float = MAX_BAD):
        self.file, self.tags = Path(file), {}
        left_out = LeftOut(file, "lines")
        for where, raw in json_lines(self.file):
            left_out.total += 1
            try:
                record = Record(raw, where)
                name, tags = _read(record)
                if name in self.tags:
                    raise record.bad(f"image {show(name)} stands twice", "repeated")
            except BadRecord as error:
                left_out.add(error)
            else:
                self.tags[name] = tags
        left_out.check(max_bad)
        left_out.tell()
        if not self.tags:
            raise BadInput(f"{file}: is empty; a line of it is "
                           '{"image": "cat.jpg", "tags": ["cat", "sofa"]}')

    def __call__(self, image: Image.Image) -> list[str]:
        return self.of(Path(image.filename))

    def give(self, system: System) -> None:
        """Its tags instead of the tag head's. BadInput where the system's stage reads no tags."""
        if not system.reads_tags:
            raise BadInput(f"--tags {self.file}: {TITLES[system.name]}'s stage {system.stage.number} "
                           "reads no tags, only LION's stage 4 and Lyrics around a pretrained preset "
                           "do; leave it out")
        system.tags_of = self

    def of(self, path: Path) -> list[str]:
        """The tags of a picture's file; BadRecord where no line is about it."""
        if path.name not in self.tags:
            raise BadRecord(f"{self.file}: no line is about the picture {path.name!r}; add one",
                            "without tags")
        return self.tags[path.name]

    def known(self, pictures: list, max_bad: float = MAX_BAD, path: str = "path") -> list:
        """Those of the photographs, scenes or samples whose pictures have tags; the others are told.
        path: the attribute that holds the picture's file. BadInput for too many others."""
        files = {getattr(picture, path) for picture in pictures}
        left_out = LeftOut(self.file, "pictures", len(files))
        for file in sorted(files):
            try:
                self.of(file)
            except BadRecord as error:
                left_out.add(error)
        left_out.check(max_bad)
        left_out.tell()
        return [picture for picture in pictures if getattr(picture, path).name in self.tags]


def _read(r: Record) -> tuple[str, list[str]]:
    """(name of the picture's file, its tags) of one line."""
    if unknown := sorted(set(r.fields) - set(FIELDS)):
        raise r.bad(f"unknown field {unknown[0][:40]!r}; there are {', '.join(FIELDS)}", "unknown field")
    tags = []
    for i, tag in enumerate(r.take("tags", list), 1):
        if not isinstance(tag, str) or re.search(r"[][,\n]", tag):   # the prompt lists them so
            raise r.bad(f"tag {i} is {show(tag)}; words without commas and brackets are needed",
                        "tag malformed")
        tags.append(r.checked(tag, f"tag {i}"))
    scores = r.take("scores", list) if "scores" in r.fields else [1.0] * len(tags)
    if len(scores) != len(tags) or not all(
            type(s) in (int, float) and 0 <= s <= 1 for s in scores):
        raise r.bad(f"scores is {show(scores)}; {len(tags)} numbers from 0 to 1 are needed, one a tag",
                    "scores malformed")
    return Path(r.text("image")).name, [t for t, s in zip(tags, scores) if s >= THRESHOLD]
