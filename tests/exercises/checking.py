"""What the checks share: run a student's file, and say in a sentence what is wrong with it.

Not part of any exercise: write in the file that the tutorial names, then run its check.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor


def wrong(sentence: str) -> NoReturn:
    """End the check with a sentence, without a traceback."""
    pytest.fail(sentence, pytrace=False)


def check(right: object, sentence: str) -> None:
    """End the check with the sentence unless it is right."""
    if not right:
        wrong(sentence)


def same(got: object, want: Tensor, what: str) -> None:
    """End the check unless `got` is a tensor equal to `want`; `what` begins the sentence."""
    if not isinstance(got, Tensor):
        wrong(f"{what}: a tensor is needed, not {type(got).__name__}")
    if got.shape != want.shape:
        wrong(f"{what}: the shape is {[*got.shape]}, it should be {[*want.shape]}")
    bad = ~torch.isclose(got.detach().double(), want.detach().double(), atol=1e-5)
    if bad.any():
        at = tuple(bad.nonzero()[0].tolist())
        wrong(f"{what}: {int(bad.sum())} of {bad.numel()} numbers are wrong, the first at {[*at]}: "
              f"{got[at].item():.4g} instead of {want[at].item():.4g}")


class Student:
    """The functions of a student's file, `student.name(...)`; what stops them becomes a sentence."""

    def __init__(self, path: Path, source: str | None = None):
        """source: in the place of the file's text."""
        self.file, self.names = path, {"__name__": path.stem}
        code = path.read_text(encoding="utf-8") if source is None else source
        self._run("the file", lambda: exec(compile(code, str(path), "exec"), self.names))

    def __getattr__(self, name: str) -> Callable:
        if not callable(function := self.names.get(name)):
            wrong(f"{self.file.name} has no function {name}()")

        def call(*args, **options):
            result = self._run(f"{name}()", lambda: function(*args, **options))
            check(result is not None, f"{name}() returns nothing: does it end in `return ...`?")
            return result
        return call

    def _run(self, what: str, action: Callable):
        try:
            return action()
        except NotImplementedError:
            wrong(f"{what} is not written yet: replace `raise NotImplementedError` in {self.file.name}")
        except Exception as error:
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                     if f.filename == str(self.file)] or [getattr(error, "lineno", "?")]
            wrong(f"{what} stops in line {lines[-1]} of {self.file.name}: "
                  f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
