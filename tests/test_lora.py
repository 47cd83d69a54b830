"""LoRA beside a frozen T5 and a frozen Llama."""

import pytest
import torch
from test_adapters import IDS, llama, logits, randomise, t5

from lion_min.lora import LoRA, attach_lora, merge_lora

LLMS = pytest.mark.parametrize("build, targets, sites", [
    (t5, ("q", "k", "v"), 3 * (3 + 2 * 2)),  # encoder: self; decoder: self and cross
    (llama, ("q_proj", "k_proj", "v_proj"), 9)])


@LLMS
def test_fresh_lora_changes_nothing(build, targets, sites):
    """`up` away from zero, a parameter of the LLM renamed, so that no checkpoint loads, or one
    held twice, so that the file of trained parts holds the LLM."""
    llm = build()
    before, names = logits(llm), list(llm.state_dict())
    loras = attach_lora(llm, targets)
    assert len(loras) == sites
    assert torch.equal(logits(llm), before)
    assert list(llm.state_dict()) == names
    assert {n.split(".", 1)[1] for n in loras.state_dict()} == {"down.weight", "up.weight"}
    assert not {id(p) for p in llm.parameters()} & {id(p) for p in loras.parameters()}


@LLMS
def test_merged_equals_unmerged(build, targets, sites):
    """The scale forgotten or applied twice, down times up, a hook that still adds its step, a
    product taken in a lower precision than the weight's."""
    llm = build().double()  # this T5's attention is so sharp that fp32 alone moves it by 1e-3
    base = logits(llm)
    loras = attach_lora(llm, targets, rank=4, alpha=8).double().eval()
    randomise(loras)
    trained = logits(llm)
    assert (trained - base).abs().max() > 1e-2
    merge_lora(llm, loras)
    merged = logits(llm)
    torch.testing.assert_close(merged, trained, atol=1e-9, rtol=0)
    attach_lora(llm, targets).double()  # a merged LLM is an ordinary one again
    assert torch.equal(logits(llm), merged)


@LLMS
def test_one_step_trains_lora_and_merging_moves_the_targets_alone(build, targets, sites):
    """A frozen path that cuts the gradient; an LLM that is trained along; a LoRA on the output
    projection or the feed-forward net, which Lyrics leaves alone."""
    llm = build().requires_grad_(False)
    before = {k: v.clone() for k, v in llm.state_dict().items()}
    loras = attach_lora(llm, targets)
    randomise(loras)
    logits(llm).pow(2).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in loras.parameters())
    assert all(p.grad is None for p in llm.parameters())
    merge_lora(llm, loras)
    moved = {k for k, v in llm.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.split(".")[-2] in targets} and len(moved) == sites


@torch.no_grad()
def test_value_by_hand_and_dropout_only_in_training():
    """alpha as the scale itself, or rank / alpha; dropout on the path at inference: answers would
    change from run to run."""
    lora = LoRA(3, 2, rank=2, alpha=6, dropout=0.0)
    lora.down.weight.copy_(torch.tensor([[1., 0, 0], [0, 1, 0]]))
    lora.up.weight.copy_(torch.tensor([[1., 0], [0, 2]]))
    assert lora(torch.tensor([5., 7, 9])).tolist() == [15, 42]
    llm = llama()
    loras = attach_lora(llm, dropout=0.5)
    randomise(loras)
    assert not torch.equal(logits(llm), logits(llm))
    loras.eval()
    assert torch.equal(logits(llm), logits(llm))


def test_half_precision_and_cached_generation():
    """Fp32 steps beside a bf16 LLM: a crash, or an LLM lifted to fp32 from that layer on. A hook
    that sees only the first call of a generation."""
    low = llama().bfloat16()
    randomise(loras := attach_lora(low))
    assert logits(low).dtype == torch.bfloat16 and loras[0].up.weight.dtype == torch.float32
    llm = llama()
    loras = attach_lora(llm).eval()
    randomise(loras)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(llm.generate(IDS, use_cache=True, **options),
                       llm.generate(IDS, use_cache=False, **options))


def test_misuse_is_told():
    """Two sets of hooks that add up, names that fit nothing, a step merged twice."""
    llm = llama()
    with pytest.raises(ValueError, match="no Linear named q or k or v"):
        attach_lora(llm, ("q", "k", "v"))
    loras = attach_lora(llm)
    with pytest.raises(ValueError, match="already carries LoRA"):
        attach_lora(llm)
    merge_lora(llm, loras)
    with pytest.raises(ValueError, match="carries no LoRA"):
        merge_lora(llm, loras)
