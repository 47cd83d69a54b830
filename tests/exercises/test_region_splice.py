"""Checks region_splice.py against language.splice."""

import torch
from checking import check, same, wrong

from lion_min.language import splice


def test_splice_regions(student):
    torch.manual_seed(0)
    embeds, features = torch.randn(2, 6, 4), torch.randn(3, 4)
    ids = torch.tensor([[7, 1, 2, 7, 3, 0], [5, 5, 7, 1, 0, 0]])
    given, want = embeds.clone(), splice(embeds, ids, 7, features)
    got = student.splice_regions(embeds, ids, 7, features)
    check(torch.equal(embeds, given), "the embeds that were given have changed: work on a copy")
    same(got, want, "the prompts with their regions")
    function = student.names["splice_regions"]
    for count, case in ((2, "too few"), (4, "too many")):
        try:
            function(embeds, ids, 7, torch.randn(count, 4))
        except ValueError as error:
            check("feature" in str(error), f"the ValueError should count slots and features: {error}")
            continue
        except Exception as error:
            wrong(f"{count} features for 3 slots, {case}: ValueError is due, not {type(error).__name__}")
        wrong(f"{count} features for 3 slots, {case}, are taken without a word: raise ValueError")
