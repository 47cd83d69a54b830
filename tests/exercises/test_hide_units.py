"""Checks hide_units.py: what draw_units of lyrics/pairtext.py promises, beside its own draws."""

import torch
from checking import check

from lion_min.lyrics.pairtext import draw_units


def test_hide(student):
    torch.manual_seed(0)
    units = torch.tensor([[0, 1, 1, 2, 3, 0, 4, 4, 4, 0]]).repeat(4000, 1)
    hidden, known = student.hide(units, .15), draw_units(units, .15)
    check(getattr(hidden, "shape", None) == known.shape and hidden.dtype == torch.bool,
          f"hide() must return a bool tensor of the shape of units, {[*units.shape]}")
    check(not hidden[units == 0].any(), "tokens of no unit (0) are hidden")
    for unit in range(1, 5):
        part = hidden[:, units[0] == unit]
        check(torch.equal(part.all(1), part.any(1)), f"unit {unit} is hidden in part: one draw for a unit")
        mean = part.float().mean()
        check(abs(mean - .15) < .03, f"unit {unit} is hidden in {mean:.2f} of the texts instead of .15")
    both, known = (float((h[:, 1] & h[:, 3]).float().mean()) for h in (hidden, known))
    check(abs(both - known) < .02, f"units 1 and 2 are hidden together in {both:.3f} of the texts; drawn "
          f"each by itself it would be {known:.3f}")
