"""Which caption belongs to which picture? Stage 1's own score, R@1 in both directions.

A picture whose caption another picture shares has two right answers: a hit is a caption of the
right words (pictures sought: one whose caption has them).

Symbols: I pictures and as many captions, Q queries, E width of the contrast.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lion_min.lyrics.objectives import match, similarity
from lion_min.lyrics.prompt import captions
from lion_min.scenes import Scene
from lion_min.system import System


@torch.no_grad()
def retrieval(system: System, scenes: list[Scene]) -> dict:
    """R@1 of a stage 1 among these scenes by ITC, and with the best 16 scored once more by ITM
    (spec 4).

    image_to_text seeks a picture's caption, text_to_image a caption's picture. Captions are
    bare: the text of the picture's own objects would give it away.
    """
    model, features = system.model.eval(), system.encode([s.draw() for s in scenes])
    sources = model.sources(features["states"], features["objects"])
    words = [s.caption() for s in scenes]
    text = captions(words, system.tokenizer, model.settings).to(sources.image.device)
    Z = model.mqformer.encode_image(sources)[0]                           # [I, Q, D]
    states = model.mqformer.encode_text(text.ids, text.mask, text.positions)  # [I, L, D]
    scores = similarity(model.heads.project_queries(Z),                   # [I pictures, I texts]
                        model.heads.project_text(states))

    def matching(image: Tensor, caption: Tensor) -> Tensor:
        return match(model.mqformer, model.heads, sources.pick(image), text.pick(caption))

    return {"image_to_text": hits(scores, words), "text_to_image": hits(scores.T, words),
            "image_to_text_itm": hits(rerank(scores, matching), words),
            "text_to_image_itm": hits(rerank(scores.T, lambda t, i: matching(i, t)), words),
            "count": len(scenes)}


def hits(scores: Tensor, words: list[str]) -> float:
    """The share of rows of scores [I, I] whose best column has the row's own words."""
    best = scores.argmax(1).tolist()
    return round(sum(words[b] == caption for b, caption in zip(best, words)) / len(words), 4)


def rerank(scores: Tensor, logits: Callable[[Tensor, Tensor], Tensor], top: int = 16,
           chunk: int = 128) -> Tensor:
    """Score the best `top` columns of each row once more, by ITM. BLIP-2's way, spec 4.

    scores [A, C] are cosines of `similarity`, or their transpose to seek pictures for texts.
    logits(rows, columns), each [R], gives `match` of those pairs, [R, 2]. Returns [A, C]: cosine
    plus log odds of the chosen, -inf for the others.
    """
    best = scores.topk(min(top, scores.shape[1]), dim=1)                # [A, top]
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(best.indices.shape[1])
    pairs = zip(rows.split(chunk), best.indices.flatten().split(chunk))
    yes = torch.cat([logits(r, c).diff(dim=1)[:, 0] for r, c in pairs])  # log odds [A * top]
    return torch.full_like(scores, float("-inf")).scatter(
        1, best.indices, best.values + yes.view_as(best.values))
