"""The frozen LLM, T5 family or Llama family: embed, splice, loss, generate.

Symbols: B images, S samples (S = n*B, sample s is about image s // n), L tokens of a row,
P shared visual tokens of an image, K own visual tokens of a sample, D width.

Of the visual tokens, `shared` [B, P, D] depend on the image alone, `own` [S, K, D] on the question
too (an instruction-aware Q-Former). A decoder-only LLM reads [shared | own | text]: keys and values
of the shared tokens do not depend on what follows, so it reads them once an image and repeats the
cache for the image's questions. An encoder-decoder reads [own | shared | text] for every sample.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.language_build import LanguageSettings, build, too_long
from lion_min.padding import by_length, pad_rows


@dataclass
class TextBatch:
    """Padded rows of text, one a sample."""

    ids: Tensor                            # [S, L]
    mask: Tensor                           # [S, L] True = token, False = padding
    labels: Tensor | None = None           # -100 = no loss; [S, L], encoder-decoder [S, A]


@dataclass
class Prefix:
    """Keys and values that a decoder-only LLM holds of S samples; a call extends them."""

    cache: object                          # transformers' DynamicCache: keys, values [S, H, T, d]
    mask: Tensor                           # [S, T] True = token, False = padding

    def repeat(self, n: int) -> None:
        """Every row n times, side by side; gradients of the copies add up."""
        self.cache.batch_repeat_interleave(n)
        self.mask = self.mask.repeat_interleave(n, 0)

    def pick(self, rows: Tensor) -> Prefix:
        """A copy that holds these rows alone."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(rows)
        return Prefix(cache, self.mask[rows])

    def crop(self, n: int) -> None:
        """Remove the last n columns."""
        self.cache.crop(-n)
        self.mask = self.mask[:, :self.mask.shape[1] - n]


def splice(embeds: Tensor, ids: Tensor, token: int, features: Tensor) -> Tensor:
    """Replace the embedding of every `token` in ids [S, T] by the next row of features [R, D],
    differentiable in both. ValueError when placeholders and features differ in number."""
    slots = ids == token                                              # [S, T]
    if int(slots.sum()) != len(features):
        raise ValueError(f"{slots.sum()} placeholders in the text for {len(features)} features")
    out = embeds.clone()
    out[slots] = features.to(out.dtype)                               # row-major: reading order
    return out


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to attention scores: 0 where attention is allowed, else the lowest number."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


class LanguageModel(nn.Module):
    """One interface over transformers' T5ForConditionalGeneration and LlamaForCausalLM.

    model: a ready one (backbones.py); None: a random one of these settings. Family 'llama' is
    every decoder-only LLM with the parts of Llama's: SmolLM2, Vicuna, Qwen2 and 3, Gemma 3."""

    def __init__(self, settings: LanguageSettings, model: nn.Module | None = None):
        super().__init__()
        self.notes: list[str] = []         # of the last `generate`, for the user
        self.equal_calls = False           # processes that share the layers call them equally often
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
        """The embedded words for column and row of each cell of a side x side grid, summed: [N, D].
        first: id of the first column's word; columns, then rows, follow one another."""
        columns, rows = self.embed(first + torch.arange(2 * side, device=self.device)).split(side)
        return (rows[:, None] + columns[None]).flatten(0, 1)

    def pack(self, prompts: list[list[int]], answers: list[list[int]] | None = None) -> TextBatch:
        """Token id lists of S samples -> TextBatch; with answers for `loss`, else `generate`. A
        decoder-only LLM's answers follow the prompt in its row. Rows are padded right; prompts that
        it is to continue are padded left."""
        s, device, rows, labels = self.settings, self.device, prompts, None
        if answers is not None:
            answers = [a + [s.eos_id] for a in answers]
            if not self.encoder_decoder:
                rows = [q + a for q, a in zip(prompts, answers)]
                answers = [[-100] * len(q) + a for q, a in zip(prompts, answers)]
            labels = pad_rows(answers, -100).to(device)
        ids = pad_rows(rows, -1, left=answers is None and not self.encoder_decoder).to(device)
        return TextBatch(ids.clamp(min=0).masked_fill(ids < 0, s.pad_id), ids >= 0, labels)

    # ---- decoder-only: an image is read once, its samples behind it ---------------------------

    def states(self, embeds: Tensor, mask: Tensor, prefix: Prefix) -> Tensor:
        """States after the final norm [S, L, D] of tokens behind a prefix, which is extended."""
        prefix.mask = torch.cat([prefix.mask, mask], 1)                   # [S, T+L]
        new, whole = embeds.shape[1], prefix.mask.shape[1]
        causal = mask.new_ones(new, whole).tril(whole - new)
        seen = causal & prefix.mask[:, None]                              # [S, L, T+L]
        position = (prefix.mask.cumsum(1) - 1).clamp(min=0)               # padding has none
        return self.model.model(
            inputs_embeds=embeds, attention_mask=self.masks(seen, position, embeds.dtype),
            position_ids=position[:, -new:], past_key_values=prefix.cache,
            use_cache=True).last_hidden_state

    def masks(self, seen: Tensor, position: Tensor, dtype: torch.dtype) -> Tensor:
        """What the layers add to their scores, [S, 1, L, T+L]. seen [S, L, T+L]; position [S, T+L]
        of every token, for layers that see less (pretrained/sliding.py)."""
        return additive(seen, dtype)[:, None]

    def prefix(self, shared: Tensor | None, samples: int, dtype: torch.dtype) -> Prefix:
        """Shared tokens [B, P, D] read once and repeated for S samples; None: an empty prefix."""
        from transformers import DynamicCache
        images = samples if shared is None else len(shared)
        prefix = Prefix(DynamicCache(), torch.ones(images, 0, dtype=torch.bool, device=self.device))
        if shared is not None:
            self.states(shared.to(dtype), prefix.mask.new_ones(shared.shape[:2]), prefix)
            prefix.repeat(samples // images)
        return prefix

    def _behind(self, embeds: Tensor, mask: Tensor, shared: Tensor | Prefix | None,
                own: Tensor | None) -> tuple[Tensor, Tensor, Prefix]:
        """(embeds [S, K+L, D] with the own tokens first, their mask, the prefix before them)."""
        if not isinstance(shared, Prefix):
            shared = self.prefix(shared, len(embeds), embeds.dtype)
        if own is not None:
            embeds = torch.cat([own.to(embeds.dtype), embeds], 1)
            mask = F.pad(mask, (own.shape[1], 0), value=True)
        return embeds, mask, shared

    def text_states(self, embeds: Tensor, text: TextBatch, shared: Tensor | Prefix | None = None,
                    own: Tensor | None = None) -> Tensor:
        """States [S, L, D] of the text behind the visual tokens."""
        return self.states(*self._behind(embeds, text.mask, shared, own))[:, -embeds.shape[1]:]

    # ---- encoder-decoder: a row holds all ------------------------------------------------------

    def _joined(self, embeds: Tensor, mask: Tensor, shared: Tensor | None,
                own: Tensor | None) -> dict[str, Tensor]:
        """The encoder's inputs: [own | shared | text] of every sample, [S, K+P+L, D]."""
        if shared is not None:
            shared = shared.repeat_interleave(len(embeds) // len(shared), 0)     # [S, P, D]
        visual = [v.to(embeds.dtype) for v in (own, shared) if v is not None]
        x = torch.cat([*visual, embeds], 1)
        mask = F.pad(mask, (x.shape[1] - mask.shape[1], 0), value=True)
        return {"inputs_embeds": x, "attention_mask": mask.long()}

    def encode(self, embeds: Tensor, mask: Tensor, shared: Tensor | None) -> Tensor:
        """The encoder's states of the text behind the shared tokens, [S, L, D]."""
        states = self.model.encoder(**self._joined(embeds, mask, shared, None)).last_hidden_state
        return states[:, -embeds.shape[1]:]

    # ---- train and answer ----------------------------------------------------------------------

    def loss(self, embeds: Tensor, text: TextBatch, shared: Tensor | Prefix | None = None,
             own: Tensor | None = None, balanced: bool = False) -> Tensor:
        """Mean cross-entropy of the answer tokens, or with `balanced` of the answers, so that a yes
        weighs as much as a caption. embeds [S, L, D] are text.ids embedded and spliced; shared:
        [B, P, D], or the prefix that the LLM has read. ValueError where every label is -100."""
        if not bool((text.labels != -100).any()):
            raise ValueError("no answer token to learn from: every label is -100")
        parts = [(embeds, text, shared, own)]
        if not (self.encoder_decoder or self.equal_calls):                # pad less
            parts = by_length(embeds, text, self._behind(embeds, text.mask, shared, None)[2], own)
        predicted = [self._predict(*part) for part in parts]
        logits, labels, share = map(torch.cat, zip(*predicted))           # [A, V], [A], [A]
        each = F.cross_entropy(logits.float(), labels, reduction="none")
        return (each * share).sum() / share.sum() if balanced else each.mean()

    def _predict(self, embeds: Tensor, text: TextBatch, shared: Tensor | Prefix | None,
                 own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(logits of the answer tokens [A, V], the tokens [A], each one's share of its answer)."""
        labels = text.labels if self.encoder_decoder else text.labels[:, 1:]
        answers = labels != -100
        if self.encoder_decoder:
            before = self.model.prepare_decoder_input_ids_from_labels(labels)
            logits = self.model(**self._joined(embeds, text.mask, shared, own),
                                decoder_input_ids=before, use_cache=False).logits[answers]
        else:                                                             # a token predicts the
            states = self.text_states(embeds, text, shared, own)[:, :-1]
            logits = self.model.lm_head(states[answers])                  # next; answers alone
        share = answers / answers.sum(1, keepdim=True).clamp(min=1)
        return logits, labels[answers], share[answers]

    @torch.no_grad()
    def generate(self, embeds: Tensor, text: TextBatch, shared: Tensor | Prefix | None = None,
                 own: Tensor | None = None, **options) -> Tensor:
        """Answer ids [S, <= max_new_tokens] by transformers' generate, prompt not repeated;
        an encoder-decoder puts its start token before them. `notes`: what was too long."""
        ends = {"eos_token_id": self.settings.eos_id, "pad_token_id": self.settings.pad_id}
        options = {"max_new_tokens": 48, "do_sample": False, "num_beams": 1} | ends | options
        if self.encoder_decoder:
            inputs, read = self._joined(embeds, text.mask, shared, own), 0
        else:                # generate wants a row as long as the mask and cuts off what was read
            embeds, mask, prefix = self._behind(embeds, text.mask, shared, own)
            mask = torch.cat([prefix.mask, mask], 1)                  # [S, T+K+L]
            prefix.repeat(options["num_beams"])
            embeds = F.pad(embeds, (0, 0, mask.shape[1] - embeds.shape[1], 0))
            inputs = {"inputs_embeds": embeds, "attention_mask": mask.long(),
                      "past_key_values": prefix.cache}
            read = int(mask.sum(1).max())
        ids = self.model.generate(**inputs, **options)
        self.notes = too_long(ids, read, options["max_new_tokens"], self.settings)
        return ids
