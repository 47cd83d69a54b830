"""How a tiny LLM learns to read: text scenes in, the curriculum, two helps, and its reading scores.

    python -m lion_min.tiny.reading             # what the frozen Llama reads; --llm t5

Symbols: B scenes, P slots, S samples, L tokens, M phrases, D width.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.cli import Parser, command, whole
from lion_min.scores import caption_object_f1, is_right
from lion_min.language import LanguageModel, splice
from lion_min.padding import alike
from lion_min.parts import say_if_stage0_bundled, tiny_parts
from lion_min.questions import DRAWS
from lion_min.tiny.textworld import ROUND, TextScenes, text_scenes
from lion_min.scenes import WORLDS, World
from lion_min.tokenizer import GRID, REACH, SIDES, TinyTokenizer


def slot_sums(llm: LanguageModel, slots: list[list[int]]) -> Tensor:
    """[N] lists of word ids -> [N, D], the sum of each list's embeddings (0 when empty)."""
    weight = llm.model.get_input_embeddings().weight
    flat = torch.tensor([i for s in slots for i in s], device=weight.device)
    starts = torch.tensor([0, *map(len, slots)][:-1], device=weight.device).cumsum(0)
    return F.embedding_bag(flat, weight, starts, mode="sum")


def llm_inputs(llm: LanguageModel, scenes: TextScenes, tokenizer: TinyTokenizer, train: bool = True):
    """(embeds, text, shared) for llm.loss (train) or llm.generate."""
    shared = torch.cat([slot_sums(llm, [slot for scene in form for slot in scene]).unflatten(
        0, (len(form), -1)) for form in scenes.forms], 1)             # [B, P, D]
    text = llm.pack(scenes.prompts, scenes.answers if train else None)
    embeds = llm.embed(text.ids)                                      # [S, L, D]
    if scenes.regions:
        embeds = splice(embeds, text.ids, tokenizer.region_id, slot_sums(llm, scenes.regions))
    return embeds, text, shared


class Grounding(nn.Module):
    """A teacher's loss at the last token of every phrase that names objects.

    point  after the second block its state resembles the slots it fits, all of them alike
    tell   after the third it knows where the object is: column and row, if it is one object
    Reading takes these two steps before any answer; comparing two objects takes them twice, and
    true/false alone gives no clue to either. Thrown away after stage 0.
    """

    def __init__(self, llm: LanguageModel, tokenizer: TinyTokenizer, width: int = 64):
        super().__init__()
        self.first = tokenizer.ids["<x0>"]                            # x0..x7, then y0..y7
        self.norm, self.late_norm = nn.LayerNorm(llm.width), nn.LayerNorm(llm.width)
        self.asks, self.offers = nn.Linear(llm.width, width), nn.Linear(llm.width, width)
        self.tells = nn.Linear(llm.width, 2 * GRID)
        with torch.no_grad():
            self.offers.weight.copy_(self.asks.weight)                # see match_by_likeness
        blocks = llm.model.encoder.block if llm.encoder_decoder else llm.model.model.layers
        self.states = {"early": [], "late": []}
        for name, block in zip(self.states, blocks[1:3]):
            block.register_forward_hook(lambda module, args, out, name=name: self.states[name].append(
                out[0] if isinstance(out, tuple) else out) if torch.is_grad_enabled() else None)

    def forward(self, scenes: TextScenes, slots: int) -> dict[str, Tensor]:
        """{'point', 'tell'}: means over phrases; call right after the LLM's loss."""
        slot_states, early = (self.norm(part) for part in self.split("early", scenes, slots))
        late = self.late_norm(self.split("late", scenes, slots)[1])         # [S, L, D]
        phrases = [(i, *phrase) for i, named in enumerate(scenes.named) for phrase in named]
        if not phrases:
            return {"point": early.sum() * 0, "tell": late.sum() * 0}
        rows, tokens, hits = map(list, zip(*phrases))
        queries = self.asks(early[rows, tokens])                      # [M, d]
        keys = self.offers(slot_states)                               # [B, P, d]
        keys = keys[[i * len(keys) // len(early) for i in rows]]      # [M, P, d]
        scores = (keys @ queries[:, :, None])[..., 0] / queries.shape[1] ** 0.5
        right = torch.zeros_like(scores, dtype=torch.bool)
        for row, slots_named in zip(right, hits):
            row[slots_named] = True
        cells = self.tells(late[rows, tokens]).unflatten(-1, (2, GRID)).flatten(0, 1)
        truth = torch.tensor([self.cell(scenes, i, slots_named) for i, _, slots_named in phrases],
                             device=early.device).flatten()           # [2M], -100: several objects
        target = right / right.sum(-1, keepdim=True)                  # to count, see every one
        return {"point": F.kl_div(scores.log_softmax(-1), target, reduction="batchmean"),
                "tell": F.cross_entropy(cells, truth, ignore_index=-100)
                if bool((truth >= 0).any()) else cells.sum() * 0}

    def split(self, name: str, scenes: TextScenes, slots: int) -> tuple[Tensor, Tensor]:
        """A block's states of the slots [B, P, D] and of the text behind them [S, L, D], which may
        have been read in groups; an encoder-decoder reads both in one row."""
        first, *parts = (state.float() for state in self.states[name])
        self.states[name].clear()
        if not parts:
            return first[:, :slots], first[:, slots:]
        width = max(part.shape[1] for part in parts)
        text = torch.cat([F.pad(part, (0, 0, 0, width - part.shape[1])) for part in parts])
        if len(parts) > 1:
            lengths = [len(p) + len(a) + 1 for p, a in zip(scenes.prompts, scenes.answers)]
            text = text[torch.cat(alike(torch.tensor(lengths))).argsort()]
        return first, text

    def cell(self, scenes: TextScenes, sample: int, slots: list[int]) -> tuple[int, int]:
        """(column, row) of the one object in these slots, (-100, -100) if they are several."""
        image = sample * len(scenes.forms[0]) // len(scenes.prompts)
        words = [slot for form in scenes.forms for slot in form[image]]
        cells = {tuple(i - self.first for i in words[k] if 0 <= i - self.first < 2 * GRID) for k in slots}
        column, row = cells.pop() if len(cells) == 1 else (-100, -100 + GRID)
        return column, row - GRID


@torch.no_grad()
def match_by_likeness(llm: LanguageModel, tokenizer: TinyTokenizer) -> None:
    """A start for a tiny LLM whose whole work is looking things up.

    Keys equal queries and outputs undo values, so that from the first step on attention goes to
    what resembles the querying token and copies it; embeddings are large beside what the blocks
    add, and those of numbers (columns, rows, distances) begin on a smooth curve, so that left and
    right can be compared. Measured on text scenes, seed 0, while a box was still five words: VQA
    colour .77 after 250 steps against .17 after 1000 from transformers' own start.
    """
    for name, parameter in llm.model.named_parameters():
        if not llm.encoder_decoder and parameter.ndim == 2:
            parameter.normal_(0, 0.5 if "embed" in name else llm.width ** -0.5)
    if not llm.encoder_decoder:
        llm.model.model.norm.weight.fill_(0.2)                        # modest first logits
    words, waves = llm.model.get_input_embeddings().weight, torch.arange(1, 5)
    for sort, low, high in [(axis, 0, GRID - 1) for axis in "xy"] + [(side, *REACH) for side in SIDES]:
        first, count = tokenizer.ids[f"<{sort}{low}>"], high - low + 1
        curve = torch.cos(torch.pi * torch.outer((torch.arange(count) + 0.5) / count, waves))
        curve = curve / waves @ torch.randn(4, llm.width)             # [count, D]
        numbers = words[first:first + count]
        numbers.copy_(0.8 * numbers + 0.6 * numbers.std() * curve / curve.std())
    for module in llm.model.modules():
        names = next((n for n in (("q_proj", "k_proj", "v_proj", "o_proj"), ("q", "k", "v", "o"))
                      if all(hasattr(module, part) for part in n)), None)
        if names:
            q, k, v, o = (getattr(module, part).weight for part in names)
            k.copy_(q)
            o.copy_(v.T)


def lesson(world: World, seed: int, step: int, batch: int, tokenizer: TinyTokenizer, part: str) -> TextScenes:
    """The curriculum: two objects in lists first, then three, then all forms and numbers.

    A T5 reads a scene again for every question, so it gets short lists only; and as it learns more
    slowly, every scene asks it the whole round and its caption: with the Llama's batches of captions
    alone and of hard questions it forgot the easy ones.
    """
    plain = part == "t5"
    return text_scenes(world, seed, step, batch, tokenizer,
                       most=2 if step < 160 else 3 if step < 360 else None,
                       tasks=ROUND + ("caption",) * plain,
                       form="list" if step < 120 or plain else None)


@torch.no_grad()
def reading_scores(llm: LanguageModel, tokenizer: TinyTokenizer, world: World, count: int = 128,
                   seed: int = 0) -> dict[str, float]:
    """Share of right answers a task on held-out scenes given as perfect text; REC by IoU >= .5.

    'objects': F1 of the objects that captions name; 'talk', 'box_talk': of questions.py. What sees
    can hardly exceed it. `count` scenes, one question of each task.
    """
    right, captions = defaultdict(list), []
    tasks = ROUND + ("caption",)
    for step in range(max(1, count // 32)):
        scenes = text_scenes(world, seed, step, 32, tokenizer, "heldout", tasks=tasks, form="list")
        answers = llm.generate(*llm_inputs(llm, scenes, tokenizer, train=False)).tolist()
        for name, example, ids in zip(cycle(tasks), scenes.examples, answers):
            answer = tokenizer.decode(ids)
            right[name if name in DRAWS else example.task].append(is_right(answer, example))
            if example.task == "caption":
                captions.append((answer, example.answer))
    return {task: round(sum(hits) / len(hits), 4) for task, hits in sorted(right.items())} | {
        "objects": caption_object_f1(captions)}


def main(argv: list[str] | None = None) -> int:
    """Print what a frozen tiny LLM reads when it is given scenes as perfect text."""
    p = Parser(prog="python -m lion_min.tiny.reading", description=main.__doc__)
    p.add_argument("--llm", choices=("llama", "t5"), default="llama")
    p.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR",
                   help="where stage 0 may lie; default: runs, else the bundled one")
    p.add_argument("--count", type=whole(32), default=512, help="scenes; default: 512")
    p.add_argument("--seed", type=whole(0), default=0)

    def run(a) -> None:
        say_if_stage0_bundled(a.out, a.llm)
        parts = tiny_parts(a.out, a.llm)
        scores = reading_scores(parts.llm.eval(), parts.tokenizer, WORLDS["medium"], a.count, a.seed)
        print("\n".join(f"{task:<16}{share:.3f}" for task, share in scores.items()))

    return command(p, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
