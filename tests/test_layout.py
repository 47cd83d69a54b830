"""The rules of the layout, over the import graph: what lies directly in lion_min/ is the lesson, a
folder is one system or a trip (tiny, datasets, page, pretrained, published, studies, union)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lion_min"
SYSTEMS = {"lion", "pvit", "lyrics", "lmeye"}
TRIPS = {"tiny", "datasets", "page", "pretrained", "published", "studies", "union"}
COMMANDS = [f"lion_min.{name}" for name in (
    "evaluate", "page", "scenes", "datasets", "checkpoints", "tiny.bundle", "pvit.instructions",
    "studies.claims", "studies.curves", "studies.pictures", "lion.stage1", "lion.stage2",
    "lion.stage3", "lion.stage4", "pvit.stage1", "pvit.stage2", "lyrics.stage0", "lyrics.stage1",
    "lyrics.stage2", "lmeye.stage1", "lmeye.stage2")]


def modules(root: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name below the package -> file; a package's own name for its __init__."""
    names = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(source: str, known: set[str]) -> set[str]:
    """The modules of the package that a source imports, inside functions, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("lion_min.") for alias in node.names
                      if alias.name.startswith("lion_min.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lion_min":
            base = node.module.removeprefix("lion_min").strip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                found.add(name if name in known else base)
    return found & known


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    files = modules()
    return {name: imports(path.read_text(encoding="utf-8"), set(files)) - {name, ""}
            for name, path in files.items()}


def area(name: str) -> str:
    """The folder a module lies in; '' for the lesson's own files, checkpoints among them."""
    first = name.split(".")[0]
    return first if first in SYSTEMS | TRIPS else ""


def test_no_system_needs_another_or_a_trip(graph):
    """Rule 1. Guards: four systems that can only be read together."""
    wrong = {(name, used) for name, all_used in graph.items() if area(name) in SYSTEMS
             for used in all_used if area(used) not in ("", area(name))}
    assert not wrong


def test_the_lesson_needs_no_trip(graph):
    """Rule 2. Guards: a first reading that leads into data formats or published key names."""
    doors = {"launch", "evaluate"}
    wrong = {(name, used) for name, all_used in graph.items()
             if area(name) == "" and name not in doors and not name.endswith("__main__")
             for used in all_used if area(used)}
    assert not wrong


def test_systems_are_named_in_one_place():
    """Rule 3. Guards: a fifth system that has to be added in nine files."""
    wrong = set()
    for name, path in modules().items():
        if name in ("launch", "cli"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong |= {(name, "importlib") for node in ast.walk(tree)
                  if isinstance(node, (ast.Import, ast.ImportFrom))
                  and "importlib" in (getattr(node, "module", None), *(a.name for a in node.names))}
        wrong |= {(name, node.value) for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and node.value in SYSTEMS}
    assert wrong <= {("datasets", "pvit")}, "PVIT's file format has its system's name"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; [] where there is none."""
    left = {name: set(used) for name, used in graph.items()}
    while free := [name for name, used in left.items() if not used & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_the_modules_form_no_circle(graph):
    """Rule 4. Guards: a module that cannot be read before the one that needs it."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle(graph) == []


def test_help_is_instant():
    """Rule 4. Guards: three seconds of torch before the first word of --help. One process asks every
    command: none may load what the next one would then find loaded."""
    code = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    run = runpy.run_path if name.endswith(".py") else runpy.run_module
    try: run(name, run_name="__main__")
    except SystemExit as end: assert end.code == 0, name
    assert not {"torch", "transformers", "numpy"} & set(sys.modules), name
"""
    done = subprocess.run([sys.executable, "-c", code, "infer.py", "train.py", *COMMANDS], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage") == 2 + len(COMMANDS)
