"""PVIT at the command line: one, two and five boxes in a prompt, and prompts that are refused."""

import pytest
from commands import SCENE, call, refused
from few_steps import few_steps, opened
from random_lion import write_stage0

import infer
from lion_min import launch

BOX = "[0.1,0.1,0.5,0.5]"
BAD = [
    f"<Region>{BOX} what is it?", f"{BOX}</Region>", f"<Region><Region>{BOX}</Region>",
    f"</Region>{BOX}<Region>", "<Region></Region>", "<Region>a star</Region>",
    f"<Region>{BOX}{BOX}</Region>", f"<Region>in {BOX}</Region>",
    f"<region>{BOX} </REGION> <region>", "", "   ", "\n\t", "x" * 100_001, "word " * 5_000,
    "describe box", "What is in the region?", f"{BOX} and [9,9,8,8]: same?", "\ud800",
    *(f"What is in [{numbers}]?" for numbers in (
        "0.1", "0.1,0.2,0.3", "0.1,0.2,0.3,0.4,0.5", "0.5,0.1,0.1,0.5", "0.1,0.5,0.5,0.1",
        "0.1,0.1,0.1,0.5", "nan,0,1,1", "0,0,inf,1", "-0.5,0,0.5,0.5", "0,0,1.5,0.5",
        "0,0,100,20", "10,10,5,20", "1,,2,3", "0.1,0.1,0.1001,0.5"))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    out = tmp_path_factory.mktemp("pvit")
    write_stage0(out)
    for number in (1, 2):
        few_steps("pvit", launch.stage_of("pvit", number), out)
    return out / "pvit" / "stage2"


@pytest.fixture
def ready(weights, tmp_path, monkeypatch):
    system = opened(weights)
    monkeypatch.setattr(launch, "load", lambda *_: system)
    monkeypatch.chdir(tmp_path)
    SCENE.save("scene.png")


@pytest.mark.parametrize("prompt", [
    f"What is in {BOX}?", f"What is in <Region>{BOX}</Region>?",
    f"Is {BOX} left of [0.5,0.5,0.9,0.9]?", "Which is red, " + ", ".join([BOX] * 5) + "?"])
def test_one_two_and_five_boxes(ready, capsys, prompt):
    """Guards: a second region that is lost, or read as words."""
    code, out, err = call(infer.main, capsys, "scene.png", prompt, "--system", "pvit",
                          "--show", "shown.png")
    assert code == 0 and "error" not in err, err


def test_thirty_malformed_prompts_each_get_one_line(ready, capsys):
    """Guards: a traceback, a hang, or an answer about a box that nobody drew."""
    assert len(BAD) >= 30
    for prompt in BAD:
        result = call(infer.main, capsys, "scene.png", prompt, "--system", "pvit")
        assert result[0] == 2, f"answered: {prompt[:60]!r}"
        refused(result)
