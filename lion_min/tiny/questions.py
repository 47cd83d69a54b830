"""Stage 0's Q-Former: it learns to look where a question points before any LLM listens.

LION's Q-Former comes from BLIP-2 and InstructBLIP, whose 129 M pairs taught it to read text and
image together (image-text matching, grounded captions). Here a head reads the first word of each
answer from the mean of the query states. Without this start the queries of stage 1 describe the
whole picture, whatever is asked (RESULTS.md, claims). The head is thrown away.

Symbols: S questions, Q queries, D width, V words.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.features import encode_images
from lion_min.lion.model import tiny
from lion_min.lion.prompt import question_batch
from lion_min.parts import Parts
from lion_min.qformer import QFormer
from lion_min.scenes import Scene, World, make_scene
from lion_min.tasks import Example, examples

TASKS = ("existence", "colour", "kind", "count", "relation", "side", "colour", "kind")
EASY = 300                                 # first steps on scenes of one or two objects


class QuestionTeacher(nn.Module):
    """The Q-Former behind its LayerNorm, and the head that teaches it. Its words start as the
    LLM's, as the published one's start as BERT's. `parts` are read and never trained."""

    def __init__(self, parts: Parts):
        super().__init__()
        s = tiny(parts.vision.settings, len(parts.tokenizer)).qformer
        self.parts = [parts]                           # in a list: no submodule, so not saved
        self.ln_vision = nn.LayerNorm(s.vision_width)
        self.qformer = QFormer(s)
        self.head = nn.Linear(s.width, s.vocab)
        words = parts.llm.model.get_input_embeddings().weight
        with torch.no_grad():
            self.qformer.words.weight.copy_(words * s.init_std / words.std())

    def forward(self, scenes: list[Scene], examples: list[Example]
                ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its named parts): cross-entropy of the first word of each answer; as many
        questions about every scene."""
        logits, truth = self.first_words(scenes, examples)
        loss = F.cross_entropy(logits.float(), truth)
        return loss, {"word": loss.detach()}

    def first_words(self, scenes: list[Scene], examples: list[Example]) -> tuple[Tensor, Tensor]:
        """(logits [S, V], the right words [S])."""
        parts, = self.parts
        with torch.no_grad():
            state = encode_images(parts.vision, [scene.draw() for scene in scenes])[-1]
        ids, mask = question_batch(parts.tokenizer, [e.prompt for e in examples],
                                   self.qformer.settings.max_text, state.device)
        words = [parts.tokenizer.encode(e.answer)[0] for e in examples]
        queries = self.qformer(self.ln_vision(state), ids, mask)               # [S, Q, D]
        return self.head(queries.mean(1)), torch.tensor(words, device=state.device)


def lesson(world: World, seed: int, step: int, batch: int) -> tuple[list[Scene], list[Example]]:
    """The scenes of one step and their questions, which depend on the step and the seed alone."""
    scenes = [make_scene(world, "train", seed, step * batch + i, most=2 if step < EASY else None)
              for i in range(batch)]
    rng = random.Random(f"qformer/{seed}/{step}")
    return scenes, [e for scene in scenes for e in examples(scene, rng, TASKS)]


@torch.no_grad()
def report(model: QuestionTeacher, world: World, count: int = 256) -> dict[str, float]:
    """Share of right colours on held-out scenes, with the question and with another one's."""
    scenes = [make_scene(world, "heldout", 0, i) for i in range(count)]
    own = [examples(s, random.Random(f"qformer/{i}"), ("colour",))[0] for i, s in enumerate(scenes)]
    truth = model.first_words(scenes, own)[1]
    return {f"colour, {name} question": float(
        (model.first_words(scenes, asked)[0].argmax(-1) == truth).float().mean())
        for name, asked in (("own", own), ("foreign", own[1:] + own[:1]))}
