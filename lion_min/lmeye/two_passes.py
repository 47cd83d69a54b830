"""The LLM reads twice: up to its request, and, after the return, to the answer.

    pass 1   [image | question <request>]                                  -> the request's state
    pass 2                               [<slot> x n | tail | answer]      "cached"
             [image | question <request> | <slot> x n | tail | answer]     "full"

Between the passes only the slots change. In a causal LLM every key and value before the first slot
stays as it was: the second pass keeps the first one's cache and reads only the slots and what
follows; "full" reads everything again, as the official code does. An encoder-decoder's slots are
seen from everywhere: its first pass is the encoder alone, over the whole prompt.

    python -m lion_min.lmeye.two_passes          # what the cache saves, on a small random model

Symbols: B images, S samples, P shared visual tokens, L tokens of a row, D width, n slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lion_min.cli import Parser, command
from lion_min.language import LanguageModel, LanguageSettings, Prefix, TextBatch

Words = Callable[[TextBatch], Tensor]      # text [S, L] -> embedded [S, L, D]
Interact = Callable[[Tensor], Tensor]      # states at the requests [S, D] -> returned [S, n, D]


@dataclass
class Halves:
    """Prompts cut at their requests."""

    prompts: list[list[int]]
    heads: list[list[int]]                 # up to and with the request
    tails: list[list[int]]                 # from the first slot on
    slot: int
    overlap: int                           # tokens in both: 1 where the first slot is the request


def cut(prompts: list[list[int]], n: int, slot: int, request: int | None) -> Halves:
    """Find the placeholders. `request` None: the first slot is it.

    ValueError unless each prompt has one request and, right behind it, n slots side by side.
    """
    overlap, firsts = int(request is None), []
    for i, row in enumerate(prompts):
        requests = [k for k, token in enumerate(row) if token == request]
        slots = [k for k, token in enumerate(row) if token == slot]
        if not slots or slots != [*range(slots[0], slots[0] + n)] or (
                request is not None and requests != [slots[0] - 1]):
            raise ValueError(f"sample {i} needs one request and right behind it {n} slots side by "
                             f"side; it has requests at {requests} and slots at {slots}")
        firsts.append(slots[0])
    return Halves(prompts, [row[:k + overlap] for row, k in zip(prompts, firsts)],
                  [row[k:] for row, k in zip(prompts, firsts)], slot, overlap)


def add_at(embeds: Tensor, marks: Tensor, values: Tensor) -> Tensor:
    """Add the next row of values [R, D] to every marked embedding, which is not replaced."""
    if int(marks.sum()) != len(values):
        raise ValueError(f"{int(marks.sum())} places for {len(values)} vectors")
    return embeds.index_put(marks.nonzero(as_tuple=True), values.to(embeds.dtype), accumulate=True)


def first_pass(llm: LanguageModel, halves: Halves, words: Words, shared: Tensor | None
               ) -> tuple[Tensor, Prefix | None]:
    """(the LLM's states at the requests [S, D], its prefix; encoder-decoder: None)."""
    if llm.encoder_decoder:
        text = llm.pack(halves.prompts)
        states = llm.encode(words(text), text.mask, shared)               # [S, L, D]
        return states[range(len(states)), [len(head) - 1 for head in halves.heads]], None
    text = llm.pack(halves.heads)          # padded left: the requests stand in the last column
    embeds = words(text)
    prefix = llm.prefix(shared, len(embeds), embeds.dtype)
    return llm.states(embeds, text.mask, prefix)[:, -1], prefix


def second_pass(llm: LanguageModel, halves: Halves, answers: list[list[int]] | None, words: Words,
                shared: Tensor | None, interact: Interact, cached: bool = True
                ) -> tuple[Tensor, TextBatch, Tensor | Prefix | None]:
    """(embeds with the slots filled, text, the tokens or prefix before them) for llm.loss."""
    states, prefix = first_pass(llm, halves, words, shared)
    if prefix is None or not cached:
        rows, prefix = halves.prompts, shared
    else:
        rows = halves.tails
        prefix.crop(halves.overlap)        # a request that is a slot is read again
    text = llm.pack(rows, answers)
    returned = interact(states).flatten(0, 1)                             # [S*n, D]
    return add_at(words(text), text.ids == halves.slot, returned), text, prefix


# ---- what the cache saves ---------------------------------------------------------------------

def compare(rounds: int = 7, images: int = 4, questions: int = 8) -> dict[str, float]:
    """Seconds of a training step (loss and gradients) with either second pass, the best of
    `rounds`, taken in turn on a small random model; the prompts are those of prompt.py."""
    torch.manual_seed(0)
    llm = LanguageModel(LanguageSettings(vocab=420, width=128, layers=5, ffn=384))
    question, slot, request = [5] * 10, 7, 6
    halves = cut([question + [request] + [slot] * 2 + question] * (images * questions), 2, slot, request)
    shared = torch.randn(images, 8, 128, requires_grad=True)
    best = {"cached": float("inf"), "full": float("inf")}
    for _ in range(rounds):
        for how in best:
            start = time.perf_counter()
            llm.loss(*second_pass(llm, halves, [[9, 10]] * len(halves.prompts),
                                  lambda text: llm.embed(text.ids), shared,
                                  lambda h: h[:, None].expand(-1, 2, -1), how == "cached")
                     ).backward()
            best[how] = min(best[how], time.perf_counter() - start)
    return best


def main(args) -> None:
    """Print what `compare` measures."""
    took = compare()
    print(f"training step, 4 images with 8 questions each: cached {took['cached'] * 1e3:.0f} ms, "
          f"full {took['full'] * 1e3:.0f} ms, ratio {took['cached'] / took['full']:.2f}")


if __name__ == "__main__":
    raise SystemExit(command(Parser(
        prog="python -m lion_min.lmeye.two_passes",
        description="What the second pass on the first one's cache saves."), main))
