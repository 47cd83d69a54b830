"""Lmeye: two passes at the price of one, controls, and what is shown to the frozen LLM."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lmeye import two_passes
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import CONTROLS, Lmeye, LmeyeInputs, LmeyeSettings, tiny
from lion_min.lmeye.prompt import make_inputs
from lion_min.qformer import QFormerSettings
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import VisionEncoder, VisionSettings

VOCAB, WIDTH = 40, 32
IMG, ASK, SLOT = 38, VOCAB, VOCAB + 1      # <img> is a row of the LLM, the others have none
VISION = VisionSettings(image=32, patch=8, width=16, blocks=2, heads=2, mlp=32)
# S = 6 questions about two images, of several lengths; tails behind the slots, of several lengths.
QUESTIONS = [[17, 18, 19], [10, 11], [12, 13, 14, 15, 16], [17], [18, 19], [20, 21, 22]]
TAILS = [[7], [7, 8], [7], [9], [7, 8, 9], [8]]
ANSWERS = [[30], [31, 32, 33], [34, 35], [36], [37, 37, 37, 30], [31]]
FORMS = ["patches", "later", "paper"]


def settings(form: str, family: str = "llama", **changes) -> LmeyeSettings:
    """The tiny preset's form, the later one (queries, tail pooling), the paper's (pooled, EOS)."""
    sizes = {"patches": dict(image_width=32, width=WIDTH, requests=3, layers=2),
             "later": dict(image_width=16, requests=3, pool="tail"),
             "paper": dict(image_width=16, requests=1, soft=5)}[form]
    if form != "patches":
        sizes |= dict(encoder="clip_text", width=16, layers=2, heads=2, vocab=20, positions=30,
                      bos_id=18, eos_id=19)
    inner = InteractionSettings(llm_width=WIDTH, returned=3, ffn=32, **sizes)
    base = dict(
        vision=VISION, interaction=inner, slot_id=SLOT, depths=(0, 2),
        language=LanguageSettings(family=family, vocab=VOCAB, width=WIDTH, layers=2, ffn=64,
                                  buckets=8, distance=16))
    if form == "paper":
        return LmeyeSettings(**base | dict(static="pooled", reads="pooled", img_id=IMG) | changes)
    queries = QFormerSettings(width=16, layers=2, heads=2, ffn=32, queries=4, vision_width=32,
                              vocab=1, max_text=1)
    reads = dict(reads="queries") if form == "later" else dict(first_cell_id=6)
    return LmeyeSettings(**base | dict(request_id=ASK, qformer=queries) | reads | changes)


def build(form: str = "patches", family: str = "llama", **changes) -> Lmeye:
    """A model far from its start: random weights everywhere, so that a slip shows."""
    torch.manual_seed(0)
    s = settings(form, family, **changes)
    model = Lmeye(s, VisionEncoder(s.vision), LanguageModel(s.language)).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("vision."):
            nn.init.normal_(parameter, std=0.25)
    return model


def inputs(model: Lmeye, which=range(6), tails=None, answers: bool = True) -> LmeyeInputs:
    s, tails = model.settings, tails or TAILS
    ask = [] if s.request_id is None else [s.request_id]
    start = [] if s.img_id is None else [s.img_id]
    torch.manual_seed(1)
    states = [torch.randn(2, 1 + s.vision.side ** 2, 16) for _ in range(3)]
    which = list(which)
    if len(which) < 6:                     # a row an image
        states = [state[[i // 3 for i in which]] for state in states]
    return LmeyeInputs(states, [start + QUESTIONS[i] + ask + [s.slot_id] * 3 + tails[i]
                                for i in which],
                       [ANSWERS[i] for i in which] if answers else None)


def trained(model: Lmeye) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def gradients(model: Lmeye, x: LmeyeInputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, _ = model(x)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in trained(model).items()
                           if p.grad is not None}


# ---- two passes -------------------------------------------------------------------------------

@pytest.mark.parametrize("form", FORMS)
def test_cached_is_the_full_second_pass(form):
    """A suffix that sees a neighbour or the old key of a re-read request, positions that start
    anew, a cache that is cut from the graph."""
    model = build(form)
    cached, some = gradients(model, inputs(model))
    model.settings.second_pass = "full"
    full, all_ = gradients(model, inputs(model))
    torch.testing.assert_close(cached, full, atol=1e-5, rtol=0)
    assert some.keys() == all_.keys()
    for name, gradient in some.items():
        scale = max(1.0, float(all_[name].abs().max()))
        torch.testing.assert_close(gradient / scale, all_[name] / scale, atol=1e-5, rtol=0,
                                   msg=name)
    assert some["interaction.request.weight"].abs().max() > 1e-4      # the road back to pass 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_is_full_generation(form, beams):
    """A cache cut at another column, rows of unlike tails, beams that mix the rows' caches."""
    model = build(form)
    x, options = inputs(model, answers=False), dict(max_new_tokens=6, min_new_tokens=6)
    cached = model.generate(x, num_beams=beams, **options)
    model.settings.second_pass = "full"
    full = model.generate(x, num_beams=beams, **options)
    assert cached.tolist() == full.tolist()
    assert len({tuple(row) for row in cached.tolist()}) > 1           # they do not all agree


@pytest.mark.parametrize("form", FORMS)
def test_cached_generation_logits(form):
    """Equal words by luck: the logits behind them must be equal too."""
    model, found = build(form), []
    options = dict(max_new_tokens=4, min_new_tokens=4, output_logits=True,
                   return_dict_in_generate=True)
    for model.settings.second_pass in ("cached", "full"):
        found.append(torch.stack(model.generate(inputs(model, answers=False), **options).logits))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_second_pass_reads_only_what_changed(form):
    """A "cached" pass that reads the whole row again."""
    model, read = build(form), []
    model.llm.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True)
    model(inputs(model))
    suffixes = [sum(3 + len(TAILS[i]) + len(ANSWERS[i]) + 1 for i in row)
                for row in ((0, 1, 2), (3, 4, 5))]
    assert len(read) == 2 and read[1] == max(suffixes)
    read.clear()
    model.generate(inputs(model, tails=[[7]] * 6, answers=False), max_new_tokens=1)
    assert read[1] == 3 + 1                                           # the slots and the tail


@pytest.mark.parametrize("form", FORMS)
def test_packed_is_single(form):
    """A neighbour's request returned to this sample, or seen through the image's row."""
    model = build(form)
    with torch.no_grad():
        together = model(inputs(model))[0]
        alone = [model(inputs(model, [i]))[0] * (len(ANSWERS[i]) + 1) for i in range(6)]
    tokens = sum(len(a) + 1 for a in ANSWERS)
    torch.testing.assert_close(sum(alone) / tokens, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_batch_is_single_generation(form):
    """Left padding that is seen or counted in the first pass."""
    model, options = build(form), dict(max_new_tokens=6, min_new_tokens=6)
    batch = model.generate(inputs(model, answers=False), **options)
    for i in range(6):
        one = model.generate(inputs(model, [i], answers=False), **options)
        assert one[0].tolist() == batch[i].tolist()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_forward_logits_are_generate_logits(form):
    """Training and answering that differ in order, positions, mask or request."""
    model = build(form)
    x = inputs(model, answers=False)
    out = model.generate(x, max_new_tokens=5, min_new_tokens=5, output_logits=True,
                         return_dict_in_generate=True)
    text = model.llm.pack(x.prompts, out.sequences.tolist(), images=2)
    logits, suffix = two_passes.cached_logits(
        model.llm, model.words(x, text), text, model.static_tokens(x), model.marks(x, text),
        lambda hidden: model.ask(x, hidden))
    learned = (suffix.labels != -100).roll(-1, 1)                     # the token before foretells
    forward = logits[learned].view(6, 6, -1)                          # five tokens and the EOS
    torch.testing.assert_close(forward[:, :5], torch.stack(out.logits, 1), atol=1e-4, rtol=1e-4)


def test_encoder_decoder_reads_its_first_pass_with_the_encoder_alone():
    """A T5 that decodes twice; a request taken from the decoder."""
    model, ran = build(family="t5"), []
    for part in ("encoder", "decoder"):
        getattr(model.llm.model, part).register_forward_hook(
            lambda *_, part=part: ran.append(part))
    _, found = gradients(model, inputs(model))
    assert ran == ["encoder", "encoder", "decoder"]
    assert found["interaction.request.weight"].abs().max() > 1e-6
    one = build(family="t5").generate(inputs(model, [4], answers=False), max_new_tokens=4)
    batch = model.generate(inputs(model, answers=False), max_new_tokens=4)
    assert batch[4].tolist()[:one.shape[1]] == one[0].tolist()


def test_every_trained_part_has_a_gradient():
    """A part that the loss never reaches and that a stage would train in vain."""
    for form in FORMS:
        model = build(form)
        _, found = gradients(model, inputs(model))
        # The key's bias adds the same to all scores; softmax forgets it.
        idle = [n for n in trained(model) if not n.endswith("key.bias")
                and (n not in found or not found[n].any())]
        assert idle == [], form


# ---- controls ---------------------------------------------------------------------------------

def losses(model: Lmeye, x: LmeyeInputs) -> dict[str, float]:
    with torch.no_grad():
        out = {}
        for model.settings.control in CONTROLS:
            out[model.settings.control] = model(x)[0].item()
    return out


@pytest.mark.parametrize("form", FORMS)
def test_controls_have_the_same_parameters_and_tokens(form):
    """A control row that loses by being smaller, or that is the same model under another name."""
    parameters = [{n: p.shape for n, p in build(form, control=c).named_parameters()}
                  for c in CONTROLS]
    assert all(p == parameters[0] for p in parameters)
    model, read = build(form, second_pass="full"), []
    model.llm.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape), with_kwargs=True)
    assert len(set(losses(model, inputs(model)).values())) == 4
    assert len(set(read)) == 1


@torch.no_grad()
def requests_of(model: Lmeye, x: LmeyeInputs) -> torch.Tensor:
    """The states that reach the interaction, [S, D]."""
    seen = []
    keep = model.interaction.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    keep.remove()
    return seen[0]


@pytest.mark.parametrize("form", FORMS)
def test_foreign_is_the_request_of_another_sample(form):
    """A 'foreign' request that is one's own: the control would equal what it controls."""
    model = build(form)
    own = requests_of(model, inputs(model))
    model.settings.control = "foreign"
    foreign = requests_of(model, inputs(model))
    torch.testing.assert_close(foreign, own[[5, 0, 1, 2, 3, 4]])
    assert (foreign - own).abs().amax(-1).min() > 0.01
    x = inputs(model, [0], answers=False)
    with pytest.raises(ValueError, match="two samples or more"):
        model.generate(x)


def test_zeroed_returns_the_same_whatever_is_asked():
    """A request that still reaches the interaction."""
    model = build(control="zeroed")
    assert not requests_of(model, inputs(model)).any()
    x = inputs(model, answers=False)
    looks = model.looks(x)
    torch.testing.assert_close(looks[0], looks[1])
    model.settings.control = "interactive"
    assert (model.looks(x)[0] - model.looks(x)[1]).abs().max() > 1e-3


def test_static_returns_nothing():
    """A static row whose slots are told something after all."""
    model = build(control="static")
    before = model(inputs(model))[0].item()
    nn.init.normal_(model.interaction.transmit.weight)
    assert model(inputs(model))[0].item() == before
    with pytest.raises(ValueError, match="nothing is asked"):
        model.looks(inputs(model, answers=False))


# ---- what the LLM is shown --------------------------------------------------------------------

@torch.no_grad()
def test_slots_are_added_to_never_replaced():
    """e_imgd or the token's own row lost when the second pass gets its vectors."""
    model = build("paper", slot_id=25)     # a row of the LLM
    x = inputs(model)
    text = model.llm.pack(x.prompts, x.answers, 2)
    first = model.words(x, text)
    marks = model.marks(x, text)
    base = model.llm.embed(torch.tensor(25)) + model.e_imgd
    assert torch.allclose(first[marks.slots], base.expand(18, -1))
    returned = torch.randn(6, 3, WIDTH)
    second = two_passes.told(model.llm, first, text, None, marks, lambda hidden: returned)
    torch.testing.assert_close(second[marks.slots] - base, returned.flatten(0, 1))
    assert torch.equal(second[~marks.slots], first[~marks.slots])
    image = model.img_proj(x.states[-1][:, 0]) + model.e_img + model.llm.embed(torch.tensor(IMG))
    torch.testing.assert_close(first[text.ids == IMG], image.repeat_interleave(3, 0))


@torch.no_grad()
def test_placeholders_beyond_the_vocabulary():
    """An id without a row handed to the embedding, or given another word's row."""
    model = build()
    x = inputs(model)
    text = model.llm.pack(x.prompts)
    words = model.words(x, text)
    assert torch.equal(words[text.ids == ASK], model.e_imgq.expand(6, -1))
    assert torch.equal(words[text.ids == SLOT], model.e_imgd.expand(18, -1))
    plain = text.ids < VOCAB
    assert torch.equal(words[plain], model.llm.embed(text.ids[plain]))


def test_placeholder_counts_are_checked():
    """A request too few, a slot too many, or slots of one sample counted for another."""
    model = build()
    for prompts in ([[5, SLOT, SLOT, SLOT]], [[5, ASK, SLOT, SLOT]], [[5, ASK, ASK] + [SLOT] * 3],
                    [[5, ASK, SLOT, 4, SLOT, SLOT]],
                    [[5, ASK, *[SLOT] * 4], [5, ASK, SLOT, SLOT]],
                    [[5, *[SLOT] * 3, ASK]], [[5, ASK, ASK] + [SLOT] * 3, [5] + [SLOT] * 3]):
        with pytest.raises(ValueError, match="behind it 3 slots"):
            model.generate(LmeyeInputs(inputs(model).states, prompts))


def test_prompts_without_a_request_are_read_once():
    """Stage 1 trains on captions: no slots, no second pass, no interaction."""
    model = build()
    x = replace(inputs(model), prompts=QUESTIONS)
    _, found = gradients(model, x)
    assert {n.split(".")[0] for n, g in found.items() if g.any()} == {"ln_vision", "qformer",
                                                                      "query_proj"}
    assert model.generate(x, max_new_tokens=3).shape[0] == 6


@torch.no_grad()
def test_looks_follow_the_question_and_sum_to_one():
    """The map of another sample or image; a map that no question moves."""
    model = build()
    looks = model.looks(inputs(model, answers=False))
    assert looks.shape == (6, 3, 16)
    torch.testing.assert_close(looks.sum(-1), torch.ones(6, 3))
    for i in range(6):
        alone = model.looks(inputs(model, [i], answers=False))
        torch.testing.assert_close(alone[0], looks[i], atol=1e-5, rtol=1e-4)


def test_the_vit_and_the_llm_are_frozen():
    """Anything of the frozen parts among what trains."""
    for form in FORMS:
        model = build(form)
        assert not [n for n in trained(model) if n.startswith(("vision.", "llm.",
                                                               "interaction.encoder.model."))]


@pytest.mark.parametrize("changes", [dict(control="none"), dict(second_pass="half"),
                                     dict(reads="image"), dict(static="none")])
def test_unknown_settings_raise(changes):
    """A typing error that silently runs another control."""
    with pytest.raises(ValueError, match="unknown"):
        build(**changes)


def test_the_tiny_preset_asks_and_answers():
    """The preset's sizes not fitting each other, or its size creeping up."""
    tokenizer, vision = TinyTokenizer(), VisionSettings()
    s = tiny(vision, len(tokenizer))
    model = Lmeye(s, VisionEncoder(vision), LanguageModel(s.language))
    size = sum(p.numel() for p in trained(model).values())
    assert 400_000 < size < 700_000
    states = [torch.randn(2, 65, 128) for _ in range(5)]
    prompts = ["What colour is the circle?", "Find the red square."]
    x = make_inputs(model, tokenizer, states, prompts, ["red", "[0.1,0.1,0.5,0.5]"])
    ids = tokenizer.encode(prompts[0])
    assert x.prompts[0] == ids + [s.request_id] + [s.slot_id] * 2 + ids
    assert s.request_id == len(tokenizer) and s.slot_id == len(tokenizer) + 1
    assert torch.isfinite(model(x)[0]) and model.generate(x, max_new_tokens=2).shape[0] == 2
    assert make_inputs(model, tokenizer, states, prompts, asks=False).prompts[0] == ids
