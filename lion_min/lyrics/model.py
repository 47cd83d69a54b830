"""Lyrics (arXiv 2312.05278): queries that read the image and the objects detected in it.

    pixels -> frozen ViT -> states of two depths - ln_vision -------> V [B, N, Dv]  image queries
        +- refiner: tagger - tags - detector - segmenter -----------> O [B, M, Do]  object queries
    [image queries | object queries | text] -> MQ-Former -> Z [S, Q, Dq]
        stage 1: four heads on Z and on the text's states: ITC, ITM, ICG, MSP   (no LLM)
        stage 2: Z - language_projection ---------------------------> Q own tokens of a question
    "small red circle [x1,y1,x2,y2]" of each object -------------------> M lines of an image
    [lines | own | prompt] -> frozen LLM with LoRA on q, k, v -> answer

Symbols: B images, S samples (S = n*B, sample s asks about image s // n), N patches, M objects,
W words of an object's line, Q queries, L tokens, D LLM width.

Deviations from the paper and its code: the language input has tags and boxes in stage 2, too
(`object_lines`), as the abstract says (the code: stage 1 alone); stage 2 trains MQ-Former and
projection together with LoRA (the code's script freezes them); the refiner has a segmenter, which
the code lacks, but no query reads its masks; object queries read the kept detections, officially
(and around pretrained parts) all 900; V is the patches of two ViT depths, without CLS, and
ln_vision trains (as BLIP-2's does); in a line's digits a box has commas, as elsewhere here.
Tiny: a line is one slot, the sum of its words, the form in which the LLM learned scenes; a box is
six words of the tokenizer; language_projection starts at zero, so that the LLM first reads the
lines alone; every MQ-Former layer has cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lora import attach_lora
from lion_min.lyrics.objectives import Heads, ObjectiveSettings, objectives
from lion_min.lyrics.pairtext import PairText, Specials
from lion_min.lyrics.refiner import RefinerSettings, TinyRefiner
from lion_min.lyrics.mqformer import MQFormer, MQFormerSettings, Sources
from lion_min.rows import Rows
from lion_min.trainable import freeze, start_at_zero
from lion_min.vision import VisionEncoder, VisionSettings


@dataclass
class LyricsSettings:
    """Everything that shapes the model, of both stages."""
    vision: VisionSettings
    language: LanguageSettings
    refiner: RefinerSettings | None        # None: no object queries and no lines
    mqformer: MQFormerSettings
    objectives: ObjectiveSettings
    depths: tuple[int, ...] = (0, 4)       # ViT states that V consists of
    object_lines: bool = True              # tags and boxes in the language input
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    lora_rank: int = 8
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    generate: dict = field(default_factory=dict)

    @property
    def special(self) -> Specials:
        """The MQ-Former's words behind those of the tokenizer: four, for the tiny one begins with a
        pad and an end, or six."""
        first, end = self.language.vocab, self.mqformer.vocab
        if end - first == 4:
            return Specials(0, 1, *range(first, end))
        return Specials(end - 2, end - 1, *range(end - 6, end - 2))


@dataclass
class Objects(Rows):
    """The detected objects as the model takes them: M rows a picture, the kept ones first."""
    features: Tensor                       # O [B, M, Do]
    mask: Tensor                           # [B, M] True = kept
    lines: Tensor                          # [B, <= M, W] ids of 'red circle' and its box, or pad
    parts: Tensor                          # the same shape: which of them MSP hides together, or 0


@dataclass
class LyricsInputs:
    """One batch of questions."""
    states: list[Tensor]                   # every state of the ViT, each [B, 1+N, Dv]
    objects: Objects | None                # None: the refiner is off
    text: PairText                         # S bare questions, for the MQ-Former
    prompts: list[list[int]]               # the same, for the LLM
    answers: list[list[int]] | None = None


class LyricsBase(nn.Module):
    """What both stages share: the frozen ViT and refiner, and the MQ-Former that reads them."""

    def __init__(self, s: LyricsSettings, vision: VisionEncoder, refiner: TinyRefiner | None):
        super().__init__()
        if (s.refiner is None) != (s.mqformer.object_queries == 0):
            raise ValueError("object queries and a refiner need each other: "
                             f"{s.mqformer.object_queries} object queries, refiner {s.refiner}")
        self.settings, self.vision, self.refiner = s, freeze(vision), refiner and freeze(refiner)
        self.ln_vision = nn.LayerNorm(s.mqformer.vision_width)
        self.mqformer = MQFormer(s.mqformer)

    def sources(self, states: list[Tensor], objects: Objects | None) -> Sources:
        """What the queries read: V [B, N, Dv], O [B, M, Do]."""
        V = self.ln_vision(torch.cat([states[d][:, 1:] for d in self.settings.depths], -1))
        return Sources(V) if objects is None else Sources(V, objects.features, objects.mask)


class Alignment(LyricsBase):
    """Stage 1: picture and text are aligned by four objectives, without an LLM."""

    def __init__(self, s: LyricsSettings, vision: VisionEncoder, refiner: TinyRefiner | None):
        super().__init__(s, vision, refiner)
        self.heads = Heads(s.objectives, s.mqformer)

    def forward(self, states: list[Tensor], objects: Objects | None,
                text: PairText) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its parts itc, itm, icg, msp) of B pictures and their B texts."""
        return objectives(self.mqformer, self.heads, self.sources(states, objects), text,
                          self.settings.special)


class Lyrics(LyricsBase):
    """Stage 2: the query states become tokens of a frozen LLM, which LoRA adapts."""

    def __init__(self, s: LyricsSettings, vision: VisionEncoder, refiner: TinyRefiner | None,
                 llm: LanguageModel):
        super().__init__(s, vision, refiner)
        self.llm = freeze(llm)
        self.language_projection = nn.Linear(s.mqformer.width, llm.width)
        if s.object_lines or s.refiner is None:    # else the LLM would read tokens of zeros alone
            start_at_zero(self.language_projection)
        self.loras = attach_lora(llm.model, s.lora_targets, s.lora_rank, s.lora_alpha,
                                 s.lora_dropout)

    def query_tokens(self, x: LyricsInputs, maps: bool = False):
        """Projects the query states to own tokens of each question [S, Q, D]; with maps also a
        pair of attention maps a layer, ([S, H, Qi, N], [S, H, Qo, M])."""
        Z = self.mqformer(self.sources(x.states, x.objects), x.text.ids, x.text.mask,
                          return_attention=maps)
        return (self.language_projection(Z[0]), Z[1]) if maps else self.language_projection(Z)

    def lines(self, x: LyricsInputs) -> Tensor | None:
        """The objects' tags and boxes as the LLM reads them: shared tokens [B, M, D], zero where
        there is no object; None without lines."""
        if x.objects is None or not self.settings.object_lines:
            return None
        ids = x.objects.lines                                             # [B, M, W]
        return (self.llm.embed(ids) * (ids > 0)[..., None]).sum(2)

    def forward(self, x: LyricsInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its named parts): the mean cross-entropy of the answer tokens."""
        text = self.llm.pack(x.prompts, x.answers)
        loss = self.llm.loss(self.llm.embed(text.ids), text, self.lines(x), self.query_tokens(x))
        return loss, {"answer": loss.detach()}

    @torch.no_grad()
    def generate(self, x: LyricsInputs, **options) -> Tensor:
        """Answer ids [S, <= max_new_tokens]."""
        text = self.llm.pack(x.prompts)
        return self.llm.generate(self.llm.embed(text.ids), text, self.lines(x),
                                 self.query_tokens(x), **self.settings.generate | options)


def tiny(vision: VisionSettings, vocab: int, refiner: bool = True) -> LyricsSettings:
    """The bundled preset. `refiner` False: the same without objects (the ablation's other row)."""
    detector = RefinerSettings(vision_width=vision.width, side=vision.side,
                               mask_size=4 * vision.side,
                               attributes=("small", "medium", "large", "striped"))
    return LyricsSettings(
        vision=vision, refiner=detector if refiner else None, object_lines=refiner,
        language=LanguageSettings(family="llama", vocab=vocab, layers=5, ffn=384),
        mqformer=MQFormerSettings(
            width=128, layers=3, heads=4, ffn=256, queries=20 if refiner else 8,
            vision_width=2 * vision.width, vocab=vocab + 4, max_text=128, cross_every=1,
            init_std=128 ** -0.5, object_queries=12 if refiner else 0,
            object_width=detector.width + 4 if refiner else 0),
        objectives=ObjectiveSettings(matched_objects=0.5))
