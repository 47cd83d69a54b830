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
    bad = good = 0
    for file, name in files_of(data, form):
        annotations, count = check_file(file, name, images, headers)
        bad, good = bad + annotations.left_out.count, good + count
    if bad:
        raise BadInput(f"{data}: {bad} bad, {good} good; mend or remove the bad ones")


def check_file(file: Path, form: str, images: Path | None, headers: bool
               ) -> tuple[Annotations, int]:
    """(the annotations, the number of their samples), after printing what is bad, then numbers."""
    annotations = Annotations(file, form, images, lambda error: print(one_line(error)))
    samples = [(s.image, s.task, s.split, len(s.boxes)) for s in annotations]
    boxes = Counter(dict.fromkeys(annotations.pictures.annotated, 0))
    for path, _, _, count in samples:
        boxes[path] += count
    for path in progress(boxes, "pictures", len(boxes)):
        try:
            (picture_frame if headers else load_image)(path)
        except BadInput as error:
            annotations.left_out.add(BadRecord(str(error), UNREADABLE))
            print(one_line(error))
    print(f"{file} ({form}): {len(samples)} samples of {len(boxes)} pictures, "
          f"{boxes.total()} boxes")
    for name, count in numbers(annotations, boxes).items():
        print(f"{count:8d}  {name}")
    for (task, split), count in sorted(Counter(s[1:3] for s in samples).items()):
        print(f"{count:8d}  {task}{split and ', ' + split}")
    return annotations, len(samples)


def numbers(annotations: Annotations, boxes: Counter) -> dict[str, int]:
    """What a set's documentation counts: pictures, annotations, categories, what is left out.

    boxes: of every picture.
    """
    counts = dict(annotations.counts)
    if annotations.form == "coco":
        used = set().union(*annotations.pictures.annotated.values())
        counts |= {"categories": len(annotations.pictures.categories),
                   "categories with an annotation": len(used),
                   "pictures without an annotation": sum(
                       not kinds for kinds in annotations.pictures.annotated.values())}
    if boxes.total():
        most = max(boxes.values())
        counts |= {f"boxes in the fullest picture, {boxes.total() / len(boxes):.2f} in the mean": most}
    left_out = annotations.left_out
    return counts | {f"left out: {reason}": count
                     for reason, count in (left_out.by_rule + left_out.bad).most_common()}


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
