"""A decoder-only LLM some of whose layers see the last tokens alone (Gemma 3's).

Symbols: S samples, L tokens of a row, T tokens before them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lion_min.language import LanguageModel, Prefix, TextBatch
from lion_min.padding import pad_rows


def slides(model: nn.Module) -> bool:
    """Whether a transformers model has such layers."""
    return "sliding_attention" in (getattr(model.config, "layer_types", None) or ())


class SlidingLanguageModel(LanguageModel):
    """Its `sliding_attention` layers look `sliding_window` tokens back; padding does not count."""

    def masks(self, seen: Tensor, position: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """A mask for each kind of layer, by its name."""
        behind = position[:, -seen.shape[1]:, None] - position[:, None]   # [S, L, T+L]
        near = behind < self.model.config.sliding_window
        return {"full_attention": super().masks(seen, position, dtype),
                "sliding_attention": super().masks(seen & near, position, dtype)}

    @torch.no_grad()
    def generate(self, embeds: Tensor, text: TextBatch, shared: Tensor | Prefix | None = None,
                 own: Tensor | None = None, **options) -> Tensor:
        """As LanguageModel's; transformers would count padding, so padded rows are read alone."""
        embeds, mask, prefix = self._behind(embeds, text.mask, shared, own)
        if mask.all():
            return super().generate(embeds, TextBatch(text.ids, mask), prefix, **options)
        answers, notes = [], []
        for i, real in enumerate(mask):
            row, alone = TextBatch(text.ids[i:i + 1], real[None, real]), torch.tensor([i])
            ids = super().generate(embeds[i:i + 1, real], row, prefix.pick(alone), **options)
            answers, notes = [*answers, ids[0].tolist()], [*notes, *self.notes]
        self.notes = [*dict.fromkeys(notes)]
        return pad_rows(answers, self.settings.pad_id).to(self.device)
