"""The frozen LLM, T5 family or Llama family: embed, splice, loss, generate.

Symbols: B images, S samples (S = n*B, sample s asks about image s // n), L tokens of a row,
P shared visual tokens of an image, K own visual tokens of a sample, D width.

Visual tokens come in two kinds. `shared` [B, P, D] depends on the image alone; `own` [S, K, D]
depends on the question too (an instruction-aware Q-Former). An encoder-decoder reads
[own | shared | text], LION's published order, one row a sample. A decoder-only LLM reads
[shared | own | text]; in training all samples of an image stand in one row behind its shared
tokens, and a block mask keeps them from seeing each other: the image is read once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.language_build import LanguageSettings, build

LENGTHS = 32  # few row lengths: a CPU's kernels are compiled, and kept, for every shape there is


@dataclass
class TextBatch:
    """Padded rows of text: one sample a row, or all samples of one image (packed)."""

    ids: Tensor                            # [rows, L]
    mask: Tensor                           # [rows, L] True = token, False = padding
    labels: Tensor | None = None           # -100 = no loss; [rows, L], encoder-decoder [S, A]
    weight: Tensor | None = None           # beside labels: 1 / tokens of its answer, 0 elsewhere
    sample: Tensor | None = None           # packed: which sample of the row, [rows, L]
    position: Tensor | None = None         # packed: position within the sample, [rows, L]
    own: Tensor | None = None              # packed: True where an own visual token goes


def splice(embeds: Tensor, ids: Tensor, token: int, features: Tensor) -> Tensor:
    """Replace the embedding of every `token` in ids [S, T] by the next row of features [R, D].

    Differentiable in both. ValueError when placeholders and features differ in number.
    """
    where = ids == token                                              # [S, T]
    if int(where.sum()) != len(features):
        raise ValueError(f"{int(where.sum())} placeholders in the text for "
                         f"{len(features)} features")
    out = embeds.clone()
    out[where] = features.to(out.dtype)                               # row-major: reading order
    return out


def _pad(rows: list[list], value: float, left: bool = False, multiple: int = 1) -> Tensor:
    longest = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([[value] * (longest - len(r)) * left + r + [value] * (longest - len(r))
                         * (not left) for r in rows])


class LanguageModel(nn.Module):
    """One interface over transformers' T5ForConditionalGeneration and LlamaForCausalLM.

    model: a ready one (backbones.py); None: a random one of these settings. Family 'llama' is
    every decoder-only LLM with the parts of Llama's: SmolLM2, Vicuna, Qwen2.
    """

    def __init__(self, settings: LanguageSettings, model: nn.Module | None = None):
        super().__init__()
        self.settings = settings
        self.model = model if model is not None else build(settings)
        self.encoder_decoder = settings.family == "t5"

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def width(self) -> int:
        return self.model.get_input_embeddings().weight.shape[1]

    def embed(self, ids: Tensor) -> Tensor:
        """[..., T] ids -> [..., T, D]. Ids beyond the vocabulary, which stand for features until
        `splice` puts those in their places, take the row of id 0."""
        table = self.model.get_input_embeddings()
        return table(ids.masked_fill(ids >= table.num_embeddings, 0))

    def cell_words(self, first: int, side: int) -> Tensor:
        """Its own words for column and row of every cell of a side x side grid, summed: [N, D].
        first: id of the first column's word; columns, then rows, follow one another."""
        columns, rows = self.embed(first + torch.arange(2 * side, device=self.device)).split(side)
        return (rows[:, None] + columns[None]).flatten(0, 1)

    def pack(self, prompts: list[list[int]], answers: list[list[int]] | None = None,
             images: int | None = None, own: int = 0, multiple: int = 1) -> TextBatch:
        """Token id lists of S samples -> TextBatch. With answers for `loss`, else `generate`.

        Decoder-only training packs the samples into `images` rows (see packed_rows), leaves
        `own` slots before each text and fills rows up to a `multiple`, in long trainings LENGTHS.
        It pads right; to generate, prompts are padded left.
        """
        s, device = self.settings, self.device
        if answers is None or self.encoder_decoder:
            answers = answers and [a + [s.eos_id] for a in answers]
            labels = answers and _pad(answers, -100).to(device)
            weight = answers and _pad([[1 / len(a)] * len(a) for a in answers], 0.0).to(device)
            ids = _pad(prompts, -1, left=not self.encoder_decoder and answers is None).to(device)
            return TextBatch(ids.clamp(min=0).masked_fill(ids < 0, s.pad_id), ids >= 0, labels,
                             weight)
        n = len(prompts) // (images or len(prompts))
        rows: dict[str, list[list[int]]] = {k: [] for k in ("ids", "labels", "weight", "sample",
                                                             "position", "own")}
        for start in range(0, len(prompts), n):
            row = {k: [] for k in rows}
            for i, (q, a) in enumerate(zip(prompts[start:start + n], answers[start:start + n])):
                a = a + [s.eos_id]
                size = own + len(q) + len(a)
                row["ids"] += [s.pad_id] * own + q + a
                row["labels"] += [-100] * (own + len(q)) + a
                row["weight"] += [0.0] * (own + len(q)) + [1 / len(a)] * len(a)
                row["sample"] += [i] * size
                row["position"] += range(size)
                row["own"] += [1] * own + [0] * (size - own)
            for k in rows:
                rows[k].append(row[k])
        pads = {"ids": s.pad_id, "labels": -100, "weight": 0.0, "sample": -1, "position": 0,
                "own": 0}
        t = {k: _pad(v, pads[k], multiple=multiple).to(device) for k, v in rows.items()}
        return TextBatch(t["ids"], t["sample"] >= 0, t["labels"], t["weight"], t["sample"],
                         t["position"], t["own"].bool())

    def loss(self, embeds: Tensor, text: TextBatch, shared: Tensor | None = None,
             own: Tensor | None = None, balanced: bool = False) -> Tensor:
        """Mean cross-entropy of the answer tokens; embeds [rows, L, D] are text.ids embedded and
        spliced. `balanced`: every answer counts alike, not every token, so that a yes is not
        drowned by a caption. ValueError when no label is left (the mean would be NaN)."""
        if not bool((text.labels != -100).any()):
            raise ValueError("no answer token to learn from: every label is -100")
        labels, weight = text.labels, text.weight if balanced else (text.labels != -100).float()
        if self.encoder_decoder:
            x, mask = self._joined(embeds, text.mask, shared, own)
            answers = labels != -100                                  # [S, A]
            before = self.model.prepare_decoder_input_ids_from_labels(labels)
            logits = self.model(inputs_embeds=x, attention_mask=mask.long(),
                                decoder_input_ids=before, use_cache=False).logits[answers]
        else:
            labels, weight = labels[:, 1:], weight[:, 1:]             # the token before predicts
            answers = labels != -100                                  # [rows, L-1]
            states = self.states(self._with_own(embeds, text, own), text, shared)
            logits = self.model.lm_head(states[:, :-1][answers])      # of nothing else
        each = F.cross_entropy(logits.float(), labels[answers], reduction="none")
        return (each * weight[answers]).sum() / weight.sum()

    def logits(self, embeds: Tensor, text: TextBatch, shared: Tensor | None = None,
               own: Tensor | None = None) -> Tensor:
        """Packed decoder-only forward: logits [rows, L, V] of the text positions."""
        return self.model.lm_head(self.states(self._with_own(embeds, text, own), text, shared))

    @staticmethod
    def _with_own(embeds: Tensor, text: TextBatch, own: Tensor | None) -> Tensor:
        return embeds if own is None else splice(embeds, text.own.long(), 1, own.flatten(0, 1))

    def states(self, embeds: Tensor, text: TextBatch, shared: Tensor | None = None,
               cache=None) -> Tensor:
        """The same up to the head: states [rows, L, D]. cache: a DynamicCache to be filled."""
        seen = 0 if shared is None else shared.shape[1]
        x = embeds if shared is None else torch.cat(      # an image may have several rows
            [shared.repeat_interleave(len(embeds) // len(shared), 0).to(embeds.dtype), embeds], 1)
        first = torch.arange(seen, device=self.device).expand(len(x), -1)     # [rows, P]
        return self.model.model(
            inputs_embeds=x, attention_mask=additive(block_mask(text, seen), x.dtype)[:, None],
            position_ids=torch.cat([first, text.position + seen], 1), past_key_values=cache,
            use_cache=cache is not None).last_hidden_state[:, seen:]

    def _joined(self, embeds, mask, shared, own):
        """All tokens of a sample in one row, visual first: x [S, K+P+L, D] and its mask."""
        if shared is not None:
            shared = shared.repeat_interleave(len(embeds) // len(shared), 0)     # [S, P, D]
        parts = [own, shared] if self.encoder_decoder else [shared, own]
        visual = [p for p in parts if p is not None]
        ones = [mask.new_ones(p.shape[:2]) for p in visual]
        return (torch.cat([*(p.to(embeds.dtype) for p in visual), embeds], 1),
                torch.cat([*ones, mask], 1))

    @torch.no_grad()
    def generate(self, embeds: Tensor, text: TextBatch, shared: Tensor | None = None,
                 own: Tensor | None = None, **options) -> Tensor:
        """Answer ids [S, <= max_new_tokens] by transformers' generate, prompt not repeated;
        an encoder-decoder puts its start token before them."""
        x, mask = self._joined(embeds, text.mask, shared, own)
        ends = {"eos_token_id": self.settings.eos_id, "pad_token_id": self.settings.pad_id}
        options = {"max_new_tokens": 48, "do_sample": False, "num_beams": 1} | ends | options
        return self.model.generate(inputs_embeds=x, attention_mask=mask.long(), **options)


def packed_rows(prompts: list[list[int]], answers: list[list[int]], images: int, own=0) -> int:
    """Rows to pack the samples of `images` into: equal ones of at most about 220 text tokens.
    Attention costs the square of a row's length, another row the shared tokens once more."""
    n = len(prompts) // images
    tokens = (sum(map(len, prompts)) + sum(map(len, answers))) / images + own * n
    return images * next(g for g in range(1, n + 1) if n % g == 0 and (tokens / g <= 220 or g == n))


def block_mask(text: TextBatch, seen: int) -> Tensor:
    """[B, seen+L, seen+L] True = may look: causal, and a sample sees the image and itself."""
    sample = F.pad(text.sample, (seen, 0), value=-2)                  # -2 the image, -1 padding
    mine = sample[:, :, None] == sample[:, None, :]                   # [B, P+L, P+L]
    image = (sample == -2)[:, None, :]
    return (mine | image) & torch.ones_like(mine[0]).tril()


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to attention scores: 0 where one may look, the lowest number elsewhere."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
