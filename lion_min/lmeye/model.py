"""LMEye (arXiv 2305.03701): an LLM that requests information of the image before it answers.

    pixels -> frozen ViT -> patch features of two depths
        +- Q-Former without text - query_proj ----------> static image tokens [B, Q, D]
        |  [static | question | <img-q>] -> frozen LLM -> its state at <img-q>      (pass 1)
        +- interaction(request, patches) - transmit ----> returned [S, m, D]
       [static | question | <img-q> | <img-d> x m, returned added | question] -> LLM (pass 2)

Several LMEyes exist (spec section 0). The paper era: static='pooled', one vector added onto the
token <img>; the first <img-d> is the request (request_id None); CLIP's text tower; pool='eos'. The
later form: static='qformer' with 32 queries, reads='queries', five requests, pool='tail'. The tiny
preset: reads='patches', so that a request can select a position.

Symbols: B images, S samples (S = n*B), N patches, F features the interaction reads, Dv their
width, Q queries, L tokens, m return slots, D LLM width.

Deviations from the paper and its code:
- tiny: two requests for up to four objects: five listed them all, whatever the question;
- tiny and `around`: a trainable block over the patches interacts, not CLIP's text tower;
- tiny: a static query begins with two patches (QFormer.anchor): 1,500 steps of stage 1 then end at
  a loss of .03, 4,500 without it at .06 (one seed). The static tokens then hold so much that a
  quarter of stage 2's steps hides them (`blind`), or nothing would be left to request;
- tiny: an image token carries the LLM's words for its column and row, as stage 0's text scenes do,
  a static one those of the patches it attends to; what a request attends to is also returned as
  it is, beside the transmitted vector;
- but in the paper's form: the question is repeated behind the slots, where the LLM expects it;
- `zeroed` blanks the LLM's state before the projection, whose bias stays: one question for all;
- the later form's order is [static | text | request | slots]; officially text comes first;
- a placeholder outside the LLM's vocabulary starts from zero, officially from a pad's row;
- the second pass keeps the first one's cache (second_pass='full' reads everything again).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from lion_min.language import LanguageModel, LanguageSettings, Prefix, TextBatch
from lion_min.lmeye import two_passes
from lion_min.lmeye.interaction import InteractionSettings, InteractivePerception
from lion_min.qformer import QFormer, QFormerSettings
from lion_min.trainable import freeze
from lion_min.vision import VisionEncoder, VisionSettings

CONTROLS = ("interactive", "static", "zeroed", "foreign")


@dataclass
class LmeyeSettings:
    """Everything that shapes the model. `control`: what fills the return slots."""

    vision: VisionSettings
    language: LanguageSettings
    interaction: InteractionSettings
    slot_id: int                           # <img-d>
    request_id: int | None = None          # <img-q>; None: the first <img-d> (paper era)
    img_id: int | None = None              # <img>, static='pooled' alone
    static: str = "qformer"                # or 'pooled': one vector, added onto <img>
    qformer: QFormerSettings | None = None
    reads: str = "patches"                 # the interaction's features, or 'queries', 'pooled'
    anchors: float = 0.0                   # above 0: see QFormer.anchor
    depths: tuple[int, ...] = (0, 4)       # the ViT states a patch's features consist of
    control: str = "interactive"           # one of CONTROLS
    second_pass: str = "cached"            # or 'full'
    token_std: float = 1.0                 # start of <img>, <img-q>, <img-d>; official: N(0, 1)
    first_cell_id: int | None = None       # the tokenizer's first column word; rows follow
    generate: dict = field(default_factory=dict)


@dataclass
class LmeyeInputs:
    """One batch. A prompt holds one request and m slots, or neither: then the LLM reads once."""

    states: list[Tensor]                   # every state of the ViT, each [B, 1+N, Dv]; 'pooled'
    #                                        reads row 0 of the last: CLIP's image feature
    prompts: list[list[int]]               # S prompts with their placeholders
    answers: list[list[int]] | None = None
    blind: bool = False                    # hide the contents of the static tokens


class Lmeye(nn.Module):
    """The whole model. ViT and LLM are frozen; the stage says which of the rest trains."""

    def __init__(self, settings: LmeyeSettings, vision: VisionEncoder, llm: LanguageModel):
        super().__init__()
        s = self.settings = settings
        for name, value, known in (("control", s.control, CONTROLS),
                                   ("static", s.static, ("qformer", "pooled")),
                                   ("reads", s.reads, ("patches", "queries", "pooled")),
                                   ("second_pass", s.second_pass, ("cached", "full"))):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: one of {known}")
        self.vision, self.llm = freeze(vision), freeze(llm)
        if s.static == "qformer":
            self.ln_vision = nn.LayerNorm(s.qformer.vision_width)
            self.qformer = without_text(QFormer(s.qformer))
            if s.anchors:
                self.qformer.anchor(s.vision.side ** 2, s.anchors)
            self.query_proj = nn.Linear(s.qformer.width, llm.width)
        else:
            self.img_proj = nn.Linear(s.interaction.image_width, llm.width)
            self.e_img = nn.Parameter(torch.randn(llm.width) * s.token_std)
        if s.request_id is not None:
            self.e_imgq = nn.Parameter(torch.randn(llm.width) * s.token_std)
        self.e_imgd = nn.Parameter(torch.randn(llm.width) * s.token_std)
        self.interaction = InteractivePerception(s.interaction)

    # ---- the LLM's inputs --------------------------------------------------------------------

    def patches(self, x: LmeyeInputs) -> Tensor:
        """Each patch's states of some depths side by side, normalised: [B, N, Dv]."""
        return self.ln_vision(torch.cat([x.states[d][:, 1:] for d in self.settings.depths], -1))

    def static_tokens(self, x: LmeyeInputs) -> Tensor | None:
        """[B, Q, D], the same for every question; None where the image is added onto <img>."""
        if self.settings.static == "pooled":
            return None
        queries, maps = self.qformer(self.patches(x), return_attention=True)
        tokens = self.query_proj(queries)
        tokens = torch.zeros_like(tokens) if x.blind else tokens
        cells = self.cells()
        return tokens if cells is None else tokens + maps[-1].mean(1) @ cells    # [B,Q,N] @ [N,D]

    def cells(self) -> Tensor | None:
        """The LLM's words for column and row of each patch, summed: [N, D]; tiny preset alone."""
        first = self.settings.first_cell_id
        return None if first is None else self.llm.cell_words(first, self.settings.vision.side)

    def words(self, x: LmeyeInputs, text: TextBatch) -> Tensor:
        """The embedded text [S, L, D]: learned vectors are added onto the placeholders."""
        s, ids = self.settings, text.ids
        known = ids < self.llm.model.get_input_embeddings().num_embeddings
        embeds = self.llm.embed(ids * known) * known[..., None]           # [S, L, D]
        embeds = embeds + (ids == s.slot_id)[..., None] * self.e_imgd
        if s.request_id is not None:
            embeds = embeds + (ids == s.request_id)[..., None] * self.e_imgq
        if s.static == "pooled":
            image = self.img_proj(x.states[-1][:, 0]) + self.e_img        # [B, D]
            image = image.repeat_interleave(len(ids) // len(image), 0)
            embeds = embeds + (ids == s.img_id)[..., None] * image[:, None]
        return embeds

    # ---- the LLM's requests ------------------------------------------------------------------

    def features(self, x: LmeyeInputs) -> Tensor:
        """The features that the interaction decomposes: [B, F, Dv]."""
        reads = self.settings.reads
        if reads == "pooled":
            return x.states[-1][:, :1]
        return self.patches(x) if reads == "patches" else self.qformer(self.patches(x))

    def interact(self, x: LmeyeInputs, hidden: Tensor, maps: bool = False):
        """The LLM's states at the requests [S, D] -> returned [S, m, D], and maps [S, n, F]."""
        if self.settings.control == "zeroed":
            hidden = torch.zeros_like(hidden)
        if self.settings.control == "foreign":
            if len(hidden) < 2:
                raise ValueError("control 'foreign' takes the request of another sample: "
                                 "give two samples or more")
            hidden = hidden.roll(1, 0)
        return self.interaction(hidden, self.features(x), self.cells(), maps)

    def halves(self, x: LmeyeInputs) -> two_passes.Halves | None:
        """The prompts cut at their requests; None without requests: one pass is enough."""
        s = self.settings
        if s.static == "pooled" and any(row.count(s.img_id) != 1 for row in x.prompts):
            raise ValueError("each prompt needs one <img>, onto which its image is added")
        if not any(s.slot_id in row for row in x.prompts):
            return None
        halves = two_passes.cut(x.prompts, s.interaction.returned, s.slot_id, s.request_id)
        return None if s.control == "static" else halves

    @torch.no_grad()
    def attention_maps(self, x: LmeyeInputs) -> Tensor:
        """Attention of each request over the image tokens, [S, n, F]; rows sum to 1."""
        return self.interact(x, self.requests(x), maps=True)[1]

    def requests(self, x: LmeyeInputs) -> Tensor:
        """The first pass alone: the LLM's states at the request tokens, [S, D]."""
        if (halves := self.halves(x)) is None:
            raise ValueError("no requests: the prompts hold none, or control is 'static'")
        return two_passes.first_pass(self.llm, halves, partial(self.words, x), self.static_tokens(x))[0]

    # ---- train and answer --------------------------------------------------------------------

    def rows(self, x: LmeyeInputs) -> tuple[Tensor, TextBatch, Tensor | Prefix | None]:
        """(embeds, text, the tokens or prefix before them) of the pass that gives the answer."""
        shared = self.static_tokens(x)
        if (halves := self.halves(x)) is None:
            text = self.llm.pack(x.prompts, x.answers)
            return self.words(x, text), text, shared
        return two_passes.second_pass(
            self.llm, halves, x.answers, partial(self.words, x), shared, partial(self.interact, x),
            self.settings.second_pass == "cached")

    def forward(self, x: LmeyeInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its named parts): the mean cross-entropy of the answer tokens."""
        loss = self.llm.loss(*self.rows(x))
        return loss, {"answer": loss.detach()}

    @torch.no_grad()
    def generate(self, x: LmeyeInputs, **options) -> Tensor:
        """Answer ids [S, <= max_new_tokens]."""
        return self.llm.generate(*self.rows(x), **self.settings.generate | options)


def without_text(qformer: QFormer) -> QFormer:
    """Remove a Q-Former's words and text half, which the static mapping does not use."""
    qformer.words = qformer.positions = None
    for layer in qformer.layers:
        layer.text_ffn = None
    return qformer


def tiny(vision: VisionSettings, vocab: int) -> LmeyeSettings:
    """The bundled preset. <img-q> and <img-d> are the two ids behind the tokenizer's."""
    std, width = 128 ** -0.5, 2 * vision.width
    return LmeyeSettings(
        vision, LanguageSettings("llama", vocab, layers=5, ffn=384),
        InteractionSettings(128, width, mlp=128, init_std=std, requests=2, returned=2),
        request_id=vocab, slot_id=vocab + 1,
        qformer=QFormerSettings(width=128, layers=2, heads=4, ffn=256, queries=32, init_std=std,
                                vision_width=width, vocab=1, max_text=1, cross_every=1),
        token_std=0.1, anchors=6.0, first_cell_id=6)
