"""Ask about a picture: `python infer.py IMAGE "PROMPT"`, see --help.

The answer goes to stdout, then each of its boxes in pixels; notes go to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import ROOMS, Parser, guarded, prepare, room, whole
from lion_min.pretrained.presets import PRESETS


def parser() -> Parser:
    p = Parser(prog="infer.py", description="Ask about a picture, or about a box in it.",
               formatter_class=argparse.RawDescriptionHelpFormatter, epilog="""examples:
  python infer.py scene.png "What is in the image?"
  python infer.py scene.png "describe box [12,8,30,26]" --save out.png   (pixels or fractions)
  python infer.py scene.png "Where is the red circle?" --show""")
    p.add_argument("image", type=Path, metavar="IMAGE", help="PNG, JPEG, WEBP, BMP or GIF")
    p.add_argument("prompt", metavar="PROMPT", help="boxes as [x1,y1,x2,y2]")
    p.add_argument("--system", choices=ROOMS, default="lion")
    p.add_argument("--preset", choices=PRESETS, help="default: that of the weights")
    p.add_argument("--weights", type=Path, metavar="DIR",
                   help="a run's folder, such as runs/lion/stage3; default: the bundled weights "
                        "of the system's last stage")
    p.add_argument("--vision", metavar="DIR",
                   help="the ViT of a pretrained preset, where it is not what training took")
    p.add_argument("--llm", metavar="DIR", help="its LLM, likewise")
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
    args = parser().parse_args(argv)
    prepare()
    return guarded(lambda: infer(args))


def infer(args: argparse.Namespace) -> None:
    """Everything that can be refused is refused before the model is loaded."""
    import torch
    from lion_min import asking, images, loading, training
    from lion_min.checkpoints import CONFIG, load_json
    outputs = check_outputs(args)
    image = images.load_image(args.image)
    prompt, boxes, notes = asking.read_prompt(args.prompt, image)
    torch.manual_seed(args.seed)
    system = loading.open_system(args.system, args.weights, training.device_of(args.device),
                                 args.preset, args.vision, args.llm)
    args.preset = args.preset or (load_json(args.weights / CONFIG)["preset"] if args.weights
                                  else "tiny")
    reply = asking.ask(system, image, prompt, boxes)
    write_pictures(args, outputs, system, image, reply)
    notes += asking.doubts(system.tokenizer, image, prompt)
    for note in dict.fromkeys(notes):
        print("note: " + " ".join(note.split()), file=sys.stderr)
    print(told(args, image, reply))


def check_outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Where --save and --show write; BadInput before any work where they cannot."""
    from lion_min.drawing import check_output
    panel = args.show if args.show != Path() else Path(args.image.stem + "_show.png")
    outputs = {name: path for name, path in (("save", args.save), ("show", panel)) if path}
    for name, path in outputs.items():
        check_output(path)
        if os.path.realpath(path) == os.path.realpath(args.image):
            raise BadInput(f"--{name} {str(path)!r}: is the picture itself; give another name")
    if len({os.path.realpath(path) for path in outputs.values()}) < len(outputs):
        raise BadInput(f"--save and --show are both {str(panel)!r}; give two names")
    return outputs


def write_pictures(args: argparse.Namespace, outputs: dict[str, Path], system, image,
                   reply) -> None:
    from lion_min import asking, drawing
    picture = asking.drawn_reply(image, reply) if outputs else None
    if "save" in outputs:
        drawing.save_image(picture, outputs["save"])
    if "show" in outputs:
        maps, bars = room(args.system, "explain").explain(system, reply)
        tiles = [(picture, reply.answer)] + [(drawing.heat_map(image, m), t) for t, m in maps]
        drawing.save_image(drawing.panel(tiles, bars), outputs["show"])


def told(args: argparse.Namespace, image, reply) -> str:
    """What stdout gets."""
    from lion_min.asking import in_pixels
    if args.json:
        return json.dumps({"answer": reply.answer, "boxes": reply.boxes, "system": args.system,
                           "preset": args.preset, "seconds": round(reply.seconds, 3)})
    pixels = [in_pixels(box, *image.size) for box in reply.boxes]
    return "\n".join([reply.answer] + [f"[{','.join(map(str, box))}]" for box in pixels])


if __name__ == "__main__":
    raise SystemExit(main())
