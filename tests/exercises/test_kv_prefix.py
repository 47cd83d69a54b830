"""Checks kv_prefix.py with a small LanguageModel: cached and whole reading give the same states."""

import torch
from checking import check, same

from lion_min.language import LanguageModel, LanguageSettings, additive


def small():
    torch.manual_seed(0)
    llm = LanguageModel(LanguageSettings("llama", vocab=40, width=16, layers=2, heads=2, ffn=32)).eval()
    return llm, torch.randn(1, 8, 16)


@torch.no_grad()
def test_behind_the_prefix(student):
    llm, embeds = small()
    whole = llm.model.model(inputs_embeds=embeds).last_hidden_state[:, 5:]
    mask, places = student.visible(5, 3), student.positions(5, 3)
    check(getattr(mask, "dtype", None) == torch.bool and mask.shape == (3, 8),
          "visible(5, 3) must be a bool tensor [3, 8]: each new token and all that it may attend to")
    check(getattr(places, "shape", None) == (3,), "positions(5, 3) must be 3 numbers")
    behind = llm.model.model(
        inputs_embeds=embeds[:, 5:], attention_mask=additive(mask, torch.float32)[None, None],
        position_ids=places[None], past_key_values=llm.prefix(embeds[:, :5], 1, torch.float32).cache)
    same(behind.last_hidden_state, whole, "the states behind a prefix of 5, beside a whole reading")


@torch.no_grad()
def test_what_stays_valid(student):
    llm, embeds = small()
    other = embeds.clone()
    other[:, 4] += 1
    old, new = (llm.prefix(e, 1, torch.float32).cache.layers[1].keys for e in (embeds, other))
    want = (old - new).abs().amax((0, 1, 3)) < 1e-6                            # [tokens]
    same(student.stays_valid(8, 4), want, "what stays valid of 8 tokens when number 4 is replaced")
