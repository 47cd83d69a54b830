"""Ask about a picture: `python infer.py IMAGE "PROMPT"`, see --help.

The answer goes to stdout, then each of its boxes in pixels; notes go to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import (SYSTEMS, Parser, command, note, part_flags, prepare, sources, tags_flag,
                          whole)
from lion_min.pretrained.presets import PRESETS


class List(argparse.Action):
    """--list: as --help, it needs no IMAGE and ends the command."""

    def __init__(self, option_strings, dest, **options):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser, *_):
        prepare()
        from lion_min.dialogue import what_can_be_asked
        print(what_can_be_asked())
        parser.exit()


def parser() -> Parser:
    p = Parser(prog="infer.py", description="Ask about a picture, or about a box in it.",
               formatter_class=argparse.RawDescriptionHelpFormatter, epilog="""examples:
  python infer.py scene.png "What is in the image?"
  python infer.py scene.png "describe box [12,8,30,26]" --save out.png   (pixels or fractions)
  python infer.py scene.png "Where is the red circle?" --show
  python infer.py scene.png                     (a dialogue; :help in it)""")
    p.add_argument("image", type=Path, metavar="IMAGE", help="PNG, JPEG, WEBP, BMP or GIF")
    p.add_argument("prompt", nargs="?", metavar="PROMPT",
                   help="boxes as [x1,y1,x2,y2], of the upright picture as seen; without a PROMPT, "
                        "questions are read line by line")
    p.add_argument("--list", action=List, help="print what can be asked, and end")
    p.add_argument("--system", choices=SYSTEMS, default="lion")
    p.add_argument("--preset", choices=PRESETS, help="default: that of the weights")
    p.add_argument("--weights", type=Path, metavar="DIR",
                   help="a run's folder, such as runs/lion/stage3; default: the bundled weights "
                        "of the system's last stage")
    part_flags(p.add_argument_group(
        "parts", "of a pretrained preset, where they are not what training took, or of an import"))
    tags_flag(p)
    p.add_argument("--save", type=Path, metavar="OUT.png", help="the picture with every box")
    p.add_argument("--show", nargs="?", type=Path, const=Path(), metavar="OUT",
                   help="a panel of where the answer looked; default: IMAGE's name + _show.png "
                        "in this folder")
    p.add_argument("--json", action="store_true", help="one JSON object instead of text")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--seed", type=whole(0), default=0, metavar="N",
                   help="for systems that sample; the tiny presets decode greedily")
    return p


def main(argv: list[str] | None = None) -> int:
    return command(parser(), infer, argv)


def infer(args: argparse.Namespace) -> None:
    """Everything that can be refused is refused before the model is loaded."""
    import torch
    from lion_min import images, launch
    from lion_min.boxes import parse_prompt
    outputs = check_outputs(args)
    image = images.load_image(args.image)
    if args.prompt is not None:
        parse_prompt(args.prompt, *image.size)
    torch.manual_seed(args.seed)
    tags = None
    if args.tags:
        from lion_min.datasets.tags import TagFile
        tags = TagFile(args.tags)
    system = launch.load(args.system, args.weights, args.device, args.preset, **sources(args))
    if tags:
        tags.give(system)
    if args.prompt is None:
        from lion_min.dialogue import Dialogue
        Dialogue(system, args.image, args.device, lambda *answered: tell(args, *answered)).run()
        return
    reply = system.ask(image, args.prompt)
    write_pictures(outputs, system, reply)
    tell(args, system, reply)


def tell(args: argparse.Namespace, system, reply) -> None:
    """Print the notes, then the answer."""
    for line in reply.notes:
        note(f"note: {line}")
    print(as_text(args, system, reply), flush=True)


def check_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Where --save and --show write; BadInput before any work where they cannot."""
    from lion_min.drawing import check_output
    if args.prompt is None and (args.save or args.show):
        raise BadInput("--save, --show: need a PROMPT; in a dialogue :save writes the panel")
    panel = args.show if args.show != Path() else Path(args.image.stem + "_show.png")
    outputs = {name: path for name, path in (("save", args.save), ("show", panel)) if path}
    for name, path in outputs.items():
        check_output(path)
        if path.exists() and args.image.exists() and path.samefile(args.image):
            raise BadInput(f"--{name} {str(path)!r}: is the picture itself; give another name")
    if len({os.path.realpath(path) for path in outputs.values()}) < len(outputs):
        raise BadInput(f"--save and --show are both {str(panel)!r}; give two names")
    return outputs


def write_pictures(outputs: dict[str, Path], system, reply) -> None:
    from lion_min import drawing, panel
    if "save" in outputs:
        drawing.save_image(drawing.draw_reply(reply), outputs["save"])
    if "show" in outputs:
        drawing.save_image(panel.draw_panel(system, reply), outputs["show"])


def as_text(args: argparse.Namespace, system, reply) -> str:
    """What stdout gets."""
    from lion_min.boxes import in_pixels
    if args.json:
        return json.dumps({"answer": reply.answer, "boxes": reply.boxes, "system": system.name,
                           "preset": system.parts.preset, "seconds": round(reply.seconds, 3)})
    pixels = [in_pixels(box, *reply.image.size) for box in reply.boxes]
    return "\n".join([reply.answer] + [f"[{','.join(map(str, box))}]" for box in pixels])


if __name__ == "__main__":
    raise SystemExit(main())
