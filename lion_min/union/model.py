"""All four ideas in one model, built from the systems' own modules. No paper has it.

    pixels -> frozen ViT
        +- aggregator over three depths (LION) ----------------------> Z_a [B, 1+N, D]
        +- refiner's objects and the image, led by the question:
           MQ-Former's image and object queries (Lyrics) ------------> Z_q [S, Q, D]
        +- a box: RoIAlign - region_proj (PVIT) ---------------------> one token [R, D]
        +- [Z_a | question | <img-q>] -> frozen LLM -> its state there
           - interaction with the patches (LMEye) -------------------> Z_r [S, m, D]
    tags through the soft prompt (LION)
    [Z_a | Z_q | Z_r | text] -> frozen LLM with the mixture of adapters and its router (LION)

Each part can be left out (`parts`), so that a claim can tell what it adds.

Symbols: B images, S samples (S = n*B), N patches, M objects, Q queries, R regions, m returned
vectors, L tokens, D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lion_min.language import LanguageModel
from lion_min.lion.model import Lion, LionInputs, LionSettings
from lion_min.lion.model import tiny as tiny_lion
from lion_min.lmeye.interaction import InteractionSettings, InteractivePerception
from lion_min.lyrics.model import Objects
from lion_min.lyrics.model import tiny as tiny_lyrics
from lion_min.lyrics.mqformer import MQFormer, MQFormerSettings, Sources
from lion_min.trainable import freeze
from lion_min.vision import VisionEncoder, VisionSettings

PARTS = ("aggregator", "queries", "objects", "region", "request")


@dataclass
class UnionSettings(LionSettings):
    """LION's settings, the MQ-Former's in the place of the Q-Former's, and the interaction's."""

    mqformer: MQFormerSettings | None = None
    interaction: InteractionSettings | None = None
    parts: tuple[str, ...] = PARTS
    request_depths: tuple[int, ...] = (0, 4)   # the ViT states that a patch's features consist of


@dataclass
class UnionInputs(LionInputs):
    """LION's batch, the pictures' objects, and the bare questions as rows of ids."""

    objects: Objects | None = None             # of B pictures
    questions: list[list[int]] = field(default_factory=list)   # S


class Union(Lion):
    """LION with Lyrics' queries, PVIT's region token and LMEye's request."""

    def __init__(self, settings: UnionSettings, vision: VisionEncoder, llm: LanguageModel,
                 refiner: nn.Module):
        super().__init__(settings, vision, llm)
        s, width = settings, llm.width
        if unknown := set(s.parts) - set(PARTS):
            raise ValueError(f"unknown parts {sorted(unknown)}: some of {', '.join(PARTS)}")
        del self.ln_vision, self.qformer, self.query_proj
        self.refiner = freeze(refiner)
        self.ln_patches = nn.LayerNorm(s.interaction.image_width)
        if "queries" in s.parts:
            self.mqformer = MQFormer(s.mqformer)
            self.query_proj = nn.Linear(s.mqformer.width, width)
        if "aggregator" not in s.parts:
            del self.aggregator, self.ln_adapter, self.mlp
        if "region" not in s.parts:
            del self.region_proj
        if "request" in s.parts:
            self.interaction = InteractivePerception(s.interaction)
            self.request = nn.Parameter(torch.randn(width) * 0.1)         # the token <img-q>

    # ---- the LLM's inputs --------------------------------------------------------------------

    def patches(self, x: UnionInputs) -> Tensor:
        """Each patch's states of some depths side by side, normalised: [B, N, Dv]."""
        return self.ln_patches(torch.cat([x.states[d][:, 1:] for d in self.settings.request_depths],
                                         -1))

    def query_tokens(self, x: UnionInputs, maps: bool = False):
        """Z_q [S, Q, D] of image and object queries that read the question; with maps also a pair
        a layer, ([S, H, Qi, N], [S, H, Qo, M])."""
        objects = (x.objects.features, x.objects.mask) if self.settings.mqformer.object_queries \
            else (None, None)
        out = self.mqformer(Sources(self.patches(x), *objects), x.question_ids, x.question_mask,
                            return_attention=maps)
        return (self.query_proj(out[0]), out[1]) if maps else self.query_proj(out)

    def returned_tokens(self, x: UnionInputs, shared: Tensor | None, maps: bool = False):
        """Z_r [S, m, D]: the LLM reads the picture and the question up to a request token, whose
        state attends to the patches; with maps also [S, m, N]."""
        text = self.llm.pack(x.questions)                     # padded left: the request comes last
        embeds = self.llm.embed(text.ids)                                 # [S, L, D]
        embeds = torch.cat([embeds[:, :-1], embeds[:, -1:] * 0 + self.request], 1)
        hidden = self.llm.text_states(embeds, text, shared)[:, -1]        # [S, D]
        cells = self.llm.cell_words(self.settings.first_cell_id, self.settings.vision.side)
        return self.interaction(hidden, self.patches(x), cells, maps)

    def visual(self, x: UnionInputs) -> tuple[Tensor | None, Tensor | None]:
        """(Z_a of the images, [Z_q | Z_r] of the samples); None where all of a kind are left out."""
        parts = self.settings.parts
        shared = self.aggregated_tokens(x) if "aggregator" in parts else None
        own = [self.query_tokens(x)] if "queries" in parts else []
        own += [self.returned_tokens(x, shared)] if "request" in parts else []
        return shared, torch.cat(own, 1) if own else None


def tiny(vision: VisionSettings, vocab: int, parts: tuple[str, ...] = PARTS) -> UnionSettings:
    """Narrow on purpose: two image and two object queries, one request."""
    base, lyrics = tiny_lion(vision, vocab), tiny_lyrics(vision, vocab)
    queries = vars(lyrics.mqformer) | {"queries": 4, "object_queries": 2, "layers": 2, "vocab": vocab}
    if "objects" not in parts:
        queries |= {"object_queries": 0, "object_width": 0}
    interaction = InteractionSettings(128, 2 * vision.width, mlp=128, init_std=128 ** -0.5,
                                      requests=1, returned=1)
    return UnionSettings(**vars(base), mqformer=MQFormerSettings(**queries),
                         interaction=interaction, parts=parts)
