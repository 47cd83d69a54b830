"""Checks contrast.py against lyrics/objectives.py."""

from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.nn.functional as F
from checking import check, same

from lion_min.lyrics import objectives


def test_contrast(student):
    torch.manual_seed(0)
    z, t = F.normalize(torch.randn(5, 3, 4), dim=-1), F.normalize(torch.randn(5, 4), dim=-1)
    heads = SimpleNamespace(project_text=lambda x: t, project_queries=lambda x: x, temperature=0.5,
                            settings=SimpleNamespace(smoothing=0.0))
    former = SimpleNamespace(encode_text=lambda *text: t)
    text = SimpleNamespace(ids=None, mask=None, positions=None)
    loss, s = objectives.itc(former, heads, z, text)
    same(student.scores(z, t, 0.5), s, "the scores s(i, j)")
    same(student.itc(s), loss, "the loss, which asks in both directions")
    drawn = []
    with patch("torch.multinomial", lambda weights, n: drawn.append(weights) or torch.zeros(5, 1)):
        objectives.hard_negatives(s)
    got = student.negatives(s)
    check(not got.diag().any(), f"a picture's own text is drawn as a wrong one with p = {got.diag()[0]:.2f}")
    check(torch.allclose(got.sum(1), torch.ones(5), atol=1e-4),
          f"the probabilities of a picture's wrong texts sum to {got[0].sum():.3f}, not to 1")
    want = drawn[0] / drawn[0].sum(1, keepdim=True)        # it adds 1e-4, so that some weight remains
    check(torch.allclose(got, want, atol=2e-3), "the probabilities do not follow softmax(s)")
