"""Stage 0, for the drawn world only: the tiny frozen parts, each trained alone.

vision  the ViT and its tag head, from pictures: `dense` labels a cell (fast, the default) or
        `coarse` ones, an image's caption (contrast, as CLIP) and tags, as the papers' encoders
llama   the LLM that LION reads with, from text alone: scenes as slots of words (textworld.py)
t5      LION's published family, the same way
qformer the Q-Former, from questions and the first words of their answers (questions.py)

Published systems take these from CLIP, EVA and FlanT5. Symbols: B images, N patches, D width.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min import checkpoints, training
from lion_min.cli import LION
from lion_min.draws import has_lookalikes
from lion_min.images import CLIP_MEAN, CLIP_STD, to_pixels
from lion_min.language import LanguageModel
from lion_min.tiny import questions, reading
from lion_min.lion.model import tiny
from lion_min.tiny.textworld import TextScenes, tags_of
from lion_min.scenes import WORLDS, Scene, World, make_scene
from lion_min.padding import pad_rows
from lion_min.parts import STAGE0, load_init, tiny_parts
from lion_min.tokenizer import GRID, REACH, TinyTokenizer, box_words
from lion_min.training import Plan
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

PARTS = ("vision", "llama", "t5", "qformer")
# Heads that only teach; the bundled weights have lost them.
TEACHERS = ("grounding.", "cells.", "words.", "reader.", "image_proj.", "text_proj.", "scale", "head.")
PLANS = {
    "vision": Plan(steps=3000, lr=1e-3, warmup=100, decay="linear_tail", precision="bf16"),
    "llama": Plan(steps=6800, lr=1.2e-3, warmup=100, precision="bf16", betas=(0.9, 0.98)),
    "t5": Plan(steps=3000, lr=1.2e-3, warmup=100, precision="bf16", betas=(0.9, 0.98)),
    "qformer": Plan(steps=1500, lr=1e-3, warmup=100, decay="linear_tail", precision="bf16"),
}
BATCH = {"vision": 64, "llama": 14, "t5": 7, "qformer": 16}


class VisionTeacher(nn.Module):
    """The encoder, its tag head, and the heads that teach it and are thrown away afterwards."""

    def __init__(self, world: World, labels: str, vocab: int):
        super().__init__()
        settings = VisionSettings.of(world.image)
        width = settings.width
        self.world, self.labels = world, labels
        self.vision = VisionEncoder(settings)
        self.tagger = TagHead(width, (*world.colours, *world.kinds))
        reach = REACH[1] - REACH[0] + 1
        self.sizes = [1, len(world.colours), len(world.kinds), len(world.sizes),
                      len(world.textures), *[reach] * 4]
        self.cells = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes)))
        self.words = nn.Embedding(vocab, width)                      # the caption tower of
        self.reader = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True)
        self.image_proj, self.text_proj = nn.Linear(width, 64), nn.Linear(width, 64)  # the contrast
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, scenes: list[Scene], captions: list[list[int]]) -> tuple[Tensor, dict]:
        state = self.vision(self.pixels(scenes))[-1]                 # [B, 1+N, D]
        parts = {"tags": self.tag_loss(state, scenes), "contrast": self.contrast(state, captions)}
        if self.labels == "dense":
            parts |= self.dense(state, scenes)
        weights = {"contrast": 0.1, "distances": 0.5} if self.labels == "dense" else {}
        return sum(weights.get(k, 1.0) * v for k, v in parts.items()), parts

    def pixels(self, scenes: list[Scene]) -> Tensor:
        return to_pixels([s.draw() for s in scenes], self.vision.settings.image, CLIP_MEAN,
                         CLIP_STD).to(self.scale.device)

    def tag_loss(self, state: Tensor, scenes: list[Scene]) -> Tensor:
        truth = torch.tensor([[float(tag in tags) for tag in self.tagger.tags]
                              for tags in map(tags_of, scenes)])
        return F.binary_cross_entropy_with_logits(self.tagger(state).float(), truth.to(state.device))

    def contrast(self, state: Tensor, captions: list[list[int]]) -> Tensor:
        """CLIP's symmetric loss between images and captions of the batch."""
        ids = pad_rows(captions, 0).to(state.device)
        words = self.reader(self.words(ids), src_key_padding_mask=ids == 0)
        text = (words * (ids != 0)[..., None]).sum(1) / (ids != 0).sum(1, keepdim=True)
        image = F.normalize(self.image_proj(state[:, 1:].mean(1)).float(), dim=-1)     # [B, 64]
        text = F.normalize(self.text_proj(text).float(), dim=-1)                       # [B, 64]
        logits = image @ text.T * self.scale.exp()                                     # [B, B]
        pairs = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2

    def truth(self, scenes: list[Scene]) -> tuple[list[int], Tensor]:
        """(the rows of the objects' centres among all B*N cells, their 8 labels)."""
        rows, labels = [], []
        for b, scene in enumerate(scenes):
            for t in scene.objects:
                col, row, *reach = (int(w[2:-1]) for w in box_words(t.box))
                rows.append((b * GRID + row) * GRID + col)
                labels.append([self.world.colours.index(t.colour), self.world.kinds.index(t.kind),
                               list(self.world.sizes).index(t.size), self.world.textures.index(t.texture),
                               *(r - REACH[0] for r in reach)])
        return rows, torch.tensor(labels, device=self.scale.device)

    def attributes(self, cells: Tensor, rows: list[int]) -> tuple[Tensor, ...]:
        """The logits of the 8 labels at some rows of all cells' logits [B*N, sum(sizes)]."""
        return cells[rows].split(self.sizes, -1)[1:]

    def dense(self, state: Tensor, scenes: list[Scene]) -> dict[str, Tensor]:
        """Per cell: is an object's centre in it, and what and how far its sides are."""
        rows, labels = self.truth(scenes)
        cells = self.cells(state[:, 1:]).flatten(0, 1).float()       # [B*N, sum(sizes)]
        centres = torch.zeros(len(cells), device=cells.device)
        centres[rows] = 1
        losses = [F.cross_entropy(logits, labels[:, i])
                  for i, logits in enumerate(self.attributes(cells, rows))]
        return {"centre": F.binary_cross_entropy_with_logits(cells[:, 0], centres),
                "attributes": sum(losses[:4]), "distances": sum(losses[4:])}


class TextTeacher(nn.Module):
    """The LLM and the grounding head that helps it to find what a phrase names."""

    def __init__(self, llm: LanguageModel, tokenizer: TinyTokenizer):
        super().__init__()
        self.llm, self.tokenizer = llm, tokenizer
        reading.match_by_likeness(llm, tokenizer)
        self.grounding = reading.Grounding(llm, tokenizer)

    def forward(self, scenes: TextScenes) -> tuple[Tensor, dict]:
        embeds, text, shared = reading.llm_inputs(self.llm, scenes, self.tokenizer)
        answer = self.llm.loss(embeds, text, shared, balanced=True)
        parts = {"answer": answer} | self.grounding(scenes, shared.shape[1])
        return sum(parts.values()), {name: part.detach() for name, part in parts.items()}


def pictures(world: World, seed: int, step: int, batch: int) -> list[Scene]:
    """The scenes of one step of the ViT. In every fourth two objects differ in size alone: else
    the ViT now and then gives one of such a pair the other's size and sides."""
    scenes = [make_scene(world, "train", seed, step * batch + i) for i in range(batch)]
    spare = itertools.count()
    for i in range(0, batch, 4):
        while not has_lookalikes(scenes[i]):
            scenes[i] = make_scene(world, "train", seed, (1 << 40) + ((step * batch + i) << 10) + next(spare))
    return scenes


def train(part: str, out: Path, world: str = "medium", seed: int = 0, resume: bool = False,
          device="cpu", plan: Plan | None = None, labels: str = "dense",
          batch: int | None = None, quiet: bool = False, init: Path | None = None) -> Path:
    """Train one frozen part and write its folder. init: a run of the same part to go on from;
    heads that teach start anew where it has lost them, as the bundled weights have."""
    torch.manual_seed(seed)
    drawn, tokenizer, batch = WORLDS[world], TinyTokenizer(), batch or BATCH[part]
    settings = tiny(VisionSettings.of(drawn.image), len(tokenizer), llm=part)
    config = {"system": LION, "stage": 0, "part": part, "preset": "tiny", "world": world,
              "seed": seed, "batch": batch}
    if part == "vision":
        model = VisionTeacher(drawn, labels, len(tokenizer))
        config |= {"labels": labels, "settings": {"vision": asdict(settings.vision)}}
    elif part == "qformer":
        parts = tiny_parts(out)
        parts.vision.to(device)
        model = questions.QuestionTeacher(parts)
        config |= {"stage0": parts.fingerprint,
                   "settings": {"qformer": asdict(model.qformer.settings)}}
    else:
        model = TextTeacher(LanguageModel(settings.language), tokenizer)
        config |= {"settings": {"language": asdict(settings.language)}}

    def step_loss(step: int, shard: int = 0):
        shard_seed = seed + (shard << 63)      # from 2^63 on: no run has such a seed
        if part == "qformer":
            return model(*questions.lesson(drawn, shard_seed, step, batch))
        if part != "vision":
            return model(reading.lesson(drawn, shard_seed, step, batch, tokenizer, part))
        scenes = pictures(drawn, shard_seed, step, batch)
        return model(scenes, [tokenizer.encode(s.caption()) for s in scenes])

    if init:
        tensors = load_init(init, system=LION, stage=0, part=part)
        lost = tuple(head for head in TEACHERS if not any(n.startswith(head) for n in tensors))
        checkpoints.load_into(model, tensors, init, [
            n for n, _ in model.named_parameters() if not n.startswith(lost)])
    folder = Path(out) / STAGE0 / part
    training.run(model, step_loss, plan or PLANS[part], folder, config, resume, device, quiet)
    scores = report(model.eval(), drawn)
    print(f"wrote {folder}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    return folder


@torch.no_grad()
def report(model: VisionTeacher | TextTeacher | questions.QuestionTeacher, world: World,
           count: int = 256) -> dict[str, float]:
    """How well the trained part does its own work on held-out scenes."""
    if isinstance(model, questions.QuestionTeacher):
        return questions.report(model, world, count)
    if isinstance(model, TextTeacher):
        return reading.reading_scores(model.llm, model.tokenizer, world, count)
    scenes = [make_scene(world, "heldout", 0, i) for i in range(count)]
    state = model.vision(model.pixels(scenes))[-1]
    tags = model.tagger.predict(state)
    scores = {"tags": sum(t == tags_of(s) for t, s in zip(tags, scenes)) / count}
    if model.labels == "dense":
        rows, labels = model.truth(scenes)
        names = ("colour", "kind", "size", "texture", "left", "top", "right", "bottom")
        heads = model.attributes(model.cells(state[:, 1:]).flatten(0, 1), rows)
        scores |= {name: float((logits.argmax(-1) == truth).float().mean())
                   for name, logits, truth in zip(names, heads, labels.T)}
    return scores
