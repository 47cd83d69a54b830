"""Layers that run again in backward, to keep less."""

import pytest
import torch
from toy_run import train

from lion_min import BadInput, adapters, lora, trainable, training
from lion_min.language import LanguageModel, LanguageSettings


def tiny(family: str) -> tuple[LanguageModel, torch.nn.ModuleList]:
    """A frozen LLM with adapters that do something, a LoRA with dropout, and a trained input."""
    torch.manual_seed(0)
    llm = trainable.freeze(LanguageModel(LanguageSettings(family, vocab=40, width=16, layers=3,
                                                          heads=2, ffn=24)))
    beside = torch.nn.ModuleList([
        adapters.attach_adapters(llm.model, 16, 4, 2),
        lora.attach_lora(llm.model, ("q", "v") if family == "t5" else ("q_proj", "v_proj"),
                         rank=2, dropout=0.5)])
    adapters.set_task(beside, adapters.IMAGE)
    for parameter in beside.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return llm, beside.train()


def backward(llm: LanguageModel, beside: torch.nn.ModuleList) -> tuple[float, dict, int]:
    """(loss, gradients, bytes kept for backward) of one batch with a trained visual token."""
    torch.manual_seed(1)
    visual, kept = torch.randn(2, 3, 16, requires_grad=True), []
    text = llm.pack([[5, 6, 7, 8, 9], [10, 11]], [[12, 13], [14]])

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = llm.loss(llm.embed(text.ids), text, visual)
    beside.zero_grad()
    loss.backward()
    grads = {n: p.grad for n, p in beside.named_parameters()} | {"visual": visual.grad}
    return loss.item(), grads, sum(kept)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_checkpointed_layers_give_the_same_gradients_and_keep_less(family):
    """A frozen LLM in eval mode was not checkpointed at all; T5's decoder, which makes a cache
    unasked, was left out or read it twice; dropout beside a layer drew other masks."""
    llm, beside = tiny(family)
    plain = backward(llm, beside)
    trainable.checkpoint_layers(llm)
    again = backward(llm, beside)
    assert again[0] == pytest.approx(plain[0], abs=1e-6)
    assert all(g is not None and g.any() for n, g in plain[1].items() if "router" not in n)
    for name, gradient in plain[1].items():
        assert torch.allclose(gradient, again[1][name], atol=1e-6), name
    assert again[2] < 0.2 * plain[2]
    assert not llm.model.training


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_checkpointed_layers_answer_as_before(family):
    """Generation lost its key-value cache, and with it all but the last word of the prompt."""
    llm, beside = tiny(family)
    beside.eval()
    text = llm.pack([[5, 6, 7, 8, 9], [10, 11]])
    plain = llm.generate(llm.embed(text.ids), text, max_new_tokens=6)
    trainable.checkpoint_layers(llm)
    assert torch.equal(llm.generate(llm.embed(text.ids), text, max_new_tokens=6), plain)


def test_a_second_pass_on_the_first_ones_cache_survives_checkpointing():
    """LMEye's passes share a cache: the layers that ran again appended to it a second time, or
    the second pass saw nothing of the first."""
    from transformers import DynamicCache
    llm, beside = tiny("llama")
    beside.eval()

    def gradient() -> torch.Tensor:
        x, cache = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(3)), DynamicCache()
        x.requires_grad_()
        first = llm.model.model(inputs_embeds=x[:, :4], past_key_values=cache, use_cache=True)
        second = llm.model.model(inputs_embeds=x[:, 4:] + first.last_hidden_state[:, :3],
                                 past_key_values=cache, use_cache=True)
        second.last_hidden_state.square().sum().backward()
        assert cache.get_seq_length() == 7
        return x.grad

    plain = gradient()
    trainable.checkpoint_layers(llm)
    assert torch.allclose(gradient(), plain, atol=1e-5)


def test_checkpointing_is_a_setting_of_the_plan(tmp_path, monkeypatch):
    """Plan.checkpointing was accepted and ignored; a model without such layers kept silent."""
    llm, beside = tiny("llama")
    beside.eval()

    def step_loss(step: int):
        text = llm.pack([[5, 6]], [[7]])
        return llm.loss(llm.embed(text.ids), text), {}

    model = torch.nn.ModuleDict({"llm": llm, "beside": beside})
    plan = training.Plan(steps=1, lr=0.1, checkpointing=True)
    calls, old = [], trainable.checkpoint
    monkeypatch.setattr(trainable, "checkpoint", lambda *a, **k: (calls.append(1), old(*a, **k))[1])
    training.run(model, step_loss, plan, tmp_path / "run", {}, quiet=True)
    assert len(calls) == 3
    with pytest.raises(BadInput, match="checkpointing: this stage's model has no"):
        train(tmp_path / "toy", checkpointing=True)
