"""What a long loop says on stderr, by a clock that the test moves."""

import io
import sys

import pytest
import tqdm.std

from lion_min.cli import progress


@pytest.fixture
def run(monkeypatch):
    """(seconds a step, steps, terminal) -> what stands on stderr afterwards."""
    def loop(seconds: float, steps: int, terminal: bool = False) -> str:
        clock, stderr = [0.0], io.StringIO()
        stderr.isatty = lambda: terminal
        monkeypatch.setattr(tqdm.std, "time", lambda: clock[0])
        monkeypatch.setattr(sys, "stderr", stderr)
        passed = []
        for element in progress(range(steps), "answering"):
            clock[0] += seconds
            passed.append(element)
        assert passed == list(range(steps))
        return stderr.getvalue()
    return loop


def test_lines_where_stderr_is_no_terminal(run):
    """Guards: carriage returns and half lines in a log file; a line for every step."""
    text = run(1.0, 60)
    lines = text.splitlines()
    assert "\r" not in text and text.endswith("\n") and 4 <= len(lines) <= 6
    assert all(line.startswith("answering: ") and " of 60" in line for line in lines)
    done = [int(line.split()[1]) for line in lines]
    assert all(b - a >= 10 for a, b in zip(done, done[1:]))


def test_a_bar_on_a_terminal(run):
    """Guards: a terminal that fills with lines; a bar that stays when the table is printed."""
    text = run(1.0, 60, terminal=True)
    assert "answering" in text and "60" in text and "\r" in text and "\n" not in text
    assert text.split("\r")[-2].strip() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_is_silent(run, monkeypatch, terminal):
    """Guards: a command that answers at once and says how long it took; torchrun's eight voices."""
    assert run(0.1, 29, terminal) == ""
    monkeypatch.setenv("RANK", "1")
    assert run(1.0, 60, terminal) == ""
