"""Questions one after another about one picture: `python infer.py IMAGE` without a prompt.

On a terminal with a prompt sign and a history of lines; with piped input each line is a question,
and nothing but the answers goes to stdout. A mistake costs its line alone.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lion_min import BadInput, drawing, launch, panel
from lion_min.cli import note
from lion_min.images import load_image
from lion_min.scenes import WORLDS, World, make_scene
from lion_min.system import Reply, System
from lion_min.tasks import MAKERS, TEMPLATES, Example

HELP = """A line is a question about the picture; a box in it is [x1,y1,x2,y2], fractions or pixels.
  :system NAME   go on with another system: {systems}
  :image PATH    go on with another picture
  :save FILE     write the panel of the last answer: its boxes, where the model looked
  :list          what can be asked
  :help          this text
  :quit          end, as Ctrl-D does"""


class Dialogue:
    """A picture, a system, and every system that was loaded so far."""

    def __init__(self, system: System, path: Path, device: str,
                 tell: Callable[[System, Reply], None]):
        """path: of the picture. device: of the systems loaded later. tell: prints an answer."""
        self.system, self.device, self.tell = system, device, tell
        self.loaded = {system.name: system}
        self.pictures: set[str] = set()                   # files that :save must not replace
        self.reply: Reply | None = None                   # the last answer, and whose it is
        self.answered_by = system
        self.use_image(path)

    def run(self) -> None:
        """Answer every line of stdin until it ends or says :quit."""
        for line in self.lines():
            if line.split() == [":quit"]:
                return
            try:
                self.take(line)
            except BadInput as error:
                note(f"error: {error}")

    def lines(self) -> Iterator[str]:
        """The lines of stdin without spaces around them; empty ones are left out."""
        if sys.stdin.isatty():
            lines = self.typed()
        else:
            if hasattr(sys.stdin, "reconfigure"):         # a bad byte costs its line alone
                sys.stdin.reconfigure(errors="surrogateescape")
            lines = sys.stdin
        yield from filter(None, map(str.strip, lines))

    def typed(self) -> Iterator[str]:
        """Lines from a terminal; the arrow keys bring earlier ones back where readline is."""
        try:
            import readline  # noqa: F401 (input() uses it)
        except ImportError:                               # Windows
            pass
        print("A question, or :help", file=sys.stderr)
        while True:
            try:
                yield input(f"{self.system.name}> " if sys.stdout.isatty() else "")
            except EOFError:
                print(file=sys.stderr)
                return

    def take(self, line: str) -> None:
        """Answer a question or do what a line with a colon says; BadInput for neither."""
        if not line.startswith(":"):
            self.reply, self.answered_by = self.system.ask(self.image, line), self.system
            self.tell(self.system, self.reply)
            return
        word, _, rest = line.partition(" ")
        commands = {":system": self.use_system, ":image": self.use_image, ":save": self.save,
                    ":list": lambda _: print(what_can_be_asked(), flush=True),
                    ":help": lambda _: print(HELP.format(systems=", ".join(launch.SYSTEMS)),
                                             flush=True)}
        if word not in commands:
            raise BadInput(f"{word:.40}: no such command; :help lists them")
        commands[word](rest.strip())

    def use_system(self, name: str) -> None:
        """Go on with the bundled system of this name, or one loaded before."""
        if name not in self.loaded:
            self.loaded[name] = launch.load(name, None, self.device)
        self.system = self.loaded[name]

    def use_image(self, path: Path | str) -> None:
        """Go on with another picture."""
        self.image = load_image(Path(path))
        self.pictures.add(os.path.realpath(path))

    def save(self, path: str) -> None:
        """Write the panel of the last answer."""
        if self.reply is None:
            raise BadInput(":save: there is no answer yet; ask something first")
        drawing.check_output(path)
        if os.path.realpath(path) in self.pictures:
            raise BadInput(f":save {path!r}: is the picture itself; give another name")
        drawing.save_image(panel.draw_panel(self.answered_by, self.reply), path)
        note(f"wrote {path}")


# ---- what can be asked ---------------------------------------------------------------------------

def what_can_be_asked() -> str:
    """Every form of question with an example, and the words of the bundled systems' world."""
    world = WORLDS[launch.read_config(launch.SYSTEMS[0])["world"]]
    lines = ["Questions; _ is an object, such as `the red circle`, or a box [x1,y1,x2,y2]"]
    for task, templates in TEMPLATES.items():
        shown = example(world, task)
        lines += [f"{task}, such as: {shown.prompt} -> {shown.answer}"]
        lines += ["  " + template.format(*"____") for template in templates]
    words = {"kinds": world.kinds, "colours": world.colours, "sizes": world.sizes,
             "textures": world.textures}
    return "\n".join(lines + [f"{name}: {', '.join(known)}" for name, known in words.items()])


def example(world: World, task: str) -> Example:
    """The first held-out scene's that poses the task."""
    scenes = (make_scene(world, "heldout", 0, i) for i in range(1000))
    return next(made for scene in scenes if (made := MAKERS[task](scene, random.Random(0))))
