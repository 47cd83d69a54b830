"""Adapters and LoRA beside a frozen T5, Llama and Gemma 3; routes, gradients, cache. (The merge of
two stages' adapters: test_stages.py.)"""

import pytest
import torch

from lion_min.adapters import IMAGE, REGION, Adapter, MixtureOfAdapters, attach_adapters, set_task
from lion_min.lora import LoRA, attach_lora, merge_lora

D, VOCAB = 16, 40


def t5():
    from transformers import T5Config, T5ForConditionalGeneration
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=VOCAB, d_model=D, d_kv=4, d_ff=32, num_heads=4, num_layers=3,
        num_decoder_layers=2, feed_forward_proj="gated-gelu", decoder_start_token_id=0,
        initializer_factor=3.0)).eval()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()


def gemma():
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig
    torch.manual_seed(0)
    return Gemma3ForCausalLM(Gemma3TextConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=32, num_hidden_layers=3, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, query_pre_attn_scalar=8, sliding_window=3,
        tie_word_embeddings=False,
        initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()


FAMILIES = pytest.mark.parametrize("build", [t5, llama, gemma])
SITES = {("adapters", t5): 5, ("adapters", llama): 3, ("adapters", gemma): 3,
         ("lora", t5): 3 * (3 + 2 * 2), ("lora", llama): 9,     # T5's decoder: self and cross
         ("lora", gemma): 9}
BESIDE = pytest.mark.parametrize("kind, build", SITES)
TARGETS = {t5: ("q", "k", "v")} | dict.fromkeys((llama, gemma), ("q_proj", "k_proj", "v_proj"))
IDS = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]])


def logits(llm) -> torch.Tensor:
    extra = {"decoder_input_ids": IDS[:, :3]} if llm.config.is_encoder_decoder else {}
    return llm(input_ids=IDS, attention_mask=torch.ones_like(IDS), **extra).logits


def randomise(beside: torch.nn.Module) -> torch.nn.Module:
    """Away from zero; a router stays as it is."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in beside.named_parameters():
            if "router" not in name:
                p.normal_(0, 0.3)
    return beside


def attach(llm, kind: str, build) -> torch.nn.ModuleList:
    """Two adapters a site on the region route, or LoRA without its dropout."""
    if kind == "lora":
        return attach_lora(llm, TARGETS[build]).eval()
    adapters = attach_adapters(llm, D, 4, 2)
    set_task(adapters, REGION)
    return adapters


@BESIDE
def test_fresh_ones_change_nothing(kind, build):
    """An up-projection that does not start at zero; a parameter of the LLM renamed, so that no
    checkpoint loads, or held twice, so that the file of trained parts holds the LLM; beside bf16 a
    crash, or an LLM whose residual stream silently turns fp32."""
    llm = build()
    before, names = logits(llm), list(llm.state_dict())
    beside = attach(llm, kind, build)
    assert len(beside) == SITES[kind, build]
    for task in (IMAGE, REGION):
        set_task(beside, task)
        assert torch.equal(logits(llm), before)
    assert list(llm.state_dict()) == names
    assert not {id(p) for p in llm.parameters()} & {id(p) for p in beside.parameters()}
    assert kind == "adapters" or {n.split(".", 1)[1] for n in beside.state_dict()} == {
        "down.weight", "up.weight"}
    randomise(beside)
    assert logits(llm.bfloat16()).dtype == torch.bfloat16
    assert {p.dtype for p in beside.parameters()} == {torch.float32}


@BESIDE
def test_cached_generation_equals_uncached(kind, build):
    """Hooks that break under the KV cache: one-token steps that miss or repeat what is added."""
    llm, options = build(), dict(max_new_tokens=8, min_new_tokens=8, do_sample=False)
    bare = llm.generate(IDS, **options)
    randomise(attach(llm, kind, build))
    for beams in (1, 3):
        cached = llm.generate(IDS, use_cache=True, num_beams=beams, **options)
        assert torch.equal(cached, llm.generate(IDS, use_cache=False, num_beams=beams, **options))
        assert not torch.equal(cached, bare)                     # it does speak


@BESIDE
def test_what_stands_beside_learns_alone(kind, build):
    """A frozen path that cuts the gradient, an LLM that is trained along; one row of the router for
    both tasks: region batches would move the image route."""
    llm = build().requires_grad_(False)
    beside = randomise(attach(llm, kind, build))
    for task in (REGION, IMAGE):
        set_task(beside, task)
        beside.zero_grad()
        logits(llm).pow(2).sum().backward()
        for name, parameter in beside.named_parameters():
            if name.endswith("router"):
                assert (parameter.grad[:, task].abs().sum(-1) > 0).all()        # both adapters
                assert parameter.grad[:, 1 - task].abs().max() == 0
            elif kind == "lora" or f"adapters.{task}." in name:
                assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in llm.parameters())


# ---- adapters ----------------------------------------------------------------------------------

@torch.no_grad()
@pytest.mark.parametrize("build", [llama, gemma])
def test_a_llama_layer_adds_the_adapter_of_its_raw_input(build):
    """An adapter fed with the normalised input, put behind the FFN instead of beside it, or fed with
    the layer's input before attention; Gemma's second norm over it. (T5's: test_parity_lion.py.)"""
    llm = build()
    layer, seen = llm.model.layers[1], {}
    norm = "post_attention_layernorm" if build is llama else "pre_feedforward_layernorm"
    getattr(layer, norm).register_forward_hook(lambda m, inputs, out: seen.update(x=inputs[0]))
    layer.register_forward_hook(lambda m, i, out: seen.update(out=out))
    logits(llm)
    x, plain = seen["x"], seen["out"]
    adapters = randomise(attach_adapters(llm, D, 4, 1))
    adapters[0].adapters[0].scale.zero_()  # so that layer 1 still gets the same input
    logits(llm)
    torch.testing.assert_close(seen["out"], plain + adapters[1](x))
    assert adapters[1](x).abs().max() > 0.1


def test_a_fresh_adapter_can_wake():
    """A down-projection that starts at zero, or wider than torch's. (What an adapter and a mixture
    compute: both routes of test_parity_lion.py.)"""
    adapter, x = Adapter(D, 4), torch.randn(3, D)
    assert adapter(x).abs().max() == 0
    assert 0.9 < adapter.down.weight.abs().max() * D ** 0.5 <= 1  # kaiming_uniform(a=sqrt 5)


# ---- LoRA --------------------------------------------------------------------------------------

@FAMILIES
def test_merging_moves_the_targets_alone_and_changes_no_logit(build):
    """The scale forgotten or applied twice, down times up, a hook that still adds its step, a
    product taken in a lower precision than the weight's; a LoRA on the output projection or the
    feed-forward net, which Lyrics leaves alone."""
    llm = build().double()  # this T5's attention is so sharp that fp32 alone moves it by 1e-3
    before, base = {k: v.clone() for k, v in llm.state_dict().items()}, logits(llm)
    loras = attach_lora(llm, TARGETS[build], rank=4, alpha=8).double().eval()
    randomise(loras)
    trained = logits(llm)
    assert (trained - base).abs().max() > 1e-2
    merge_lora(llm, loras)
    merged = logits(llm)
    torch.testing.assert_close(merged, trained, atol=1e-9, rtol=0)
    moved = {k for k, v in llm.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.split(".")[-2] in TARGETS[build]}
    attach_lora(llm, TARGETS[build]).double()  # a merged LLM is an ordinary one again
    assert torch.equal(logits(llm), merged)


@torch.no_grad()
def test_lora_by_hand_and_dropout_only_in_training():
    """alpha as the scale itself, or rank / alpha; dropout on the path at inference: answers would
    change from run to run."""
    lora = LoRA(3, 2, rank=2, alpha=6, dropout=0.0)
    lora.down.weight.copy_(torch.tensor([[1., 0, 0], [0, 1, 0]]))
    lora.up.weight.copy_(torch.tensor([[1., 0], [0, 2]]))
    assert lora(torch.tensor([5., 7, 9])).tolist() == [15, 42]
    llm = llama()
    loras = randomise(attach_lora(llm, dropout=0.5))
    assert not torch.equal(logits(llm), logits(llm))
    loras.eval()
    assert torch.equal(logits(llm), logits(llm))


def test_misuse_is_told():
    """LION's silent trap: a category that is not understood takes the image route. Two sets of
    hooks that add up; an LLM without the part to stand beside, which trains nothing; a step merged
    twice."""
    mixture = MixtureOfAdapters(D, 4, 2)
    with pytest.raises(RuntimeError, match="set_task"):
        mixture(torch.zeros(1, D))
    for wrong in (2, -1, "region_level", None):
        with pytest.raises(ValueError, match="REGION"):
            set_task(mixture, wrong)
    wrapper = torch.nn.ModuleDict({"adapters": torch.nn.ModuleList([mixture])})
    set_task(wrapper, IMAGE)
    assert mixture.task == IMAGE
    set_task([mixture], REGION)
    assert mixture.task == REGION
    llm = llama()
    attach_adapters(llm, D, 4, 1)
    with pytest.raises(ValueError, match="already"):
        attach_adapters(llm, D, 4, 1)
    with pytest.raises(ValueError, match="no T5 or Llama"):
        attach_adapters(torch.nn.Sequential(torch.nn.Linear(2, 2)), 2, 1, 1)
    with pytest.raises(ValueError, match="1 or 2"):
        MixtureOfAdapters(D, 4, 3)
    with pytest.raises(ValueError, match="no Linear named q or k or v"):
        attach_lora(llm, ("q", "k", "v"))
    loras = attach_lora(llm)
    with pytest.raises(ValueError, match="already carries LoRA"):
        attach_lora(llm)
    merge_lora(llm, loras)
    with pytest.raises(ValueError, match="carries no LoRA"):
        merge_lora(llm, loras)
