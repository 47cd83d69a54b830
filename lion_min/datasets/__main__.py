"""Check an annotation file: `python -m lion_min.datasets check FILE`, see --help."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import Parser, command
from lion_min.datasets import FORMATS, read_samples
from lion_min.datasets.records import picture_size


def check(file: Path, form: str | None = None, images: Path | None = None) -> None:
    """Print every bad record, one a line, then raise BadInput; or print what the file holds."""
    if form is None and file.suffix != ".jsonl":
        raise BadInput(f"{file}: say which format it has: --format {'|'.join(FORMATS)}")
    bad, samples, seen = [], [], set()

    def tell(error: BadInput) -> None:
        bad.append(error)
        print(" ".join(str(error).split()))

    for sample in read_samples(file, form or "samples", images, tell):
        samples.append((sample.task, sample.split, len(sample.boxes)))
        if sample.image not in seen:
            seen.add(sample.image)
            try:
                picture_size(sample.image)
            except BadInput as error:
                tell(error)
    if bad:
        raise BadInput(f"{file}: {len(bad)} bad, {len(samples)} good; mend or remove the bad ones")
    print(f"{file}: {len(samples)} samples of {len(seen)} pictures, "
          f"{sum(boxes for *_, boxes in samples)} boxes")
    for (task, split), count in sorted(Counter(s[:2] for s in samples).items()):
        print(f"{count:8d}  {task}{split and ', ' + split}")


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.datasets", description="Check an annotation file.")
    p.add_argument("action", choices=("check",))
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--format", choices=FORMATS, help="default for .jsonl: samples, our own")
    p.add_argument("--images", type=Path, metavar="DIR", help="default: the folder of FILE")
    return command(p, lambda a: check(a.file, a.format, a.images), argv)


if __name__ == "__main__":
    raise SystemExit(main())
