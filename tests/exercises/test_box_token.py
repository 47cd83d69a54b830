"""Checks box_token.py against check_box and the formula of Pvit.region_tokens."""

import torch
from checking import check, same

from lion_min.boxes import check_box


def test_box_token(student):
    torch.manual_seed(0)
    fc, feature = torch.nn.Linear(4, 6), torch.randn(6)
    tokens = [student.box_token(feature, [v * k for v in (10.0, 20.0, 60.0, 40.0)], 100 * k, 50 * k, fc)
              for k in (1, 8)]
    check(torch.allclose(*tokens, atol=1e-4),
          "the same box in a picture of 8 times the size gives another token: b must be fractions")
    fractions, _ = check_box([10, 20, 60, 40], 100, 50)
    same(tokens[0], feature + fc(torch.tensor(fractions)), "X_R + W_box b, b = x1, y1, x2, y2")
