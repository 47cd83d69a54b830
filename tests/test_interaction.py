"""The interaction's two forms: what meets what, what comes back, and the map that is drawn."""

import pytest
import torch
from torch import nn

from lion_min.lmeye.interaction import InteractionSettings, InteractivePerception

WIDTH, SEEN, FEATURES = 16, 12, 7
FORMS = {
    "transformer": dict(requests=3, returned=3, layers=2, heads=2),
    "eos": dict(encoder="clip_text", requests=1, returned=3, soft=2, layers=2, heads=2),
    "tail": dict(encoder="clip_text", requests=3, returned=3, pool="tail", layers=2, heads=2)}


def made(form: str, **changes) -> InteractivePerception:
    """A module far from its start: random weights everywhere, so that a slip shows."""
    torch.manual_seed(0)
    sizes = dict(llm_width=WIDTH, image_width=SEEN, width=WIDTH, ffn=32, vocab=20, positions=30,
                 bos_id=18, eos_id=19)
    module = InteractivePerception(InteractionSettings(**sizes | FORMS[form] | changes)).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def seen(samples: int = 4, images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(samples, WIDTH), torch.randn(images, FEATURES, SEEN)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_returned_vectors_and_maps(form):
    """A map over BOS and the requests too, of another layer's shape, or with a negative share."""
    module, (hidden, image) = made(form), seen()
    returned, maps = module(hidden, image, maps=True)
    s = module.settings
    assert returned.shape == (4, s.returned, WIDTH)
    assert maps.shape == (4, s.requests, FEATURES * s.soft)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, s.requests))
    assert maps.min() >= 0 and maps.std() > 1e-3
    assert torch.equal(module(hidden, image), returned)


@torch.no_grad()
def test_untrained_transformer_returns_what_it_looks_at():
    """A drawn map that is not the weights of what goes back (another block's, or unaveraged); cell
    words dropped: the LLM would be told what, never where."""
    module, (hidden, image) = made("transformer"), seen()
    places = torch.randn(FEATURES, WIDTH)
    assert (module(hidden, image, places) - module(hidden, image)).abs().max() > 0.1
    nn.init.zeros_(module.transmit.weight), nn.init.zeros_(module.transmit.bias)
    returned, maps = module(hidden, image, places, maps=True)
    tokens = module.image_tokens(image, places).repeat_interleave(2, 0)
    torch.testing.assert_close(returned, maps @ tokens)
    fresh = InteractivePerception(module.settings).transmit
    assert not fresh.weight.any() and not fresh.bias.any()            # so it starts


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_requests_see_each_other(layers):
    """Requests that never meet: the block's second attention skipped."""
    module, (_, image) = made("transformer", layers=layers), seen()
    tokens, requests = module.image_tokens(image), torch.randn(2, 3, WIDTH)
    other = requests.clone()
    other[:, 1] = torch.randn(2, WIDTH)
    before, after = (module.encoder(tokens, r)[0] for r in (requests, other))
    assert (before[:, 0] - after[:, 0]).abs().max() > 1e-3


@torch.no_grad()
def test_tower_is_transformers_own():
    """A mask, a norm or an activation that differs from the stock causal text tower."""
    tower = made("tail").encoder
    ids = torch.tensor([[18, 3, 4, 5, 19]])
    words = tower.model.text_model.embeddings(ids)                    # positions everywhere
    y, _ = tower.encode(words)
    stock = tower.model(ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(y, stock.last_hidden_state, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_sentence_of_the_tower_and_what_is_read_of_it():
    """Positions added to image tokens or requests, or EOS numbered as the first free place; the map
    of EOS, of BOS, or of a row one too early under a request's name; the official off-by-one of
    the tail lost, or kept in the mended form too."""
    image, requests = torch.randn(2, 4, WIDTH), torch.randn(2, 3, WIDTH)
    for tail, places in (("legacy", [6, 7, 8]), ("fixed", [5, 6, 7])):
        tower = made("tail", tail=tail).encoder
        x, words = tower.sentence(image, requests), tower.model.text_model.embeddings
        assert torch.equal(x[:, 1:5], image) and torch.equal(x[:, 5:8], requests)
        for place, token in ((0, 18), (8, 19)):
            end = words.token_embedding.weight[token] + words.position_embedding.weight[place]
            assert torch.equal(x[:, place], end.expand(2, -1))
        y, rows = tower.encode(x)                                       # [2, 9, c], [2, H, 9, 9]
        found, maps = tower(image, requests)
        torch.testing.assert_close(found, tower.model.text_projection(y[:, places]))
        own = rows.mean(1)[:, 5:8, 1:5]
        torch.testing.assert_close(maps, own / own.sum(-1, keepdim=True))


def test_tower_is_frozen_and_lets_gradients_through():
    """A text tower that trains, or that cuts the request off from the loss."""
    module = InteractivePerception(made("eos").settings).train()
    hidden, image = seen()
    module(hidden, image).square().sum().backward()
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    assert trained == {f"{part}.{end}" for part in ("request", "decompose", "transmit")
                       for end in ("weight", "bias")}
    assert all(p.grad.abs().sum() > 0 for p in module.parameters() if p.requires_grad)
    assert not module.encoder.model.text_model.encoder.training


def test_dropout_is_on_image_tokens_in_training_alone():
    """The paper-era dropout of 0.5 also while answering, or on the request."""
    module, (hidden, image) = made("eos", dropout=0.5), seen()
    assert torch.equal(module(hidden, image), module(hidden, image))
    module.train()
    assert float((module.image_tokens(image) == 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert torch.equal(module.requests(hidden), module.requests(hidden))


@pytest.mark.parametrize("changes,told", [
    (dict(encoder="bert"), "'bert'"), (dict(returned=4), "return as many"),
    (dict(width=8), "must be 16"), (dict(encoder="clip_text", pool="cls"), "'cls'"),
    (dict(encoder="clip_text", pool="tail", tail="new"), "'new'")])
def test_impossible_settings_raise(changes, told):
    """A typing error that silently builds another form."""
    with pytest.raises(ValueError, match=told):
        made("transformer", **{"requests": 3} | changes)
