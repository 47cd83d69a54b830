"""infer.py without a prompt: a dialogue about pictures that no mistake ends; and infer.py --list."""

import builtins
import io
import json
import sys
from pathlib import Path

import pytest
from commands import ASK, SCENE, call, ready, refused, runs, system  # noqa: F401 (fixtures)

import infer
from lion_min.explanation import Explanation
from lion_min import BadInput, dialogue, launch
from lion_min.scenes import WORLDS
from lion_min.tasks import MAKERS, TEMPLATES


@pytest.fixture
def said(ready, capsys, monkeypatch):
    """said(lines, *flags) -> (code, stdout, stderr) of a dialogue with these lines piped in."""
    def talk(lines: str, *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode(
            errors="surrogateescape")), encoding="utf-8"))
        return call(infer.main, capsys, "scene.png", *flags)
    return talk


@pytest.mark.parametrize("line, told", [
    ("describe box", "needs a box"), ("describe box [9,9,1,1]", "reversed"),
    (":what", "no such command"), (":system clip", "there is lion"), (":image lost.png", "lost.png"),
    (":image", "not a file"), (":save o.png", "no answer yet"), ("\udcff", "UTF-8")])
def test_a_mistake_costs_its_line_alone(said, monkeypatch, line, told):
    """Guards: a dialogue that a typing error ends, a prompt sign among piped answers."""
    system = launch.load()

    def load(name, *_):
        if name != "lion":
            raise BadInput(f"system {name!r}: there is lion")
        return system

    monkeypatch.setattr(launch, "load", load)
    code, out, err = said(f"{line}\n\n  {ASK} \r\n", "--json")
    assert code == 0 and out.count("\n") == 1 and json.loads(out)["system"] == "lion"
    assert err.startswith("error: ") and told in err and err.count("\n") == 1


def test_commands_of_the_dialogue(said, monkeypatch):
    """Guards: a system loaded anew at each switch, a panel of the wrong system, a picture
    replaced by its panel, lines read on after :quit."""
    lion, loaded = launch.load(), []

    class Other:
        name, parts = "pvit", lion.parts

        def ask(self, image, prompt):
            assert image.size == (90, 60)
            return lion.ask(image, prompt)

        def explain(self, reply):
            return Explanation(8, [], [])

    pvit = Other()
    monkeypatch.setattr(launch, "load", lambda name, *_: loaded.append(name) or {
        "lion": lion, "pvit": pvit}[name])
    SCENE.resize((90, 60)).save("wide.png")
    lines = [":help", ":image wide.png", ":system pvit", ASK, ":system lion", ":save panel.png", ASK,
             ":system pvit", ASK, ":save wide.png", ":list", ":quit", ASK]
    before = Path("wide.png").read_bytes()
    code, out, err = said("\n".join(lines))
    assert code == 0 and loaded == ["lion", "pvit"]
    assert out.startswith(dialogue.HELP[:40]) and out.endswith(dialogue.what_can_be_asked() + "\n")
    assert err.splitlines() == ["wrote panel.png", "error: :save 'wide.png': is the picture itself; "
                                "give another name"]
    assert Path("panel.png").exists() and Path("wide.png").read_bytes() == before


def test_a_terminal_gets_a_prompt_sign(ready, capsys, monkeypatch):
    """Guards: no sign that a line is awaited; Ctrl-D as an error."""
    typed, signs = iter([ASK]), []

    def answer(sign):
        signs.append(sign)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(builtins, "input", answer)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    code, out, err = call(infer.main, capsys, "scene.png")
    assert code == 0 and signs == ["lion> "] * 2 and out and "error" not in err


def test_pictures_of_a_dialogue_have_a_command(said, capsys):
    """Guards: --save without a prompt, silently ignored; a picture refused after the loading."""
    for flag in ("--save", "--show"):
        refused(said(ASK, flag, "out.png"), ":save")
    refused(call(infer.main, capsys, "lost.png"), "lost.png")


def test_list_shows_all_that_can_be_asked(capsys):
    """Guards: a list that misses a template or a word, or whose examples are none."""
    code, out, _ = call(infer.main, capsys, "--list")
    lines, world = out.splitlines(), WORLDS["medium"]
    assert code == 0 and "textures: " + ", ".join(world.textures) in lines
    assert {"kinds: " + ", ".join(world.kinds), "colours: " + ", ".join(world.colours)} <= {*lines}
    for task, templates in TEMPLATES.items():
        assert f"{task}, such as: " in out and task in MAKERS
        assert {"  " + t.format(*"____") for t in templates} <= {*lines}
