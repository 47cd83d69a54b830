"""The Lmeye class of the tiny preset, with the official weights, gives the official values.

Other seeds and sizes of the same layout: LION_MIN_REFERENCE=DIR (DIR/lmeye.safetensors).
"""

import json

import pytest
import torch
from official_files import lmeye_tensors

from lion_min import BadInput
from lion_min.language import TextBatch
from lion_min.lmeye import two_passes
from lion_min.lmeye.model import Lmeye, LmeyeInputs
from lion_min.published import keys
from lion_min.published import lmeye as published

FORMS = ["q1", "q5"]                       # one return slot, and five


@pytest.fixture(scope="module")
def values(reference):
    return reference("lmeye")


@pytest.fixture(scope="module")
def sizes(reference_metadata):
    return {k: json.loads(v) for k, v in reference_metadata("lmeye").items() if v[0] == "{"}


def part(values: dict, prefix: str) -> dict:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def build(values, sizes, form: str, **options) -> Lmeye:
    llm, tower = sizes["llm"], sizes["interaction"]
    ours, settings = published.convert(
        lmeye_tensors(values, form), heads=llm["heads"], clip_heads=tower["heads"],
        img_id=llm["img_token"], imgd_id=llm["imgd_token"], bos_id=tower["bos"],
        eos_id=tower["eos"], **options)
    model = published.build(settings)
    keys.fill(model, ours, "reference")
    return model.eval()


@pytest.fixture(scope="module", params=FORMS)
def case(request, values, sizes):
    """(form, model, inputs, the whole text as rows of ids, labels = ids)."""
    form, ids = request.param, values[f"in/ids_{request.param}"]
    x = LmeyeInputs([values["in/pooled_image_feature"][:, None]], ids.tolist())
    return form, build(values, sizes, form), x, TextBatch(ids, torch.ones_like(ids).bool(), ids)


def close(ours, official):
    torch.testing.assert_close(ours, official, atol=1e-5, rtol=0)


def test_parity_settings_are_the_references(case, sizes):
    """A size read off the wrong shape or axis, that happens to load for these weights only."""
    form, model, *_ = case
    s, tower = model.settings.interaction, sizes["interaction"]
    assert (s.width, s.ffn, s.layers, s.soft, s.vocab, s.returned, s.requests) == (
        tower["hidden"], tower["ffn"], tower["layers"], tower["prompt_len"], tower["vocab"],
        int(form[1:]), 1)
    assert model.interaction.encoder.model.config.hidden_act == tower["act"]
    assert model.interaction.encoder.model.config.layer_norm_eps == tower["ln_eps"]
    assert model.llm.model.config.rms_norm_eps == sizes["llm"]["rms_norm_eps"]


@torch.no_grad()
def test_parity_request(case, values):
    """The state before the final norm, of another place, or of a prompt without its image."""
    form, model, x, text = case
    requests = model.interaction.requests(model.requests(x))
    close(requests[:, 0], values[f"out/request_{form}"])


@torch.no_grad()
def test_parity_first_pass_needs_one_slot_alone(case, values):
    """The official training reads one <img-d> in pass 1: a causal LLM cannot tell."""
    form, model, x, _ = case
    ids = values[f"in/pass1_ids_{form}"]
    assert model.halves(x).heads == [row[:row.index(model.settings.slot_id) + 1]
                                     for row in ids.tolist()]
    text = TextBatch(ids, torch.ones_like(ids).bool())
    hidden = model.llm.text_states(model.words(x, text), text)        # the official row, all of it
    requests = model.interaction.requests(hidden[ids == model.settings.slot_id])
    close(requests[:, 0], values[f"out/request_{form}"])


@torch.no_grad()
def test_parity_interaction(case, values):
    """Positions on soft tokens, another order in X, a tower that is not causal, no final norm."""
    form, model, x, _ = case
    image = model.interaction.image_tokens(model.features(x))
    tower = model.interaction.encoder
    sentence = tower.sentence(image, values[f"out/request_{form}"][:, None])
    close(sentence, values[f"out/interaction_input_{form}"])
    close(tower.encode(sentence)[0], values[f"out/interaction_output_{form}"])


@torch.no_grad()
def test_parity_returned(case, values):
    """Pooling of another place than EOS, or the slots' vectors in another order."""
    form, model, x, text = case
    close(model.interact(x, model.requests(x)), values[f"out/returned_{form}"])


@torch.no_grad()
def test_parity_logits_and_loss(case, values):
    """e_imgd lost in the second pass, slots replaced instead of added to, e_img forgotten."""
    form, model, x, text = case
    embeds = two_passes.add_at(model.words(x, text), text.ids == model.settings.slot_id,
                               model.interact(x, model.requests(x)).flatten(0, 1))
    close(model.llm.model.lm_head(model.llm.text_states(embeds, text)),
          values[f"out/logits_{form}"])
    close(model.llm.loss(embeds, text)[None], values[f"out/loss_{form}"])


@torch.no_grad()
def test_parity_cached_logits(case, values):
    """The second pass behind the first one's cache: the old key of the first <img-d> seen."""
    form, model, x, text = case
    embeds, suffix, prefix = model.rows(x)
    start = prefix.mask.shape[1]
    assert start == 4 and suffix.ids.tolist() == text.ids[:, start:].tolist()
    close(model.llm.model.lm_head(model.llm.text_states(embeds, suffix, prefix)),
          values[f"out/logits_{form}"][:, start:])


@pytest.mark.parametrize("second_pass", ["cached", "full"])
@torch.no_grad()
def test_parity_forward_is_the_loss_of_the_answer(case, values, second_pass):
    """The whole road with pack, prompt and answer: the cross-entropy of the official logits."""
    form, model, x, text = case
    official = values[f"out/logits_{form}"][:, -3:-1].flatten(0, 1)   # foretell the last two
    expected = torch.nn.functional.cross_entropy(official, text.ids[:, -2:].flatten(),
                                                 reduction="none")
    asked = LmeyeInputs(x.states, [row[:-2] for row in x.prompts], [r[-2:-1] for r in x.prompts])
    model.settings.second_pass, model.llm.settings.eos_id = second_pass, int(text.ids[0, -1])
    close(model(asked)[0], expected.mean())


def test_parity_every_parameter_is_loaded(values, sizes, case):
    """A parameter that the official file never fills and that stays at its random start."""
    form, model, *_ = case
    torch.manual_seed(1)
    other = dict(build(values, sizes, form).named_parameters())
    assert [k for k, v in model.named_parameters() if not torch.equal(v, other[k])] == []


def test_parity_names_are_exact(values):
    """Loading by substring: embedding_imgd taken for embedding_img, a prefixed file for nothing."""
    net = part(values, "weights_q5/")
    ours = published.convert(lmeye_tensors(values))[0]
    assert torch.equal(ours["e_img"], net["embedding_img"][0])
    assert torch.equal(ours["e_imgd"], net["embedding_imgd"][0])
    assert not torch.equal(ours["e_img"], ours["e_imgd"])
    legacy = published.convert(lmeye_tensors(values), legacy_overwrite=True)[0]
    assert torch.equal(legacy["e_img"], legacy["e_imgd"])
    assert {k for k in ours if not torch.equal(ours[k], legacy[k])} == {"e_img"}
    prefixed = published.convert(
        {f"module.{k}": v for k, v in lmeye_tensors(values).items()})[0]
    assert all(torch.equal(ours[k], v) for k, v in prefixed.items()) and len(prefixed) == len(ours)


def test_parity_loading_is_strict(values, sizes):
    """A name missing, left over, or of the other number of slots, loaded in silence."""
    net = part(values, "weights_q5/")
    with pytest.raises(ValueError, match="key 'llm2clip.bias' is missing"):
        published.convert({k: v for k, v in net.items() if k != "llm2clip.bias"})
    with pytest.raises(ValueError, match="unknown key 'embedding_imgq'"):
        published.convert(net | {"embedding_imgq": net["embedding_imgd"]})
    model = build(values, sizes, "q5")
    with pytest.raises(BadInput, match="interaction.transmit.weight .* instead of"):
        keys.fill(model, published.convert(lmeye_tensors(values, "q1"))[0], "reference")


@torch.no_grad()
def test_parity_legacy_overwrite_changes_the_model(values, sizes, case):
    """A flag that is read by nobody."""
    form, model, x, text = case
    legacy = build(values, sizes, form, legacy_overwrite=True)
    assert (legacy.requests(x) - model.requests(x)).abs().max() > 1e-3
