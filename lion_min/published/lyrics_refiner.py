"""The published refiner: any tagger, transformers' Grounding-DINO and SAM behind `Refined`.

    pictures -> tagger -> "dog, grass, frisbee." -> Grounding-DINO -> 900 boxes, scores, features
                                                 +- kept boxes ----> SAM -> a mask each

Lyrics: RAM or RAM++ as tagger, Grounding-DINO-T (d 256, so features of 260). Spec 2.2, 2.3, 2.5;
official code `generate_bbox_caption` in fengshen/models/Lyrics/modeling_lyrics.py. The released
code has no SAM (spec 8.1); here it is the `segmenter`, which may be left out.

Ours is one thing: [CLS], [SEP], comma and full stop are no words, so a box that only they
claim is not kept (the official code keeps it under an empty name), and no tags give no boxes.

Symbols: B pictures, M queries, L prompt tokens, K most boxes kept of a picture, S mask side.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lion_min import checkpoints, kept, parallel
from lion_min.lyrics.refiner import Refined
from lion_min.lyrics.suppression import choose, corners, rows_of
from lion_min.parts import fingerprint
from lion_min.pretrained.backbones import load_whole


@dataclass
class PublishedSettings:
    """Thresholds of the official scripts (spec 2.5)."""

    threshold: float = 0.25      # a box's best word must be this likely
    text_threshold: float = 0.2  # each word of its phrase
    overlap: float = 0.6         # IoU above which the lower score goes
    mask_size: int = 256         # of the masks, over the whole picture


def prompt_of(tags: list[str]) -> str:
    """'dog, grass, frisbee.': one text block for all tags, as commas part no sub-sentences."""
    return ", ".join(tag.lower().strip() for tag in tags) + "."


def tag_of(phrase: str, tags: list[str]) -> str:
    """The tag that a phrase stands for: itself, else its longest first or last words, else it."""
    phrase = phrase.replace("|", "").replace(" - ", "-").strip()
    named, words = {tag.lower(): tag for tag in tags}, phrase.split()
    for count in range(len(words), 0, -1):
        for part in (words[:count], words[-count:]):
            if (tag := " ".join(part)) in named:
                return named[tag]
    return phrase


class PublishedRefiner(nn.Module):
    """`refine(images)` -> Refined; everything is frozen.

    tagger     RGB pictures -> the tags of each; None: the caller gives them
    detector   GroundingDinoForObjectDetection, with its GroundingDinoProcessor
    segmenter  SamModel with its SamImageProcessor, or None for both
    """

    def __init__(self, settings: PublishedSettings,
                 tagger: Callable[[list[Image.Image]], list[list[str]]] | None,
                 detector: nn.Module, detector_processor,
                 segmenter: nn.Module | None = None, segmenter_processor=None):
        super().__init__()
        if (segmenter is None) != (segmenter_processor is None):
            raise ValueError("a segmenter and its processor come together, or neither")
        self.settings, self.tagger = settings, tagger
        self.detector, self.detector_processor = detector, detector_processor
        self.segmenter, self.segmenter_processor = segmenter, segmenter_processor
        self.keep: Path | None = None      # a folder for what was found, a file a picture
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PublishedRefiner:
        """Frozen: no dropout, whatever the model around it does."""
        return super().train(False)

    def refine(self, images: list[Image.Image], tags: list[list[str]] | None = None) -> Refined:
        """As `detect`, one picture after another, so that none depends on those beside it; what
        `keep` holds is read, not detected again."""
        tags = self.tagger(images) if tags is None else tags
        return joined([self.kept(image, words) for image, words in zip(images, tags, strict=True)])

    def kept(self, image: Image.Image, tags: list[str]) -> Refined:
        """One picture's, from its file in `keep` or into it: named by pixels, tags and refiner."""
        if self.keep is None:
            return self.detect([image], [tags])
        path = kept.file_of(self.keep, image, self.fingerprint, tags)
        if (found := read(path)) is None:
            found = self.detect([image], [tags])
            if not parallel.is_first():    # the first process writes
                return found
            save(found, path)
            found = read(path) or found
        return found.to(self.detector.device)

    @cached_property
    def fingerprint(self) -> tuple:
        return fingerprint(self), astuple(self.settings)

    @torch.no_grad()
    def detect(self, images: list[Image.Image], tags: list[list[str]] | None = None) -> Refined:
        """RGB pictures of any sizes in one batch; `tags` prompt in the tagger's place."""
        with torch.autocast(self.detector.device.type, enabled=False):
            return self._detect(images, self.tagger(images) if tags is None else tags)

    def _detect(self, images: list[Image.Image], tags: list[list[str]]) -> Refined:
        s = self.settings
        x = self.detector_processor(images=images, text=[prompt_of(t) for t in tags],
                                    padding=True, return_tensors="pt").to(self.detector.device)
        out = self.detector(**x)
        likely = out.logits[..., :x.input_ids.shape[1]].sigmoid()             # [B, M, L]
        likely = likely * self.is_word(x.input_ids)[:, None]
        boxes, scores = corners(out.pred_boxes), likely.amax(-1)
        order, mask = choose(boxes, scores, s.threshold, s.overlap)
        # The reference after the last layer, which pred_boxes is not: the decoder corrects it
        # from the state before the last LayerNorm, the box head from the state behind it.
        reference = out.intermediate_reference_points[:, -1]                  # [B, M, 4] cxcywh
        features = rows_of(torch.cat([out.last_hidden_state, reference], -1), order)
        boxes = rows_of(boxes, order)
        labels = self.labels(rows_of(likely, order), x.input_ids, mask, tags)
        segments = None if self.segmenter is None else self.masks(images, boxes, mask)
        return Refined(tags, boxes, rows_of(scores, order), labels, features, mask, segments)

    def is_word(self, ids: Tensor) -> Tensor:
        """[B, L], False at special tokens, comma and full stop."""
        tokenizer = self.detector_processor.tokenizer
        marks = tokenizer.all_special_ids + tokenizer.convert_tokens_to_ids([",", "."])
        return ~torch.isin(ids, torch.tensor(marks, device=ids.device))

    def labels(self, likely: Tensor, ids: Tensor, mask: Tensor,
               tags: list[list[str]]) -> list[list[str]]:
        """The tag of each kept row's likely words, "" for the others."""
        says, decode = likely > self.settings.text_threshold, self.detector_processor.decode
        return [[tag_of(decode(row[said]), tags[b]) if keep else ""
                 for said, keep in zip(says[b], mask[b].tolist())] for b, row in enumerate(ids)]

    def masks(self, images: list[Image.Image], boxes: Tensor, mask: Tensor) -> Tensor:
        """SAM's mask of each kept box over the whole picture: logits [B, K, S, S].

        SAM pads a picture to a square; that is cut off. Rows behind a picture's last kept box are
        -inf: no pixel.
        """
        size, counts = (self.settings.mask_size,) * 2, mask.sum(1).tolist()
        logits = boxes.new_full((len(images), max(counts), *size), -torch.inf)
        for b, count in enumerate(counts):
            if count:
                x = self.segmenter_processor(images[b], return_tensors="pt").to(boxes.device)
                height, width = x["reshaped_input_sizes"][0].tolist()
                pixels = boxes[b, :count] * boxes.new_tensor([width, height, width, height])
                out = self.segmenter(pixel_values=x["pixel_values"], input_boxes=pixels[None],
                                     multimask_output=False).pred_masks[0]    # [K, 1, s, s]
                square = F.interpolate(out, x["pixel_values"].shape[-2:], mode="bilinear")
                logits[b, :count] = F.interpolate(square[..., :height, :width], size,
                                                  mode="bilinear")[:, 0]
        return logits


# ---- on the disk ---------------------------------------------------------------------------------

NAMES = {"boxes", "scores", "features", "mask", "words"}


def save(found: Refined, path: Path) -> None:
    """One picture's boxes, features (half precision) and masks (yes or no)."""
    words = json.dumps([found.tags, found.labels]).encode()
    tensors = {"boxes": found.boxes, "scores": found.scores, "features": found.features.half(),
               "mask": found.mask, "words": torch.frombuffer(bytearray(words), dtype=torch.uint8)}
    if found.segments is not None:
        tensors["segments"] = found.segments > 0
    checkpoints.save_tensors(tensors, path)


def read(path: Path) -> Refined | None:
    """What `save` wrote; a mask's logits are 10 and -10. None where there is no such file."""
    if (t := kept.read(path, NAMES)) is None:
        return None
    tags, labels = json.loads(bytes(t["words"].tolist()))
    segments = t["segments"] * 20.0 - 10 if "segments" in t else None
    return Refined(tags, t["boxes"], t["scores"], labels, t["features"].float(), t["mask"],
                   segments)


def joined(found: list[Refined]) -> Refined:
    """Several pictures' as one; rows of masks are filled up with no pixel."""
    tensors = {name: torch.cat([getattr(one, name) for one in found])
               for name in ("boxes", "scores", "features", "mask")}
    masks = [one.segments for one in found]
    most = 0 if masks[0] is None else max(m.shape[1] for m in masks)
    return Refined(
        tags=[words for one in found for words in one.tags],
        labels=[words for one in found for words in one.labels], **tensors,
        segments=None if masks[0] is None else torch.cat([
            F.pad(m, (0, 0, 0, 0, 0, most - m.shape[1]), value=-torch.inf) for m in masks]))


def load(detector: str | Path, segmenter: str | Path = "") -> PublishedRefiner:
    """Grounding-DINO and, where one is given, SAM, from folders or names on the Hub."""
    sam = load_whole("segmenter", segmenter) if segmenter else ()
    return PublishedRefiner(PublishedSettings(), None, *load_whole("detector", detector), *sam)
