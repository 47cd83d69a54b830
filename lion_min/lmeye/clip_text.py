"""The published form of LMEye's interaction: CLIP's text tower over image tokens and requests.

Shapes: S samples, B images, N image tokens, n requests, m returned vectors, c width inside,
L = 1 + N + n + 1 tokens, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lion_min.language import additive
from lion_min.trainable import freeze


class ClipTextTower(nn.Module):
    """The published form: CLIP's frozen text encoder reads [BOS+pos, I, R, EOS+pos].

    Image tokens and requests get no position; the mask is causal, so only requests and EOS attend
    to the whole image (official Lmeye/clip/clip_model.py, `CLIPTextTransformer`).
    s: InteractionSettings."""

    def __init__(self, s):
        super().__init__()
        import transformers
        if s.pool not in ("eos", "tail") or s.tail not in ("legacy", "fixed"):
            raise ValueError(f"pool {s.pool!r}, tail {s.tail!r}: 'eos' or 'tail', 'legacy' or 'fixed'")
        self.settings = s
        self.model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(
            vocab_size=s.vocab, hidden_size=s.width, intermediate_size=s.ffn,
            num_hidden_layers=s.layers, num_attention_heads=s.heads, projection_dim=s.width,
            max_position_embeddings=s.positions, bos_token_id=s.bos_id, eos_token_id=s.eos_id))
        self.model.set_attn_implementation("eager")        # the fused kernel returns no maps
        freeze(self.model)

    def sentence(self, image: Tensor, requests: Tensor) -> Tensor:
        """X [S, 1+N+n+1, c]."""
        words = self.model.text_model.embeddings
        image = image.repeat_interleave(len(requests) // len(image), 0)   # [S, N, c]
        ends = torch.tensor([self.settings.bos_id, self.settings.eos_id], device=image.device)
        positions = torch.tensor([0, 1 + image.shape[1] + requests.shape[1]], device=image.device)
        bos, eos = (words.token_embedding(ends) + words.position_embedding(positions)).expand(
            len(image), -1, -1).split(1, 1)                               # each [S, 1, c]
        return torch.cat([bos, image, requests, eos], 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(Y [S, L, c] after the final norm, the last layer's attention [S, H, L, L])."""
        text, rows = self.model.text_model, []
        causal = torch.ones(x.shape[1], x.shape[1], device=x.device).tril().bool()
        keep = text.encoder.layers[-1].self_attn.register_forward_hook(
            lambda _, inputs, output: rows.append(output[1]))
        try:
            y = text.encoder(inputs_embeds=x, attention_mask=additive(causal, x.dtype)[None, None])
        finally:
            keep.remove()
        return text.final_layer_norm(y.last_hidden_state), rows[0]

    def forward(self, image: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
        """([S, 1 or m, c], the last layer's attention of the requests over the image [S, n, N])."""
        s, last = self.settings, 1 + image.shape[1] + requests.shape[1]   # the index of EOS
        y, rows = self.encode(self.sentence(image, requests))
        # Official: text_projection(Y[:, -5:]), which drops the first request's output and takes EOS
        # as the fifth vector. Checkpoints were most likely trained so (spec 2.5).
        end = last if s.pool == "tail" and s.tail == "fixed" else last + 1
        y = y[:, end - (1 if s.pool == "eos" else s.returned):end]
        maps = rows.mean(1)[:, last - requests.shape[1]:last, 1:1 + image.shape[1]]
        return self.model.text_projection(y), maps / maps.sum(-1, keepdim=True)
