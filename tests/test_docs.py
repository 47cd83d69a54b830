"""README.md and TUTORIAL.md tell the truth: blocks print what they show, paths and flags exist."""

import argparse
import contextlib
import importlib.util
import io
import itertools
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ("README.md", "TUTORIAL.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL = re.compile(r"https?://\S+")
FILE = re.compile(r"(?<![\w./*-])[\w.-]+(?:/[\w.-]+)*\.(?:py|md|txt|toml)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|`|&& |\$ )(?:[A-Z_]+=\S+ )*(python[ ][^`\n]+)", re.MULTILINE)
ROOMS = tuple(f"lion_min/{room}" for room in ("lion", "pvit", "lmeye", "lyrics"))
FOLDERS = ("", "lion_min", *ROOMS, "tests")                 # where a bare file name may stand


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of the document it starts on (from 0)."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2))) for m in FENCE.finditer(text)]


def chapters(text: str) -> dict[str, list[tuple[Block, str]]]:
    """Heading -> its python blocks, each with the text block behind it ("" for none)."""
    found: dict[str, list[tuple[Block, str]]] = {}
    heads = [*re.finditer(r"^## (.*)$", text, re.MULTILINE)]
    for head, end in zip(heads, [h.start() for h in heads[1:]] + [len(text)]):
        part = [b for b in blocks(text[:end]) if b.line > text.count("\n", 0, head.start())]
        found[head[1]] = [(b, nxt.text if nxt and nxt.language == "text" else "")
                          for b, nxt in zip(part, [*part[1:], None]) if b.language == "python"]
    return found


def run_chapter(pairs: list[tuple[Block, str]]) -> None:
    """Execute the blocks in one namespace; AssertionError where one prints something else."""
    names: dict[str, object] = {"__name__": "tutorial"}
    for block, shown in pairs:
        code = compile("\n" * block.line + block.text, "TUTORIAL.md", "exec")  # true line numbers
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == shown, f"TUTORIAL.md line {block.line + 1}"


CHAPTERS = chapters((ROOT / "TUTORIAL.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_tutorial_prints_what_it_shows(chapter, monkeypatch):
    """A function is renamed or a default changes, and the tutorial shows last month's output."""
    monkeypatch.chdir(ROOT)
    run_chapter(CHAPTERS[chapter])


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_ends_with_an_exercise_that_checks(chapter):
    """An exercise without its check: the reader never learns whether the answer was right."""
    last = CHAPTERS[chapter][-1][0]
    lines = (ROOT / "TUTORIAL.md").read_text(encoding="utf-8").splitlines()[:last.line]
    assert "assert " in last.text
    headings = [line for line in lines if line.startswith(("## ", "**Exercise."))]
    assert headings[-1].startswith("**Exercise.")


def test_runner_sees_a_wrong_output():
    """The runner itself: a block whose output differs, or that prints unasked, must fail."""
    text = "## A\n```python\nx = 1\nprint(x)\n```\n```text\n{}\n```\n```python\n{}\n```\n"
    run_chapter(chapters(text.format(1, "x += 1"))["A"])
    for bad in (text.format(2, "x += 1"), text.format(1, "print(x)")):
        with pytest.raises(AssertionError, match="line"):
            run_chapter(chapters(bad)["A"])


@pytest.mark.parametrize("name", DOCS)
def test_paths_exist(name):
    """A file is moved and the documents still send the reader to its old place."""
    text = URL.sub("", (ROOT / name).read_text(encoding="utf-8"))
    links = [t for t in LINK.findall(text) if not t.startswith(("#", "mailto:"))]
    files = set(FILE.findall(text)) | {target.split("#")[0] for target in links}
    lost = sorted(f for f in files if not any((ROOT / place / f).exists() for place in FOLDERS))
    assert files and not lost


class Parsed(BaseException):
    """Thrown as soon as a command line has been understood, so that nothing runs."""


def understand(argv: list[str], monkeypatch) -> None:
    """Hand `python ...` to the command's own argparse; SystemExit where it refuses."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    module = argv[1] == "-m"
    target, rest = (argv[2], argv[3:]) if module else (argv[1], argv[2:])
    if module and not target.startswith("lion_min"):        # pytest, venv: only that it exists
        assert importlib.util.find_spec(target), target
        assert all((ROOT / a).exists() for a in rest if a.startswith("tests")), rest
        return
    with monkeypatch.context() as patch, warnings.catch_warnings(), pytest.raises(Parsed):
        warnings.simplefilter("ignore")                     # runpy: "found in sys.modules"
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [target, *rest])
        if module:
            runpy.run_module(target, run_name="__main__")
        else:
            runpy.run_path(str(ROOT / target), run_name="__main__")


def commands(text: str) -> list[list[str]]:
    """Every `python ...` of shell blocks and inline code, as argv."""
    shell = "\n".join(b.text for b in blocks(text) if b.language in ("", "sh", "bash", "console"))
    prose = FENCE.sub("", text)
    found = [m[1] for part in (shell.replace("\\\n", " "), prose) for m in COMMAND.finditer(part)]
    return [words(line) for line in found]


def words(line: str) -> list[str]:
    """A shell line as argv, up to a comment, pipe or redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return [*itertools.takewhile(lambda word: word.strip("();<>|&"), lexer)]


@pytest.mark.parametrize("name", DOCS)
def test_commands_are_understood(name, monkeypatch):
    """A flag is renamed or a script is gone, and the documented command exits with code 2."""
    found = commands((ROOT / name).read_text(encoding="utf-8"))
    assert found
    for argv in found:
        understand(argv, monkeypatch)


def test_command_check_sees_a_wrong_flag(monkeypatch):
    """The check itself: an unknown flag and a script that is not there must fail."""
    understand(["python", "-m", "lion_min.scenes", "OUT", "--count", "3"], monkeypatch)
    with pytest.raises(SystemExit):
        understand(["python", "-m", "lion_min.scenes", "OUT", "--cuont", "3"], monkeypatch)
    with pytest.raises(FileNotFoundError):
        understand(["python", "no_such_script.py"], monkeypatch)


def test_commands_are_found():
    """The finder itself: a command behind `$`, `&&` or a variable is overlooked, so unchecked."""
    text = """Try `python a.py --x 1`.\n```sh\npip install b && python c.py "d e" > f.txt  # why
$ python -m g \\\n  --h\nLION=1 python i.py | tee j\n```\n```python\npython = 1\n```\n"""
    assert sorted(commands(text)) == [["python", "-m", "g", "--h"], ["python", "a.py", "--x", "1"],
                                      ["python", "c.py", "d e"], ["python", "i.py"]]
