"""PVIT (arXiv 2308.13437): a region of the image is a word of the prompt.

    pixels -> frozen ViT -> states - mm_projector -----------------------------> X_I [B, N, D]
    pixels -> frozen region encoder -> map; a box - RoIAlign - prompt_projector
                                            the box itself - bbox_fc ---------+-> X_R [R, D]
    "What is in <Region> X_R </Region>?"        three positions a region, no coordinates as text
    [X_I | text] -> LLM -> answer

Symbols: B images, S samples (S = n*B, sample s asks about image s // n), N patches, R regions,
L tokens, D LLM width, F width of a region feature.

`representation` says what stands for a box, the paper's ablation (table 2): 'feature' as above,
'text' the coordinates as words and nothing else, 'location' four learnt location tokens.

Deviations from the paper, the first three in the tiny preset only:
- the projections are LayerNorm and two layers, not one; the image's reads two depths;
- each image token carries the LLM's words for its column and row, as stage 0's text scenes do;
- regions are pooled from the ViT's own states: there is no second encoder;
- <Region> and </Region> are a parameter of their own; each coordinate has its location tokens;
- bbox_fc and jitter are the code's, not the paper's; the code also moves the answers' boxes;
- bbox_fc and, in the tiny preset, mm_projector's last layer start at zero: so they are off in
  stage 1, as bbox_fc is in the code, and torch's default does not drown the feature in stage 2;
- no `<L204>` coordinates in prompts (the serving code's) and no SAM prompt encoder (dead code).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lion_min.boxes import Box
from lion_min.language import LanguageModel, LanguageSettings, TextBatch, splice
from lion_min.pvit.region_encoder import TinyRegionSettings
from lion_min.trainable import freeze, start_at_zero
from lion_min.vision import VisionEncoder, VisionSettings

SLOTS = {"feature": 1, "location": 4, "text": 0}  # positions between <Region> and </Region>


@dataclass
class PvitSettings:
    """Everything that shapes the model. A hidden width of 0 is the paper's single Linear."""

    vision: VisionSettings
    language: LanguageSettings
    regions: Any                           # of the region encoder, which is handed in
    open_id: int                           # <Region>; may lie beyond the LLM's vocabulary
    close_id: int                          # </Region>
    region_id: int = 4                     # what fills a region's slots: the tokenizer's <region>
    representation: str = "feature"        # or 'text', or 'location'
    depths: tuple[int, ...] = (0, 4)       # ViT states that the image tokens are made of
    mlp: int = 512                         # hidden width of mm_projector
    region_mlp: int = 128                  # hidden width of prompt_projector
    box_embedding: bool = True             # bbox_fc
    location_bins: int = 64                # location tokens of one coordinate
    first_cell_id: int | None = None       # the tokenizer's first column word; rows follow
    image_id: int | None = None            # placeholder of image tokens; None: they come first
    generate: dict = field(default_factory=dict)


@dataclass
class PvitInputs:
    """One batch. A region of a prompt is [open_id, region_id, .., close_id] and has its box."""

    states: list[Tensor]                   # every state of the ViT, each [B, 1+N, Dv]
    prompts: list[list[int]]               # S prompts, earlier turns included
    boxes: list[list[Box]]                 # the S prompts' boxes, fractions, in reading order
    answers: list[list[int]] | None = None
    maps: list | None = None               # what `regions` pools from, where not the states


class Pvit(nn.Module):
    """The whole model. The ViT and the region encoder are frozen; the LLM trains in stage 2.
    llm: with its weights already inside, since new words start as the mean of the old ones.
    regions: has `width` and `pool(maps, boxes, box_image)`; None unless 'feature' needs one."""

    def __init__(self, settings: PvitSettings, vision: VisionEncoder, llm: LanguageModel,
                 regions: nn.Module | None = None):
        super().__init__()
        s = self.settings = settings
        if s.representation not in SLOTS:
            raise ValueError(f"unknown representation {s.representation!r}: {', '.join(SLOTS)}")
        if s.representation == "feature" and regions is None:
            raise ValueError("representation 'feature' needs a region encoder")
        width, words = llm.width, llm.embed(torch.arange(llm.settings.vocab, device=llm.device)).detach()
        self.vision, self.llm = freeze(vision), llm
        self.sees_image = True             # False: the image's projection was never trained
        self.mm_projector = projector(len(s.depths) * s.vision.width, s.mlp, width)
        if s.mlp and s.first_cell_id is not None:      # else tokens of zeros: a norm over them
            start_at_zero(self.mm_projector[-1])       # multiplies gradients by 300, layer by layer
        if s.representation != "text":
            self.markers = nn.Parameter(words.mean(0).repeat(2, 1))       # <Region>, </Region>
        if s.representation == "feature":
            self.regions = freeze(regions)
            self.prompt_projector = projector(regions.width, s.region_mlp, width)
            if s.box_embedding:
                self.bbox_fc = start_at_zero(nn.Linear(4, width))
        if s.representation == "location":
            noise = torch.randn(4 * s.location_bins, width, device=words.device)
            self.locations = nn.Parameter(words.mean(0) + words.std(0) * noise)  # [4 bins, D]

    # ---- the LLM's input ---------------------------------------------------------------------

    def image_tokens(self, x: PvitInputs) -> Tensor:
        """X_I [B, N, D]: the states of the patches, side by side, projected."""
        s = self.settings
        tokens = self.mm_projector(torch.cat([x.states[d][:, 1:] for d in s.depths], -1))
        return tokens if s.first_cell_id is None else tokens + self.llm.cell_words(
            s.first_cell_id, s.vision.side)

    def region_tokens(self, x: PvitInputs) -> Tensor:
        """What fills the slots, in reading order: X_R [R, D], or [4R, D] location tokens."""
        boxes, box_image = flat_boxes(x)                                  # [R, 4], [R]
        if self.settings.representation == "location":
            bins = self.settings.location_bins
            rows = (boxes * bins).long().clamp(max=bins - 1)              # [R, 4]
            return self.locations[rows + bins * torch.arange(4, device=rows.device)].flatten(0, 1)
        maps = x.states if x.maps is None else x.maps
        tokens = self.prompt_projector(self.regions.pool(maps, boxes, box_image))
        if self.settings.box_embedding:
            with torch.autocast(boxes.device.type, enabled=False):  # bf16 rounds a corner by 1/256
                tokens = tokens + self.bbox_fc(boxes)
        return tokens

    def words(self, x: PvitInputs, text: TextBatch) -> Tensor:
        """Embedded text with markers, regions and (image_id) image tokens in their places."""
        s, ids = self.settings, text.ids
        opens, closes = ids == s.open_id, ids == s.close_id               # [S, L]
        inside = opens.cumsum(1) > closes.cumsum(1)                       # from <Region> on
        embeds = self.llm.embed(ids.masked_fill(opens | closes, 0))       # the LLM may lack them
        if s.representation != "text":
            for mask, marker in ((opens, self.markers[0]), (closes, self.markers[1])):
                embeds = torch.where(mask[..., None], marker.to(embeds.dtype), embeds)
            slots = inside & (ids == s.region_id)
            embeds = splice(embeds, slots.long(), 1, self.region_tokens(x))
        if s.image_id is not None:
            slots = ~inside & (ids == s.image_id)
            tokens = self.image_tokens(x).repeat_interleave(len(x.prompts) // len(x.states[0]), 0)
            embeds = splice(embeds, slots.long(), 1, tokens.flatten(0, 1))
        return embeds

    def shared(self, x: PvitInputs) -> Tensor | None:
        """Image tokens before the text, read once an image; None where the text holds them."""
        return self.image_tokens(x) if self.settings.image_id is None and self.sees_image else None

    def check(self, x: PvitInputs) -> None:
        """ValueError naming the first sample whose placeholders and boxes differ in number."""
        s, images, patches = self.settings, len(x.states[0]), x.states[0].shape[1] - 1
        if len(x.prompts) % images or len(x.boxes) != len(x.prompts):
            raise ValueError(f"{len(x.prompts)} prompts and {len(x.boxes)} lists of boxes for "
                             f"{images} images: as many of each for every image are needed")
        region = [s.open_id, *[s.region_id] * SLOTS[s.representation], s.close_id]
        for i, (row, boxes) in enumerate(zip(x.prompts, x.boxes)):
            opens, closes = row.count(s.open_id), row.count(s.close_id)
            whole = sum(row[j:j + len(region)] == region for j in range(len(row)))
            if not opens == closes == whole == len(boxes):
                raise ValueError(f"sample {i}: {opens} <Region> and {closes} </Region> with {whole}"
                                 f" whole regions between them for {len(boxes)} boxes")
            tokens = row.count(s.image_id) - whole * region.count(s.image_id)
            if s.image_id is not None and tokens != patches:
                raise ValueError(f"sample {i}: {tokens} image places for {patches} image tokens")

    # ---- train and answer --------------------------------------------------------------------

    def forward(self, x: PvitInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its named parts): the mean cross-entropy of the answer tokens."""
        self.check(x)
        text = self.llm.pack(x.prompts, x.answers)
        loss = self.llm.loss(self.words(x, text), text, self.shared(x))
        return loss, {"answer": loss.detach()}

    @torch.no_grad()
    def generate(self, x: PvitInputs, **options) -> Tensor:
        """Answer ids [S, <= max_new_tokens]. Regions stand in the prompt's embeddings, so the
        KV cache holds them from the first step on (the official loop needs its own decoder)."""
        self.check(x)
        text = self.llm.pack(x.prompts)
        return self.llm.generate(self.words(x, text), text, self.shared(x),
                                 **self.settings.generate | options)


def projector(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """hidden 0: the paper's single Linear; else LayerNorm and two layers."""
    return nn.Linear(inputs, outputs) if not hidden else nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def flat_boxes(x: PvitInputs) -> tuple[Tensor, Tensor]:
    """All boxes in reading order, [R, 4], and the image each lies in, [R]; R may be 0."""
    n, device = len(x.prompts) // len(x.states[0]), x.states[0].device
    boxes = torch.tensor([box for row in x.boxes for box in row], device=device)
    image = [i // n for i, row in enumerate(x.boxes) for _ in row]
    return boxes.reshape(-1, 4), torch.tensor(image, device=device, dtype=torch.long)


def tiny(vision: VisionSettings, vocab: int, representation: str = "feature") -> PvitSettings:
    """The bundled preset around a ViT of these sizes and a tokenizer of `vocab` words."""
    return PvitSettings(
        vision, LanguageSettings(family="llama", vocab=vocab, layers=5, ffn=384),
        TinyRegionSettings(vision.width), open_id=vocab, close_id=vocab + 1,
        representation=representation, first_cell_id=6)
