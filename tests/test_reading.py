"""How the tiny LLM is taught to read: slots, the grounding teacher, start, lessons."""

from dataclasses import replace

import pytest
import torch
from commands import call
from told import FORMS, SEED, TOKENIZER, WORLD, slots_of, told
from torch import nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.tiny.reading import Grounding, lesson, llm_inputs, main, match_by_likeness, slot_sums
from lion_min.tiny.textworld import LISTED, ROUND
from lion_min.tokenizer import GRID

FAMILIES = pytest.mark.parametrize("family", ["llama", "t5"])


def llm(family: str, width: int = 32) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(LanguageSettings(family, len(TOKENIZER), width, layers=3, ffn=64)).eval()


def test_slots_are_sums_of_words():
    """Guards: offsets of embedding_bag that shift by one behind an empty slot."""
    model, slots = llm("llama"), [[], [7, 9, 7], [], [], [12], []]
    weight = model.model.get_input_embeddings().weight
    expected = torch.stack([sum((weight[i] for i in s), torch.zeros(32)) for s in slots])
    torch.testing.assert_close(slot_sums(model, slots), expected)
    x, _ = told("both", batch=3)
    shared = llm_inputs(model, x, TOKENIZER)[2]
    assert shared.shape == (3, GRID * GRID + LISTED, 32)
    for b, k in ((0, 5), (2, 63), (1, GRID * GRID), (2, GRID * GRID + LISTED - 1)):
        slot = (x.grid[b] + x.listed[b])[k]
        torch.testing.assert_close(shared[b, k], sum((weight[i] for i in slot), torch.zeros(32)))


def hand_made(x, model: LanguageModel, shift: int, cell=None) -> list[torch.Tensor]:
    """States of slots and text whose phrases resemble the slots that they name, `shift` words on;
    with `cell`, they carry their one object's column and row instead."""
    text = model.pack(x.prompts, x.answers)
    slots = torch.zeros(len(x.listed), LISTED, model.width)
    slots[:, range(LISTED), range(LISTED)] = 1.0
    state = torch.zeros(len(text.ids), text.ids.shape[1] + 1, model.width)
    for i, named in enumerate(x.named):
        for place, hits in named:
            at = hits
            if cell is not None:
                column, line = cell(x, i, hits)
                at = [column, GRID + line] if column >= 0 else []
            state[i, place + shift, at] = 1.0
    if not model.encoder_decoder:
        return [slots, state]
    return [torch.cat([slots.repeat_interleave(len(state) // len(slots), 0), state], 1)]


@FAMILIES
def test_grounding_is_nought_where_every_phrase_points_right(family):
    """Guards: places counted wrongly in a row, so that another word is taught."""
    x, model = told("list", batch=4)[0], llm(family)
    teacher = Grounding(model, TOKENIZER, width=32)
    for part in (teacher.asks, teacher.offers):
        part.weight.data = 6 * torch.eye(32)
        nn.init.zeros_(part.bias)
    teacher.tells.weight.data = 9 * torch.eye(2 * GRID, 32)
    losses = []
    for shift in (0, 1):
        teacher.states["early"].extend(hand_made(x, model, shift))
        teacher.states["late"].extend(hand_made(x, model, shift, teacher.cell))
        losses.append(teacher(x, LISTED))
    for name in ("point", "tell"):
        assert losses[0][name] < 1e-2 and losses[1][name] > 2.0, name


def apart(x):
    """The same questions, each beside its own copy of its scene: nothing is shared."""
    n = len(x.prompts) // len(x.grid or x.listed)
    grid, listed = ([s for s in part for _ in range(n)] if part is not None else None
                    for part in (x.grid, x.listed))
    return replace(x, grid=grid, listed=listed)


@FORMS
@FAMILIES
def test_reading_behind_a_scene_is_that_of_single_questions(family, form):
    """Guards: a question that reads its neighbour's answer or another scene's slots."""
    x, model = told(form, batch=3)[0], llm(family)
    teacher, losses = Grounding(model, TOKENIZER), []
    for y in (x, apart(x)):
        embeds, text, shared = llm_inputs(model, y, TOKENIZER)
        losses.append((model.loss(embeds, text, shared),
                       *teacher(y, shared.shape[1]).values()))
    assert len(shared) == len(x.prompts) > 3
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    # ... and the slots are read: without them the loss is another
    blind = model.loss(embeds, text, torch.zeros_like(shared))
    assert abs(blind - losses[1][0]) > 1e-4


@FAMILIES
def test_attention_starts_by_likeness(family):
    """Guards: a start of which one family, or one attention of it, has no part; the curve of near
    numbers laid over other words than a side's, or over none."""
    model = llm(family, width=128)
    match_by_likeness(model, TOKENIZER)
    found = 0
    for module in model.model.modules():
        for names in (("q_proj", "k_proj", "v_proj", "o_proj"), ("q", "k", "v", "o")):
            if all(hasattr(module, name) for name in names):
                q, k, v, o = (getattr(module, name).weight for name in names)
                assert torch.equal(k, q) and torch.equal(o, v.T) and not torch.equal(q, v)
                found += 1
    assert found == (9 if family == "t5" else 3)
    weight = model.model.get_input_embeddings().weight.detach()
    for side in "ltrb":
        numbers = [TOKENIZER.ids[f"<{side}{i}>"] for i in range(-4, 41)]
        line = nn.functional.normalize(weight[numbers], dim=-1)
        likeness = line @ line.T
        assert likeness.diagonal(1).mean() > 0.2 + likeness.diagonal(22).mean()


def test_the_curriculum_rises():
    """Guards: a first lesson that is too hard, or a last one that is still the easy one; the
    T5 in the Llama's lessons, in which it forgets colours."""
    def most(step, part="llama"):
        x = lesson(WORLD, SEED, step, 40, TOKENIZER, part)
        return max(sum(len(s) > 2 for s in slots_of(x, b)[0]) for b in range(40))
    assert [most(step) for step in (0, 159, 160, 359, 360, 999)] == [2, 2, 3, 3, 4, 4]
    forms = {part: [lesson(WORLD, SEED, step, 1, TOKENIZER, part).grid is None
                    for step in range(100, 220)] for part in ("llama", "t5")}
    assert all(forms["t5"]) and all(forms["llama"][:20]) and 20 < sum(forms["llama"][20:]) < 80
    asked = {len(lesson(WORLD, SEED, step, 1, TOKENIZER, "t5").prompts) for step in range(9)}
    assert asked == {len(ROUND) + 1}


@pytest.mark.slow
def test_the_command_prints_a_line_a_task(capsys, tmp_path):
    """Guards: a reading table of other parts than the bundled ones, taken without a word."""
    code, out, _ = call(main, capsys, "--count", 32, "--seed", 7, "--out", tmp_path)
    lines = dict(line.split() for line in out.splitlines()[1:])
    assert code == 0 and "bundled weights" in out.splitlines()[0]
    assert lines.keys() == {*ROUND, "caption", "objects"}
    assert all(float(lines[task]) > 0.9 for task in ("existence", "colour", "reg", "objects"))
