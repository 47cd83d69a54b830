"""LION's soft prompt: image tags go before the question, behind one learnable vector.

A tagger makes mistakes, so the sentence before the tags begins "According to <hint>" (LION sec. 3,
soft prompting). <hint> is an ordinary token of the LLM whose embedding is overwritten by the
vector, one for all images and tasks.

Shapes: S samples, T tokens, D width of the LLM.
"""

import random

import torch
from torch import Tensor, nn

HINT_TOKEN = "<extra_id_0>"  # T5's first sentinel
TAG_PROMPT = ("According to <extra_id_0>, you are allowed to use or partially use "
              "the following tags: [{}]. ")


def with_tags(question: str, tags: list[str], hint_token: str = HINT_TOKEN) -> str:
    """The tag sentence, then the question; `hint_token`: the placeholder of an LLM other than T5.
    Replaced without str.format, for braces in a tag or a question are only text."""
    return TAG_PROMPT.replace(HINT_TOKEN, hint_token).replace("{}", ", ".join(tags)) + question


def noisy_tags(tags: list[str], words: tuple[str, ...], rng: random.Random,
               noise: float) -> list[str]:
    """Drop each right tag with probability `noise`, add each wrong one of `words` with 0.3 of it,
    for there are more of those (RAM makes such mistakes, too)."""
    return [w for w in words if (w in tags) != (rng.random() < noise * (1 if w in tags else .3))]


class SoftPrompt(nn.Module):
    """The hint vector [D] ~ N(0, 1), T5's own spread of embeddings (initializer_factor 1)."""

    def __init__(self, width: int):
        super().__init__()
        self.hint = nn.Parameter(torch.randn(width))

    def forward(self, embeds: Tensor, ids: Tensor, hint_id: int) -> Tensor:
        """embeds [S,T,D], ids [S,T] -> [S,T,D]: the hint wherever ids == hint_id.
        Any number a sample, also none (the official code needs exactly one, and fails on a batch
        whose truncation cut the placeholder off). `embeds` itself is not changed."""
        is_hint = (ids == hint_id)[..., None]                                    # [S, T, 1]
        return torch.where(is_hint, self.hint.to(embeds.dtype), embeds)
