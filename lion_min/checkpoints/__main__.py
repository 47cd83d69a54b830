"""Turn a published checkpoint into a folder of ours: `python -m lion_min.checkpoints import`."""

from __future__ import annotations

from pathlib import Path

from lion_min import BadInput, checkpoints
from lion_min.cli import LMEYE, PVIT, SYSTEMS, Parser, command


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.checkpoints",
               description="Turn a published checkpoint into a folder of ours.")
    p.add_argument("command", choices=("import",))
    p.add_argument("system", choices=SYSTEMS)
    p.add_argument("files", nargs="+", type=Path, metavar="FILE",
                   help="official file or Hugging Face folder; several are read as one")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--base", type=Path, metavar="FILE",
                   help="pvit: LLaMA-7B, to which PVIT's differences are added")
    p.add_argument("--legacy-overwrite", action="store_true",
                   help="lmeye: e_img := e_imgd, as every official loader does by mistake")
    p.add_argument("--set", nargs="+", default=[], metavar="NAME=N", dest="sizes",
                   help="what no shape tells, such as heads=40; default: the published values")
    return p


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 when done, 2 after one line for bad input."""
    return command(parser(), run, argv)


def run(args) -> None:
    from lion_min.published.importing import import_checkpoint
    checkpoints.check_writable(args.out)
    for line in import_checkpoint(args.system, args.files, args.out, **options_of(args)):
        print(line)


def options_of(args) -> dict:
    """--base, --legacy-overwrite and --set as keywords of the system's `convert`."""
    from lion_min.launch import published
    from lion_min.published.importing import read_file
    options, known = {}, published(args.system).OPTIONS
    for word in args.sizes:
        name, _, number = word.partition("=")
        if name not in known or not number.isdecimal():
            raise BadInput(f"--set {word}: {args.system} takes " + ", ".join(
                f"{k}={v}" for k, v in known.items()) + ", each a whole number")
        options[name] = int(number)
    for flag, value, system in (("--base", args.base, PVIT),
                                ("--legacy-overwrite", args.legacy_overwrite, LMEYE)):
        if value and args.system != system:
            raise BadInput(f"{flag}: belongs to {system}; leave it out for {args.system}")
    if args.base:
        options["base"] = read_file(args.base)
    return options | ({"legacy_overwrite": True} if args.legacy_overwrite else {})


if __name__ == "__main__":
    raise SystemExit(main())
