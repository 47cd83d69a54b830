"""Records and pictures that are left out: counted by reason, told in one line, up to a share.

Large data sets hold a few bad records, and disks a few damaged pictures. Each costs itself alone;
more than a small share of them means that something else is wrong, and ends the run.
"""

from __future__ import annotations

import os
from collections import Counter

from lion_min import BadInput, cli
from lion_min.cli import MAX_BAD

FEW = 5         # bad ones that a small file may hold, whatever their share
UNREADABLE = "picture unreadable"


class BadRecord(BadInput):
    """One record that is left out, or one picture.

    reason: a few words, the same for all faults of a kind. by_rule: the record is sound, but
    nothing is asked about it (a crowd); such ones are counted and never too many.
    """

    def __init__(self, message: str, reason: str, by_rule: bool = False):
        super().__init__(message)
        self.reason, self.by_rule = reason, by_rule


class LeftOut:
    """Counts what is left out of one data set, by reason.

    name: the file; unit: what `total` counts. total: all of them, good ones, too.
    """

    def __init__(self, name: object, unit: str = "records", total: int = 0):
        self.name, self.unit, self.total = name, unit, total
        self.bad, self.by_rule = Counter(), Counter()
        self.first: BadInput | None = None             # of the bad ones
        self.last: BadInput | None = None

    @property
    def count(self) -> int:
        """How many bad ones there are."""
        return self.bad.total()

    def add(self, error: BadRecord) -> None:
        """Count one more."""
        (self.by_rule if error.by_rule else self.bad)[error.reason] += 1
        if not error.by_rule:
            self.first, self.last = self.first or error, error

    def summary(self) -> str:
        """How many are left out and why, with the first bad one; "" where none is."""
        if not (reasons := self.bad + self.by_rule):
            return ""
        first = f"; the first: {one_line(self.first)}" if self.first else ""
        return (f"{reasons.total()} of {self.total} {self.unit} left out ("
                + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
                + f"){first}")

    def fault(self, max_bad: float = MAX_BAD) -> str:
        """Why the run must stop: more bad ones than FEW and than the share, or no good one; ""
        where it may go on."""
        if self.count and self.count == self.total:
            return f"{self.name}: {self.summary()}; none is left"
        if self.count > max(FEW, max_bad * self.total):
            return (f"{self.name}: {self.summary()}; more than --max-bad {max_bad:g} allows: mend "
                    "them, or raise it")
        return ""

    def check(self, max_bad: float = MAX_BAD) -> None:
        """BadInput where `fault` finds one."""
        if fault := self.fault(max_bad):
            raise BadInput(fault)

    def tell(self) -> None:
        """Print the line on stderr, if there is one."""
        if summary := self.summary():
            note(f"{self.name}: {summary}")


def one_line(error: object) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())


def note(line: str, every_process: bool = False) -> None:
    """Print a note on stderr; of several processes the first alone does, unless it is told."""
    if every_process or os.environ.get("RANK", "0") == "0":
        cli.note(f"note: {line}")
