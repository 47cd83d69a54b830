"""Stage 0's Q-Former: it learns to look where a question points before any LLM listens.

LION's Q-Former comes from BLIP-2 and InstructBLIP, whose 129 M pairs taught it to read text and
image together (image-text matching, grounded captions). Here a head reads the first word of each
answer from the mean of the query states. Without this start the queries of stage 1 describe the
whole picture, whatever is asked (RESULTS.md, claims). The head is thrown away.

Symbols: S questions, Q queries, D width, V words.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.features import encode_images
from lion_min.lion.model import tiny
from lion_min.lion.prompt import question_batch
from lion_min.parts import Parts
from lion_min.qformer import QFormer, QFormerSettings
from lion_min.scenes import Scene, World, make_scene
from lion_min.tasks import Example, examples

TASKS = ("existence", "colour", "kind", "count", "relation", "side", "colour", "kind")
QUERIES = 4                                # few enough that a question has to choose
EASY = 300                                 # first steps on scenes of one or two objects


class QuestionTeacher(nn.Module):
    """The Q-Former behind its LayerNorm, and the head that teaches it. Its words start as the
    LLM's, as the published one's start as BERT's."""

    def __init__(self, settings: QFormerSettings, words: Tensor):
        super().__init__()
        self.ln_vision = nn.LayerNorm(settings.vision_width)
        self.qformer = QFormer(settings)
        self.head = nn.Linear(settings.width, settings.vocab)
        with torch.no_grad():
            self.qformer.words.weight.copy_(words * settings.init_std / words.std())

    def forward(self, state: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The ViT's last states [B, 1+N, Dv], questions [S, Lq] -> logits of the answer [S, V]."""
        return self.head(self.qformer(self.ln_vision(state), ids, mask).mean(1))


def teacher_of(parts: Parts) -> QuestionTeacher:
    """The untrained teacher of the tiny preset's Q-Former."""
    settings = replace(tiny(parts.vision.settings, len(parts.tokenizer)).qformer, queries=QUERIES)
    return QuestionTeacher(settings, parts.llm.model.get_input_embeddings().weight)


def loss_of(model: QuestionTeacher, parts: Parts, scenes: list[Scene], asked: list[Example]
            ) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the first word of each answer; as many questions about every scene."""
    logits, truth = read(model, parts, scenes, asked)
    loss = F.cross_entropy(logits.float(), truth)
    return loss, {"word": loss.detach()}


def read(model: QuestionTeacher, parts: Parts, scenes: list[Scene], asked: list[Example]
         ) -> tuple[Tensor, Tensor]:
    """(logits [S, V], the right words [S])."""
    with torch.no_grad():
        state = encode_images(parts.vision, [scene.draw() for scene in scenes])[-1]
    ids, mask = question_batch(parts.tokenizer, [e.prompt for e in asked],
                               model.qformer.settings.max_text, state.device)
    words = [parts.tokenizer.encode(e.answer)[0] for e in asked]
    return model(state, ids, mask), torch.tensor(words, device=state.device)


def step_loss(model: QuestionTeacher, parts: Parts, world: World, seed: int, batch: int):
    """(step, shard) -> (loss, its parts) on scenes that are drawn for the step alone."""
    def loss(step: int, shard: int = 0):
        first, most = step * batch + (shard << 40), 2 if step < EASY else None
        scenes = [make_scene(world, "train", seed, first + i, most=most) for i in range(batch)]
        rng = random.Random(f"qformer/{seed}/{step}/{shard}")
        return loss_of(model, parts, scenes, [e for s in scenes for e in examples(s, rng, TASKS)])
    return loss


@torch.no_grad()
def report(model: QuestionTeacher, parts: Parts, world: World, count: int = 256) -> dict[str, float]:
    """Share of right first words on held-out scenes, with the question and with another one's."""
    scenes = [make_scene(world, "heldout", 0, i) for i in range(count)]
    asked = [examples(s, random.Random(f"qformer/{i}"), ("colour",))[0]
             for i, s in enumerate(scenes)]
    right = {}
    for name, questions in (("own", asked), ("foreign", asked[1:] + asked[:1])):
        logits = read(model, parts, scenes, questions)[0]
        truth = torch.tensor([parts.tokenizer.encode(e.answer)[0] for e in asked])
        right[name] = float((logits.argmax(-1).cpu() == truth).float().mean())
    return {f"colour, {name} question": value for name, value in right.items()}
