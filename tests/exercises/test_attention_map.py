"""Checks attention_map.py against the maps of explanation.py and studies/requests.py."""

import torch
from checking import check

from lion_min.explanation import AttentionMap
from lion_min.studies.requests import covered


def test_brightest(student):
    torch.manual_seed(0)
    weights = torch.rand(4, 17)
    weights[:, 0] = 5                                      # CLS gets the most, and is no patch
    weights[:, 1 + 4 + 3] = 2                              # row 1, column 3
    weights[0, 1 + 8 + 2] = 4                              # one head alone, elsewhere
    seen = AttentionMap("Q-Former", weights[None, :, None, 1:], ["query 0"]).share()   # without CLS
    want = divmod(int(seen.argmax()), 4)
    got = tuple(student.brightest(weights))
    check(got == want, f"the brightest patch is at (row, column) {want}, not {got}")


def test_share_in_box(student):
    torch.manual_seed(0)
    patches = torch.rand(4, 4) ** 3
    for box in ((0, 0, 1, 1), (0, 0, .5, .25), (.3, .1, .6, .9)):
        want = float((covered(torch.tensor([box]), 4)[0] * patches.flatten()).sum() / patches.sum())
        got = student.share_in_box(patches, box)
        check(abs(got - want) < 1e-4, f"{got:.3f} of the attention in the box {box}, instead of {want:.3f}")
