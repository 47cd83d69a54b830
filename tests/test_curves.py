"""lion_min.studies.curves: a run's loss and scores as one picture."""

import json
from pathlib import Path

import pytest
from commands import call, refused
from PIL import Image

from lion_min.studies import curves

LINE = '{{"step": {}, "loss": {}}}\n'


def write_log(folder: Path, losses: list[float], end: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(LINE.format(*row) for row in enumerate(losses)) + end)
    return folder


def test_a_panel_for_each_stage(tmp_path, capsys):
    """Guards: stage 10 before stage 2, scores of another run, half a last line that stops all."""
    for number, losses in ((2, [4.0] * 50 + [1.0] * 50), (10, [1.0])):
        stage = write_log(tmp_path / f"stage{number}", losses, '{"step": 1')
        (stage / "scores.json").write_text(json.dumps(
            {"steps": 1, "before": {"a": 0.0, "seconds": 9.0, "n": {}},
             "after": {"a": 1.0, "seconds": 9.0, "b": 1.0}}))
    first, second = curves.read_curves(tmp_path)
    assert (first.name, first.steps[-1], first.scores) == ("stage2", 99, {})
    assert (second.name, second.losses, second.scores) == ("stage10", [1.0], {"a": (0.0, 1.0)})
    code, out, _ = call(curves.main, capsys, tmp_path)
    assert code == 0 and "stage2, stage10" in out
    picture = Image.open(tmp_path / "curves.png")
    assert picture.size == (curves.WIDTH, 2 * curves.HEIGHT)
    left, top, right, bottom = curves.PLOT

    def strong(x: int, y: int) -> bool:
        return any(picture.getpixel((x, y + d)) == (0, 0x72, 0xb2) for d in (-2, -1, 0, 1, 2))

    assert strong(left + 100, top) and strong(right - 100, bottom - (bottom - top) // 4)
    bar = curves.HEIGHT + curves.BARS[1] + 25                       # of `a` after stage 10: all of it
    assert strong(curves.BARS[2] - 5, bar) and not strong(curves.BARS[2] - 5, bar - curves.HEIGHT)


def test_smoothing_and_ticks():
    """Guards: a mean that lags or is too low at the ends; numbers that collide on an axis."""
    assert curves.smoothed([3.0] * 200) == pytest.approx([3.0] * 200)
    ramp = [float(i) for i in range(100)]
    assert curves.smoothed(ramp)[50] == 50 and curves.smoothed(ramp)[0] == 1
    assert curves.ticks(0, 1) == pytest.approx([0, .2, .4, .6, .8, 1.0])
    assert curves.ticks(0, 899) == [0, 200, 400, 600, 800]
    assert all(2 <= len(curves.ticks(0, high / 7)) <= 7 for high in range(1, 2000, 13))


@pytest.mark.parametrize("lines, told", [
    (None, "no log.jsonl"), ("", "no finite loss"), ("{}\n{}\n", "line 1"), ("x\n" * 3, "line 1"),
    (LINE.format(0, "NaN"), "no finite loss"), ("[]\n" + LINE.format(0, 1), "line 1")])
def test_a_folder_without_a_log_gets_one_line(tmp_path, capsys, lines, told):
    """Guards: a traceback for the wrong folder or a damaged log."""
    if lines is not None:
        (tmp_path / "log.jsonl").write_text(lines)
    refused(call(curves.main, capsys, tmp_path), told, str(tmp_path))
    assert not (tmp_path / "curves.png").exists()
