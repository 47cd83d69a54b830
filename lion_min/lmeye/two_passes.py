"""The LLM reads twice: up to its request, and, after the return, to the answer.

Between the passes only the return slots change. In a causal LLM every key and value before the
first slot stays as it was: the second pass keeps the first one's cache and reads only the slots
and what follows ("cached"; "full" reads everything again, as the official code does). An
encoder-decoder's slots are seen from everywhere: its first pass is the encoder alone.

    python -m lion_min.lmeye.two_passes          # what that saves, on a small random model

Symbols: B images, S samples, P shared visual tokens, L tokens of a row, D width, n slots.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lion_min.cli import Parser
from lion_min.language import LanguageModel, LanguageSettings, TextBatch, additive

Ask = Callable[[Tensor], Tensor]           # states at the requests [S, D] -> returned [S, n, D]
RERUN = -3                                 # a first-pass token that the second pass reads anew


@dataclass
class Marks:
    """Where the request token and the return slots stand in a TextBatch."""

    request: Tensor                        # [rows, L] True once a sample
    slots: Tensor                          # [rows, L] True n times a sample, side by side
    first: Tensor                          # [rows, L] True at the first slot of each sample


def mark(ids: Tensor, samples: int, n: int, slot: int, request: int | None) -> Marks:
    """Find the placeholders. `request` None: the first slot asks (the paper-era form).

    ValueError unless each sample has one request and, behind it, n slots side by side.
    """
    slots = ids == slot
    first = slots & ~F.pad(slots, (1, 0))[:, :-1]
    where = first if request is None else ids == request
    groups = first.flatten().cumsum(0)[slots.flatten()].bincount()[1:].tolist()
    before = where.flatten().cumsum(0)[first.flatten()].tolist()  # requests up to each group
    if groups != [n] * samples or [*before, int(where.sum())] != [*range(1, samples + 1), samples]:
        raise ValueError(f"each of {samples} samples needs one request and behind it {n} slots "
                         f"side by side; the text has {int(where.sum())} requests and groups of "
                         f"{groups} slots")
    return Marks(where, slots, first)


def add_at(embeds: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """Add the next row of values [R, D] to every marked place, never replacing what is there."""
    if int(where.sum()) != len(values):
        raise ValueError(f"{int(where.sum())} places for {len(values)} vectors")
    return embeds.index_put(where.nonzero(as_tuple=True), values.to(embeds.dtype),
                            accumulate=True)


def run(llm: LanguageModel, x: Tensor, mask: Tensor, position: Tensor, cache=None) -> Tensor:
    """Last hidden states after the final norm, [rows, T, D]; a cache is read and extended."""
    return llm.model.model(inputs_embeds=x, attention_mask=mask, position_ids=position,
                           past_key_values=cache, use_cache=cache is not None).last_hidden_state


def read(llm: LanguageModel, embeds: Tensor, text: TextBatch, shared: Tensor | None,
         cache=None) -> Tensor:
    """First pass over packed rows (or, encoder-decoder, over samples): states [rows, L, D]."""
    if not llm.encoder_decoder:
        return llm.states(embeds, text, shared, cache)
    seen = 0 if shared is None else shared.shape[1]
    x = embeds if shared is None else torch.cat(
        [shared.repeat_interleave(len(embeds) // len(shared), 0).to(embeds.dtype), embeds], 1)
    mask = F.pad(text.mask, (seen, 0), value=True).long()
    return llm.model.encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state[:, seen:]


# ---- training ---------------------------------------------------------------------------------

def loss(llm: LanguageModel, embeds: Tensor, text: TextBatch, shared: Tensor | None,
         marks: Marks, ask: Ask, cached: bool = True) -> Tensor:
    """Mean cross-entropy of the answer tokens after both passes; embeds [rows, L, D] of
    `text` = LanguageModel.pack(prompts, answers)."""
    if cached and not llm.encoder_decoder:
        logits, text = cached_logits(llm, embeds, text, shared, marks, ask)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), text.labels[:, 1:].flatten())
    return llm.loss(told(llm, embeds, text, shared, marks, ask), text, shared)


def told(llm: LanguageModel, embeds: Tensor, text: TextBatch, shared: Tensor | None,
         marks: Marks, ask: Ask) -> Tensor:
    """First pass, request, return: the embedded text that the full second pass reads."""
    hidden = read(llm, embeds, text, shared)                              # [rows, L, D]
    return add_at(embeds, marks.slots, ask(hidden[marks.request]).flatten(0, 1))


def cached_logits(llm: LanguageModel, embeds: Tensor, text: TextBatch, shared: Tensor | None,
                  marks: Marks, ask: Ask) -> tuple[Tensor, TextBatch]:
    """(logits [rows, L2, V], TextBatch) of the suffixes: slots, what follows them, answer.

    Pass 1 reads the row [image | q1 .. request | q2 .. request | ...], pass 2 the row of all
    suffixes behind pass 1's cache.
    """
    from transformers import DynamicCache
    # A sample's suffix has begun when as many groups of slots were met as its number says.
    late = (marks.first.cumsum(1) == text.sample + 1) & text.mask         # [rows, L]
    early = (text.mask & ~late) | marks.request
    one, order = pick(text, early)
    cache, seen = DynamicCache(), 0 if shared is None else shared.shape[1]
    hidden = read(llm, taken(embeds, order), one, shared, cache)          # [rows, L1, D]
    returned = ask(hidden[marks.request.gather(1, order) & one.mask])     # [S, n, D]
    # Paper-era form: the request is itself a slot and is read anew; its old keys are not seen.
    one.sample = one.sample.masked_fill(late.gather(1, order) & one.mask, RERUN)
    two, order = pick(text, late)
    x = add_at(taken(embeds, order), marks.slots.gather(1, order) & two.mask,
               returned.flatten(0, 1))
    mask = additive(suffix_mask(one, two, seen), x.dtype)[:, None]
    return llm.model.lm_head(run(llm, x, mask, two.position + seen, cache)), two


def pick(text: TextBatch, where: Tensor) -> tuple[TextBatch, Tensor]:
    """The marked tokens of each row, close together and padded: (TextBatch, order [rows, l])."""
    order = (~where).int().argsort(dim=1, stable=True)[:, :int(where.sum(1).max())]
    real = where.gather(1, order)
    pads = {"ids": 0, "labels": -100, "weight": 0.0, "sample": -1, "position": 0, "own": False}
    fields = {k: getattr(text, k).gather(1, order).masked_fill(~real, pad)
              for k, pad in pads.items()}
    return dataclasses.replace(text, mask=real, **fields), order


def taken(embeds: Tensor, order: Tensor) -> Tensor:
    """embeds [rows, L, D] in the order of `pick`: [rows, l, D]."""
    return embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))


def suffix_mask(one: TextBatch, two: TextBatch, seen: int) -> Tensor:
    """[rows, L2, P+L1+L2] True = may look: the image, one's own first-pass tokens, and one's own
    suffix up to oneself."""
    keys = torch.cat([F.pad(one.sample, (seen, 0), value=-2), two.sample], 1)
    mine = (two.sample[:, :, None] == keys[:, None]) | (keys == -2)[:, None]
    before = torch.ones_like(mine[0]).tril(seen + one.sample.shape[1])    # diagonal: oneself
    return mine & before


# ---- answering --------------------------------------------------------------------------------

@torch.no_grad()
def generate(llm: LanguageModel, embeds: Tensor, text: TextBatch, shared: Tensor | None,
             marks: Marks, ask: Ask, cached: bool = True, **options) -> Tensor:
    """Answer ids, one row a sample; text = LanguageModel.pack(prompts), options as there."""
    states, cache = prefix(llm, embeds, text, shared, marks)
    told = add_at(embeds, marks.slots, ask(states).flatten(0, 1))
    if cached and cache is not None:       # transformers skips the tokens that the cache holds
        cache.batch_repeat_interleave(options.get("num_beams", 1))
        options["past_key_values"] = cache
    return llm.generate(told, text, shared, **options)


def prefix(llm: LanguageModel, embeds: Tensor, text: TextBatch, shared: Tensor | None,
           marks: Marks):
    """First pass over rows padded left: (states at the requests [S, D], the cache up to the
    first column that holds a slot; None for an encoder-decoder)."""
    if llm.encoder_decoder:
        return read(llm, embeds, text, shared)[marks.request], None
    from transformers import DynamicCache
    seen = 0 if shared is None else shared.shape[1]
    end = int(marks.request.any(0).nonzero().max()) + 1                   # columns to read
    x = embeds[:, :end] if shared is None else torch.cat(
        [shared.repeat_interleave(len(embeds) // len(shared), 0), embeds[:, :end]], 1)
    mask = F.pad(text.mask[:, :end], (seen, 0), value=True).long()
    cache = DynamicCache()
    hidden = run(llm, x, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)[:, seen:]
    again = end - int(marks.first.any(0).nonzero().min())                 # columns to read anew
    if again > 0:
        cache.crop(-again)
    return hidden[marks.request[:, :end]], cache


# ---- what the cache saves ---------------------------------------------------------------------

def compare(rounds: int = 7, images: int = 4, questions: int = 8) -> dict[str, float]:
    """Seconds of a training step (loss and gradients) with either second pass, the best of
    `rounds`, taken in turn on a small random model; the prompts are those of prompt.py."""
    torch.manual_seed(0)
    llm = LanguageModel(LanguageSettings(vocab=420, width=128, layers=5, ffn=384))
    question, slot, request = [5] * 10, 7, 6
    prompts = [question + [request] + [slot] * 2 + question] * (images * questions)
    text = llm.pack(prompts, [[9, 10]] * len(prompts), images)
    marks = mark(text.ids, len(prompts), 2, slot, request)
    shared = torch.randn(images, 8, 128, requires_grad=True)
    best = {"cached": float("inf"), "full": float("inf")}
    for _ in range(rounds):
        for how in best:
            start = time.perf_counter()
            loss(llm, llm.embed(text.ids), text, shared, marks,
                 lambda h: h[:, None].expand(-1, 2, -1), how == "cached").backward()
            best[how] = min(best[how], time.perf_counter() - start)
    return best


if __name__ == "__main__":
    Parser(prog="python -m lion_min.lmeye.two_passes",
           description="What the second pass on the first one's cache saves.").parse_args()
    took = compare()
    print(f"training step, 4 images with 8 questions each: cached {took['cached'] * 1e3:.0f} ms, "
          f"full {took['full'] * 1e3:.0f} ms, ratio {took['cached'] / took['full']:.2f}")
