"""Check the annotations of a data set: `python -m lion_min.datasets check PATH`, see --help."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import Parser, command, progress
from lion_min.datasets import FORMATS, Annotations, files_of
from lion_min.datasets.records import picture_frame
from lion_min.images import load_image
from lion_min.left_out import UNREADABLE, BadRecord, one_line


def check(data: Path, form: str | None = None, images: Path | None = None,
          headers: bool = False) -> None:
    """Print every bad record and picture, one a line, and what the annotations hold in numbers.

    data: an annotation file, or a data set's folder: all of its annotation files are read.
    headers: read no more than the first bytes of each picture. BadInput if anything is bad.
    """
    files = files_of(data, form, lines="samples")
    checked = [check_file(file, name, images, headers) for file, name in files]
    bad, good = map(sum, zip(*checked))
    if bad:
        raise BadInput(f"{data}: {bad} bad, {good} good; mend or remove the bad ones")


def check_file(file: Path, form: str, images: Path | None, headers: bool) -> tuple[int, int]:
    """(how many are bad, how many samples there are), after printing the bad ones and numbers that
    a set's documentation has, too."""
    def tell(error: BadInput) -> None:
        print(one_line(error))

    annotations = Annotations(file, form, images, tell)
    samples = [(s.image, s.task, s.split, len(s.boxes)) for s in annotations]
    kinds, left_out = annotations.pictures.annotated, annotations.left_out
    boxes = Counter(dict.fromkeys([*kinds, *(path for path, *_ in samples)], 0))
    for path, *_, count in samples:
        boxes[path] += count
    for path in progress(boxes, "pictures", len(boxes)):
        try:
            (picture_frame if headers else load_image)(path)
        except BadInput as error:
            left_out.add(BadRecord(str(error), UNREADABLE))
            tell(error)
    numbers = dict(annotations.counts)
    if form == "coco":
        numbers |= {"categories": len(annotations.pictures.categories),
                    "categories with an annotation": len(set().union(*kinds.values())),
                    "pictures without an annotation": [*kinds.values()].count(set()),
                    "crowds": left_out.by_rule["crowd"]}
    if boxes.total():
        mean = boxes.total() / len(boxes)
        numbers[f"boxes in the fullest picture, {mean:.2f} in the mean"] = max(boxes.values())
    for reason, count in (left_out.by_rule + left_out.bad).most_common():
        numbers[f"left out: {reason}"] = count
    for (task, split), count in sorted(Counter(sample[1:3] for sample in samples).items()):
        numbers[f"{task}, {split}" if split else task] = count
    print(f"{file} ({form}): {len(samples)} samples of {len(boxes)} pictures, {boxes.total()} boxes")
    for name, count in numbers.items():
        print(f"{count:8d}  {name}")
    return left_out.count, len(samples)


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.datasets", description="Check the annotations of a data set.")
    p.add_argument("action", choices=("check",))
    p.add_argument("data", type=Path, metavar="PATH", help="an annotation file, or a data set's folder")
    p.add_argument("--format", choices=FORMATS, help="default: by the file's name")
    p.add_argument("--images", type=Path, metavar="DIR",
                   help="default: the folder of the annotations, and the usual ones inside it")
    p.add_argument("--headers", action="store_true",
                   help="a quick look: only the first bytes of each picture are read")
    return command(p, lambda a: check(a.data, a.format, a.images, a.headers), argv)


if __name__ == "__main__":
    raise SystemExit(main())
