"""MQ-Former: the seven properties of Lyrics (spec 7.3), and the Q-Former inside it."""

import pytest
import torch
from test_qformer import close, randomise

from lion_min.lyrics.masks import mask_matrix
from lion_min.lyrics.mqformer import MQFormer, MQFormerSettings, Sources
from lion_min.qformer import QFormer, QFormerSettings

QI, QO, L, VOCAB = 3, 4, 7, 50
SIZES = dict(width=24, layers=4, heads=4, ffn=40, vision_width=16, vocab=VOCAB, max_text=12)
SETTINGS = MQFormerSettings(**SIZES, queries=QI + QO, object_queries=QO, object_width=10)
PLAIN = MQFormerSettings(**SIZES, queries=5)


def awake(settings: MQFormerSettings) -> MQFormer:
    """Random everywhere, norms around one: else each layer hushes what the one before it said."""
    torch.manual_seed(0)
    mqformer = randomise(MQFormer(settings))
    with torch.no_grad():
        for name, p in mqformer.named_parameters():
            if name.endswith("norm.weight"):
                p += 1
    return mqformer


@pytest.fixture
def mqformer() -> MQFormer:
    return awake(SETTINGS)


def pictures(seed: int = 1) -> Sources:
    """Three pictures with 6, 4 and 2 objects."""
    g = torch.Generator().manual_seed(seed)
    return Sources(torch.randn(3, 9, 16, generator=g), torch.randn(3, 6, 10, generator=g),
                   torch.arange(6) < torch.tensor([[6], [4], [2]]))


def texts(seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, VOCAB, (3, L), generator=torch.Generator().manual_seed(seed))
    return ids, torch.arange(L) < torch.tensor([[L], [5], [4]])


def one_pass(mqformer, sources, ids, mask, objective, positions=None):
    """All of [queries ; text] at once under the table's matrix: (query states, text states)."""
    hidden, visible = mqformer.embed(len(ids), ids, mask, positions)
    matrix = mask_matrix(objective, mqformer.settings.queries, 3, L - 3) & visible
    for layer in mqformer.layers:
        hidden, _ = layer(hidden, matrix, sources.with_blank())
    return hidden.split((mqformer.settings.queries, L), 1)


# ---- the seven of the spec -------------------------------------------------------------------

@pytest.mark.parametrize("objective", ["itc", "itm", "icg", "msp"])
def test_passes_equal_one_masked_pass(mqformer, objective):
    """1, 2. A causal mask that misses the cached prefix, a cache of the wrong layer, queries that
    read the caption they are to generate, cached keys behind the text's, a cache that the text
    before has changed."""
    sources, (ids, mask) = pictures(), texts()
    positions = torch.tensor([0, 1, 2, 1, 2, 3, 4]).expand(3, -1)
    Z, cache = mqformer.encode_image(sources)
    if objective == "itm":
        Z, text = mqformer(sources, ids, mask, positions=positions), None
    else:
        mqformer.encode_text(ids.flip(1), mask, cache=cache)
        text = mqformer.encode_text(ids, mask, positions, None if objective == "itc" else cache,
                             causal=objective == "icg")
    expected, words = one_pass(mqformer, sources, ids, mask, objective, positions)
    close(Z, expected)
    if text is not None:
        close(text[mask], words[mask])


def test_object_queries_meet_the_image_only_in_self_attention(mqformer):
    """3. Object queries with the image's keys, image queries with the objects', or halves that
    never meet. Layer 1 has no cross-attention: there the news can only come from the others."""
    a, b = pictures(1), pictures(9)
    after = {}
    for name, sources in (("base", a), ("image", Sources(b.image, a.objects, a.mask)),
                          ("objects", Sources(a.image, b.objects, a.mask))):
        hidden, _ = mqformer.embed(3, None, None)
        first, _ = mqformer.layers[0](hidden, None, sources.with_blank())
        after[name] = first, mqformer.layers[1](first, None, sources.with_blank())[0]
    for changed, deaf, told in (("image", slice(QI, None), slice(QI)),
                                 ("objects", slice(QI), slice(QI, None))):
        (first, second), (was, then) = after[changed], after["base"]
        assert torch.equal(first[:, deaf], was[:, deaf])
        assert (first[:, told] - was[:, told]).abs().amin(0).max() > 1e-2
        assert (second[:, deaf] - then[:, deaf]).abs().max() > 1e-3


def test_without_object_queries_it_is_the_qformer():
    """4. A multi-scale form that renames, reorders or adds a parameter of the plain one, which
    test_qformer.py compares with transformers."""
    torch.manual_seed(3)
    plain = QFormer(QFormerSettings(**SIZES, queries=5)).eval()
    torch.manual_seed(3)
    multi = MQFormer(PLAIN).eval()
    (a, b), (ids, mask) = (plain.state_dict(), multi.state_dict()), texts()
    assert list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)
    V = pictures().image
    assert torch.equal(multi(Sources(V), ids, mask), plain(V, ids, mask))
    assert torch.equal(multi.encode_image(Sources(V))[0], plain(V))


def test_the_order_of_objects_is_nothing(mqformer):
    """5. A position on objects, a mask that stays behind when they move, padding that is read."""
    sources = pictures()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved = Sources(sources.image, sources.objects[:, order], sources.mask[:, order])
    close(mqformer.encode_image(moved)[0], mqformer.encode_image(sources)[0])
    noisy = sources.objects.masked_fill(~sources.mask[..., None], float("nan"))
    torch.testing.assert_close(
        mqformer.encode_image(Sources(sources.image, noisy, sources.mask))[0],
        mqformer.encode_image(sources)[0])
    unmasked = mqformer.encode_image(Sources(sources.image, sources.objects))[0]
    assert (unmasked - mqformer.encode_image(sources)[0])[1:].abs().max() > 1e-2


def test_no_object_is_finite(mqformer):
    """7. A softmax over nothing: NaN in the sample without objects, and in every gradient; a
    sample whose outcome depends on how many objects the others have; a refiner's features
    forgotten by the caller and read as 'there is nothing'."""
    sources = pictures()
    with pytest.raises(ValueError, match="object queries need objects"):
        mqformer.encode_image(Sources(sources.image))
    sources.mask[1] = False
    Z = mqformer(sources, *texts())
    Z.sum().backward()
    assert Z.isfinite().all() and all(p.grad is None or p.grad.isfinite().all()
                                      for p in mqformer.parameters())
    none = Sources(sources.image[1:2], sources.objects[:1, :0], sources.mask[:1, :0])
    close(mqformer(none, *(t[1:2] for t in texts())), Z[1:2])


# ---- the rest --------------------------------------------------------------------------------

def test_several_texts_a_picture_and_maps_of_both_kinds(mqformer):
    """An object mask that goes to the wrong sample where questions share a picture; maps of one
    source under both names, a blank row left in, other states where one asks."""
    sources, (ids, mask) = pictures(), texts()
    twice, each = torch.arange(3).repeat_interleave(2), (ids.repeat(2, 1), mask.repeat(2, 1))
    close(mqformer(sources, *each), mqformer(sources.pick(twice), *each))
    Z, maps = mqformer(sources, ids, mask, return_attention=True)
    close(Z, mqformer(sources, ids, mask))
    assert len(maps) == 2  # layers 0 and 2
    for image, objects in maps:
        assert image.shape == (3, 4, QI, 9) and objects.shape == (3, 4, QO, 6)
        for seen in (image, objects):
            torch.testing.assert_close(seen.sum(-1), torch.ones(seen.shape[:-1]))
        assert (objects[2, :, :, 2:] == 0).all()


def test_every_used_parameter_learns_and_starts_as_berts():
    """A detached cache: the queries would learn nothing from captions. One step through
    `encode_image` and `encode_text` reaches all, the queries' last layer apart, which no text
    reads. Query tokens of zero (as published): without positions they would stay all alike; a
    start of the object cross-attention five times too wide."""
    torch.manual_seed(0)
    mqformer = MQFormer(SETTINGS)
    Z, cache = mqformer.encode_image(pictures())
    mqformer.encode_text(*texts(), cache=cache, causal=True).pow(3).sum().backward()
    idle = {name for name, p in mqformer.named_parameters() if p.grad is None}
    assert idle == {f"layers.3.query_ffn.{n}" for n, _ in mqformer.layers[3].query_ffn .named_parameters()}
    mqformer.zero_grad()
    mqformer(pictures(), *texts()).pow(3).sum().backward()
    assert all(p.grad is not None for n, p in mqformer.named_parameters() if "object_cross" in n)
    mqformer = MQFormer(MQFormerSettings(width=96, layers=2, heads=4, ffn=192, queries=32,
                                         vision_width=64, vocab=100, max_text=32,
                                         object_queries=16, object_width=68))
    for name in ("query_tokens", "layers.0.object_cross.key.weight"):
        assert abs(mqformer.get_parameter(name).std().item() - 0.02) < 0.002, name
    cross = [layer.object_cross for layer in mqformer.layers]
    assert cross[0].key.bias.abs().max() == 0 and cross[1] is None
