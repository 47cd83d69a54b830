"""LION (arXiv 2311.11860, CVPR 2024): an MLLM with dual-level visual knowledge.

    pixels -> frozen ViT -> states of three depths
        +- last ----------- ln_vision - Q-Former(question) - query_proj --------> Z_q [S, Q, D]
        +- last, mid, low - vision aggregator - ln_adapter - mlp ---------------> Z_a [B, 1+N, D]
        +- a box ---------- RoIAlign - region_proj -----------------------------> one token [R, D]
    tags -> "According to <hint>, you are allowed to use ... tags: [..]. " + question
    [Z_q | Z_a | text] -> frozen LLM, every feed-forward net beside two adapters and a router

Symbols: B images, S samples (S = n*B), N patches, Q queries, R regions, L tokens, D LLM width.

Deviations from the paper, all in the tiny preset alone:
- the LLM is a Llama with [Z_a | Z_q | text], so that it reads an image once for its questions;
- `region_tokens`: a box in the prompt is text and one token (PVIT's idea), of the features that
  RoIAlign pools and of the box's position;
- four queries, too few to hold a scene, so that they must follow the question;
- each patch of Z_a carries the LLM's words for its column and row, as stage 0's text scenes do;
- the encoder has 4 blocks and gives states 4, 2, 1 where LION's gives 39, 29, 19; a box literal is
  six words of the tiny tokenizer, not digits;
- answers are decoded greedily; the published settings (5 beams, repetition 1.5) hurt digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lion_min.adapters import REGION, attach_adapters, set_task
from lion_min.language import LanguageModel, LanguageSettings, TextBatch, splice
from lion_min.lion.aggregator import VisionAggregator
from lion_min.lion.softprompt import SoftPrompt
from lion_min.qformer import QFormer, QFormerSettings
from lion_min.regions import RegionToken, pool_regions
from lion_min.trainable import freeze
from lion_min.vision import VisionEncoder, VisionSettings


@dataclass
class LionSettings:
    """Everything that shapes the model. `mode` is LION's visual_input: the branches it has."""

    vision: VisionSettings
    language: LanguageSettings
    qformer: QFormerSettings
    mode: str = "all"                      # 'qformer' (stage 1), 'aggregator' (2), 'all' (3, 4)
    depths: tuple[int, ...] = (4, 2, 1)    # aggregator: query state, then the key states
    aggregator_heads: int = 4
    aggregator_ffn: int = 512
    mlp: int = 512
    bottleneck: int = 32
    adapters: int | None = None            # beside each FFN; None: 2 in mode 'all', else 1
    region_tokens: bool = True
    region_depths: tuple[int, ...] = (0, 4)
    region_bins: int = 3
    first_cell_id: int | None = None       # the tokenizer's first column word; rows follow
    region_id: int = 4                     # the tokenizer's <region>
    hint_id: int = 5                       # the tokenizer's <extra_id_0>
    generate: dict = field(default_factory=dict)


@dataclass
class LionInputs:
    """One batch. Each <region> id in the prompts, in reading order, has its row in `boxes`."""

    states: list[Tensor]                   # every state of the ViT, each [B, 1+N, Dv]
    question_ids: Tensor                   # [S, Lq] the bare question, for the Q-Former
    question_mask: Tensor                  # [S, Lq]
    prompts: list[list[int]]               # S prompts, with tags and placeholders
    task: int                              # REGION or IMAGE: the router's row, one a batch
    answers: list[list[int]] | None = None
    boxes: Tensor | None = None            # [R, 4] xyxy fractions
    box_image: Tensor | None = None        # [R] row of `states` each box lies in


class Lion(nn.Module):
    """The whole model. ViT and LLM are frozen; the stage says which of the rest trains."""

    def __init__(self, settings: LionSettings, vision: VisionEncoder, llm: LanguageModel):
        super().__init__()
        s = self.settings = settings
        if s.mode not in ("qformer", "aggregator", "all"):
            raise ValueError(f"unknown mode {s.mode!r}: 'qformer', 'aggregator' or 'all'")
        dv, width = s.vision.width, llm.width
        self.vision, self.llm = freeze(vision), freeze(llm)
        if s.mode != "aggregator":
            self.ln_vision = nn.LayerNorm(dv)
            self.qformer = QFormer(s.qformer)
            self.query_proj = nn.Linear(s.qformer.width, width)
        if s.mode != "qformer":
            self.aggregator = VisionAggregator(dv, s.aggregator_heads, s.aggregator_ffn,
                                               len(s.depths) - 1, init_std=s.qformer.init_std)
            self.ln_adapter = nn.LayerNorm(dv)
            self.mlp = nn.Sequential(nn.Linear(dv, s.mlp), nn.GELU(), nn.Linear(s.mlp, width))
            if s.region_tokens:
                pooled = s.region_bins ** 2 * len(s.region_depths) * dv
                self.region_proj = RegionToken(pooled, width)
        self.adapters = attach_adapters(llm.model, width, s.bottleneck,
                                        s.adapters or (2 if s.mode == "all" else 1))
        self.soft_prompt = SoftPrompt(width)

    # ---- the LLM's inputs --------------------------------------------------------------------

    def query_tokens(self, x: LionInputs, maps: bool = False):
        """Z_q [S, Q, D]; with maps also the Q-Former's cross-attention, [S, H, Q, 1+N] a layer."""
        image = self.ln_vision(x.states[self.settings.depths[0]])         # [B, 1+N, Dv]
        out = self.qformer(image, x.question_ids, x.question_mask, return_attention=maps)
        return (self.query_proj(out[0]), out[1]) if maps else self.query_proj(out)

    def aggregated_tokens(self, x: LionInputs, maps: bool = False):
        """Z_a [B, 1+N, D]; with maps also the aggregator's cross-attention a block."""
        last, *keys = (x.states[d] for d in self.settings.depths)
        out = self.aggregator(last, keys, return_attention=maps)
        tokens = self.mlp(self.ln_adapter(out[0] if maps else out))
        if (first := self.settings.first_cell_id) is not None:
            cells = self.llm.cell_words(first, self.settings.vision.side)     # [N, D]
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:] + cells], 1)
        return (tokens, out[1]) if maps else tokens

    def region_features(self, x: LionInputs) -> Tensor:
        """One token a box: RoIAlign on two depths, flattened, and the box's position. [R, D]."""
        pooled = [pool_regions(x.states[d][:, 1:], x.boxes, x.box_image, self.settings.region_bins)
                  for d in self.settings.region_depths]                   # each [R, bins^2, Dv]
        return self.region_proj(torch.cat(pooled, -1).flatten(1), x.boxes)

    def visual(self, x: LionInputs) -> tuple[Tensor | None, Tensor | None]:
        """(Z_a of the images, Z_q of the samples); None where the mode has no such branch."""
        mode = self.settings.mode
        return (self.aggregated_tokens(x) if mode != "qformer" else None,
                self.query_tokens(x) if mode != "aggregator" else None)

    def words(self, x: LionInputs, text: TextBatch) -> Tensor:
        """Embedded text with the soft prompt and the region tokens spliced in."""
        embeds = self.soft_prompt(self.llm.embed(text.ids), text.ids, self.settings.hint_id)
        if x.boxes is not None and hasattr(self, "region_proj"):
            embeds = splice(embeds, text.ids, self.settings.region_id, self.region_features(x))
        return embeds

    def forward(self, x: LionInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its named parts): the mean cross-entropy of the answer tokens."""
        set_task(self.adapters, x.task)
        text = self.llm.pack(x.prompts, x.answers)
        loss = self.llm.loss(self.words(x, text), text, *self.visual(x))
        return loss, {"region" if x.task == REGION else "image": loss.detach()}

    @torch.no_grad()
    def generate(self, x: LionInputs, **options) -> Tensor:
        """Answer ids [S, <= max_new_tokens]."""
        set_task(self.adapters, x.task)
        text = self.llm.pack(x.prompts)
        return self.llm.generate(self.words(x, text), text, *self.visual(x),
                                 **self.settings.generate | options)


def tiny(vision: VisionSettings, vocab: int, mode: str = "all", llm: str = "llama") -> LionSettings:
    """The bundled preset: about 1 M parameters a part, trained from random in this repository."""
    layers = 3 if llm == "t5" else 5
    return LionSettings(
        vision, LanguageSettings(llm, vocab, layers=layers, ffn=384),
        QFormerSettings(width=128, layers=2, heads=4, ffn=256, queries=4, init_std=128 ** -0.5,
                        vision_width=128, vocab=vocab, max_text=64, cross_every=1),
        mode, first_cell_id=6)
