"""Calling a command as a user does, and an untrained LION for it to load."""

from pathlib import Path

import pytest
from random_lion import write_stage, write_stage0

from lion_min import launch
from lion_min.scenes import WORLDS, make_scene

ROOT = Path(__file__).resolve().parents[1]
SCENE = make_scene(WORLDS["medium"], "heldout", 5, 0).draw()
ASK = "describe box [0.1,0.1,0.6,0.6]"


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """OUT with an untrained stage 0 and stages 1 to 4."""
    out = tmp_path_factory.mktemp("runs")
    write_stage0(out)
    for number in (1, 2, 3, 4):
        write_stage(out, number)
    return out


@pytest.fixture(scope="session")
def system(runs):
    return launch.load("lion", runs / "lion" / "stage4", "cpu")


@pytest.fixture
def ready(system, monkeypatch, tmp_path):
    """A folder to work in with scene.png; the system is loaded already."""
    monkeypatch.setattr(launch, "load", lambda *_: system)
    monkeypatch.chdir(tmp_path)
    SCENE.save("scene.png")
    return tmp_path


def call(main, capsys, *argv) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command; an exception that leaves it fails the test."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def refused(result: tuple[int, str, str], *told: str) -> None:
    code, out, err = result
    assert code == 2 and out == "", result
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for words in told:
        assert words in err, err
