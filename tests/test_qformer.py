"""Q-Former: against transformers, and the ways a batch can go wrong."""

import pytest
import torch

from lion_min import BadInput
from lion_min.qformer import Attention, QFormer, QFormerSettings

SETTINGS = QFormerSettings(width=24, layers=4, heads=4, ffn=40, queries=5, vision_width=16,
                           vocab=50, max_text=12)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def randomise(module: torch.nn.Module, std: float = 0.3) -> torch.nn.Module:
    """Every parameter away from its start: zero biases and unit norms hide mistakes."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, std)
    return module.eval()


@pytest.fixture
def qformer() -> QFormer:
    torch.manual_seed(0)
    return randomise(QFormer(SETTINGS))


def batch(images: int = 2, samples: int = 2, text: int = 7) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(images, 9, SETTINGS.vision_width, generator=generator)
    ids = torch.randint(0, SETTINGS.vocab, (samples, text), generator=generator)
    mask = torch.ones(samples, text)
    mask[-1, text - 3:] = 0
    return image, ids, mask


def to_transformers(ours: QFormer):
    """transformers' InstructBlipQFormerModel carrying our weights, eager attention."""
    from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel
    s = ours.settings
    theirs = InstructBlipQFormerModel._from_config(InstructBlipQFormerConfig(
        vocab_size=s.vocab, hidden_size=s.width, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, intermediate_size=s.ffn, max_position_embeddings=s.max_text,
        layer_norm_eps=s.ln_eps, cross_attention_frequency=s.cross_every,
        encoder_hidden_size=s.vision_width), attn_implementation="eager")
    top = {"words": "word_embeddings", "norm": "layernorm", "positions": "position_embeddings"}
    parts = {"out": "output.dense", "norm": "output.LayerNorm", "query": "attention.query",
             "key": "attention.key", "value": "attention.value"}
    state = {}
    for key, value in ours.state_dict().items():
        name, *rest = key.split(".")
        if name in top:
            state[f"embeddings.{top[name]}.{rest[0]}"] = value
        elif name == "layers":
            layer, block, part, kind = rest
            if block.endswith("_ffn"):
                end = "_query" * block.startswith("query")
                place = {"up": f"intermediate{end}.dense", "out": f"output{end}.dense",
                         "norm": f"output{end}.LayerNorm"}[part]
            else:
                place = f"{block.replace('cross', 'crossattention')}.{parts[part]}"
            state[f"encoder.layer.{layer}.{place}.{kind}"] = value
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


@pytest.mark.parametrize("asked", [True, False])
def test_equals_transformers(qformer, asked):
    """Pre-norm for post-norm, text reading the image, positions on queries, one shared FFN, a
    Q-Former deaf to its question, an inverted mask, maps before the softmax, another answer where
    one asks for maps."""
    image, ids, mask = batch()
    full = torch.cat([torch.ones(2, SETTINGS.queries), mask], 1) if asked else None
    ids, mask = (ids, mask) if asked else (None, None)
    theirs = to_transformers(qformer)(
        input_ids=ids, attention_mask=full, encoder_hidden_states=image, output_attentions=True,
        query_embeds=qformer.query_tokens.expand(2, -1, -1))
    ours, maps = qformer(image, ids, mask, return_attention=True)
    expected = theirs.last_hidden_state[:, :SETTINGS.queries]
    close(ours, expected)
    close(qformer(image, ids, mask), expected)
    assert len(maps) == len(theirs.cross_attentions) == 2
    for mine, other in zip(maps, theirs.cross_attentions):
        close(mine, other)


def test_shared_images_equal_expanded_images(qformer):
    """Sample s looking at image s % B, or at a mixture of the images of its fold; an image copied
    for each of its questions before the projection: n times the work."""
    (image, ids, mask), rows = batch(images=2, samples=6), []
    hook = qformer.layers[0].cross.key.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    ours, maps = qformer(image, ids, mask, return_attention=True)
    hook.remove()
    theirs, their_maps = qformer(image.repeat_interleave(3, 0), ids, mask, return_attention=True)
    assert rows == [2]
    close(ours, theirs)
    for mine, other in zip(maps, their_maps):
        assert mine.shape == (6, SETTINGS.heads, SETTINGS.queries, 9)
        close(mine, other)
    alone = torch.cat([qformer(image[s // 3: s // 3 + 1], ids[s: s + 1], mask[s: s + 1]) for s in range(6)])
    close(ours, alone)


def test_padding_is_not_read(qformer):
    """A mask dropped or inverted: what stands under padding, or how much, changes the answer."""
    image, ids, mask = batch()
    base = qformer(image, ids, mask)
    other = ids.clone()
    other[-1, -3:] = (other[-1, -3:] + 1) % SETTINGS.vocab
    torch.testing.assert_close(qformer(image, other, mask), base, atol=1e-6, rtol=1e-6)
    short = qformer(image[-1:], ids[-1:, :-3])
    close(short[0], base[-1])
    assert not torch.allclose(qformer(image, other), base, atol=1e-3)           # no mask: differs
    torch.testing.assert_close(qformer(image, ids, mask.bool()), base)


def test_anchored_queries_begin_at_their_own_tokens():
    """A share for the wrong query, tokens that nobody owns, the fused kernel deaf to anchors, or
    anchors in every Q-Former, whose published checkpoints know none."""
    torch.manual_seed(0)
    qformer = QFormer(SETTINGS).eval()
    assert not any("anchors" in name for name in qformer.state_dict())
    image = torch.randn(2, 11, SETTINGS.vision_width)
    qformer.anchor(11, 50.0)
    states, maps = qformer(image, return_attention=True)
    own = [[0, 1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    for seen in maps:                                                 # [S, H, Q, N]
        assert seen.shape[2:] == (5, 11) and len(maps) == 2
        for query, tokens in enumerate(own):
            assert seen[:, :, query, tokens].sum(-1).min() > 0.999
    assert torch.allclose(qformer(image), states, atol=1e-6)
    qformer(image).square().sum().backward()
    assert all(layer.anchors.grad.any() for layer in qformer.layers[::2])


def test_start_is_berts_and_dropout_acts_only_in_training():
    """torch's default uniform start, five times too wide, or non-zero biases; dropout left on at
    inference (answers change from run to run), or never on."""
    torch.manual_seed(0)
    qformer = QFormer(QFormerSettings(width=96, layers=2, heads=4, ffn=192, queries=32,
                                      vision_width=64, vocab=100, max_text=32))
    for name in ("query_tokens", "words.weight", "layers.0.cross.key.weight"):
        assert abs(qformer.get_parameter(name).std().item() - 0.02) < 0.002, name
    assert qformer.layers[0].cross.key.bias.abs().max() == 0 and qformer.layers[1].cross is None
    settings = QFormerSettings(**{**vars(SETTINGS), "dropout": 0.5})
    qformer, inputs = QFormer(settings), batch()
    assert not torch.equal(qformer(*inputs), qformer(*inputs))
    assert torch.equal(qformer.eval()(*inputs), qformer(*inputs))


def test_wrong_sizes_are_told(qformer):
    """An over-long question that dies as a bare index error, samples that split unevenly."""
    image, ids, _ = batch(text=SETTINGS.max_text + 1)
    with pytest.raises(BadInput, match="13 tokens.*at most 12"):
        qformer(image, ids)
    with pytest.raises(ValueError, match="3 samples cannot share 2 images"):
        qformer(image, torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="multiple of heads"):
        Attention(10, 4)
