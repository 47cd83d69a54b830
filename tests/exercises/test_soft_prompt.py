"""Checks soft_prompt.py against SoftPrompt and its backward pass."""

import torch
from checking import check, same

from lion_min.lion.softprompt import SoftPrompt


def test_splice_and_gradient(student):
    torch.manual_seed(0)
    soft, embeds, gradient = SoftPrompt(4), *torch.randn(2, 5, 6, 4)
    ids = torch.zeros(5, 6, dtype=torch.long)
    ids[:3, 2] = 9                                         # three prompts with tags, two without
    given, want = embeds.clone(), soft(embeds, ids, 9)
    got = student.splice(embeds, ids, 9, soft.hint)
    check(torch.equal(given, embeds), "splice() changed the embeds that it was given: work on a copy")
    same(got, want, "the embeds with the hint in its places")
    want.backward(gradient)
    same(student.hint_gradient(gradient, ids, 9), soft.hint.grad, "the gradient of the hint")
