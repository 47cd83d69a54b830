"""LMEye's interaction: what the LLM asks for meets the image, and an answer is sent back.

    LLM's state at the request token - request ---> R [S, n, c] --+
    image features - decompose ---------------> I [B, N, c] --+-- encoder - transmit -> [S, m, D]

The encoder has two forms. 'clip_text' is the published one: CLIP's frozen text tower reads
[BOS, I, R, EOS] as if they were words. 'transformer' is a trainable block, the reading of the
abstract ("additional modules") that a model without CLIP can afford; here its requests attend to
the image tokens, so one can see what was asked for.

Shapes: B images, S samples (S = n*B, sample s looks at image s // n), F image features of width
Dv, N image tokens (N = F * soft), n requests, m returned vectors, c width inside, D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lion_min.language import additive
from lion_min.qformer import MultiHead, init_bert
from lion_min.trainable import freeze


@dataclass
class InteractionSettings:
    """Sizes and form. Paper era: soft=5, requests=1, pool='eos'; later form: requests=5, 'tail'."""

    llm_width: int
    image_width: int                       # of one image feature
    encoder: str = "transformer"           # or 'clip_text'
    width: int = 128                       # c
    soft: int = 1                          # image tokens made of each feature
    mlp: int = 0                           # inner width of the decomposition; 0: one Linear
    requests: int = 5
    returned: int = 5
    layers: int = 1
    heads: int = 1
    ffn: int = 256
    init_std: float = 0.02                 # transformer form: BERT's start, for width 768
    dropout: float = 0.0                   # of the image tokens; paper era 0.5
    pool: str = "eos"                      # clip_text: 'eos', or 'tail' = the last five places
    tail: str = "legacy"                   # 'legacy': ends with EOS, without the first request
    vocab: int = 49408                     # clip_text: CLIP's text tower
    positions: int = 77
    bos_id: int = 49406
    eos_id: int = 49407


class RequestBlock(nn.Module):
    """Pre-norm: the requests look at the image, then at each other, then think."""

    def __init__(self, width: int, heads: int, ffn: int):
        super().__init__()
        self.norm_look, self.norm_image, self.norm_meet = (nn.LayerNorm(width) for _ in range(3))
        self.look, self.meet = MultiHead(width, heads), MultiHead(width, heads)
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, ffn), nn.GELU(),
                                 nn.Linear(ffn, width))

    def forward(self, requests: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        seen, weights = self.look(self.norm_look(requests), self.norm_image(image))
        requests = requests + seen                                        # [S, n, c]
        met = self.norm_meet(requests)
        requests = requests + self.meet(met, met)[0]
        return requests + self.ffn(requests), weights.mean(1)             # [S, n, c], [S, n, N]


class RequestTransformer(nn.Module):
    """The trainable form: (requests after all blocks [S, n, c], the last block's map [S, n, N])."""

    def __init__(self, s: InteractionSettings):
        super().__init__()
        self.blocks = nn.ModuleList(RequestBlock(s.width, s.heads, s.ffn)
                                    for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.width)
        self.apply(partial(init_bert, std=s.init_std))

    def forward(self, image: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            requests, weights = block(requests, image)
        return self.norm(requests), weights


class ClipTextTower(nn.Module):
    """The published form: CLIP's frozen text encoder reads [BOS+pos, I, R, EOS+pos].

    Neither image tokens nor requests get a position; being causal, only the requests and EOS see
    the whole image (official Lmeye/clip/clip_model.py, `CLIPTextTransformer`).
    """

    def __init__(self, s: InteractionSettings):
        super().__init__()
        import transformers
        if s.pool not in ("eos", "tail") or s.tail not in ("legacy", "fixed"):
            raise ValueError(f"pool {s.pool!r}, tail {s.tail!r}: 'eos' or 'tail', 'legacy' or "
                             "'fixed'")
        self.settings = s
        self.model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(
            vocab_size=s.vocab, hidden_size=s.width, intermediate_size=s.ffn,
            num_hidden_layers=s.layers, num_attention_heads=s.heads, projection_dim=s.width,
            max_position_embeddings=s.positions, bos_token_id=s.bos_id, eos_token_id=s.eos_id))
        self.model.set_attn_implementation("eager")        # the fused kernel keeps its rows
        freeze(self.model)

    def sentence(self, image: Tensor, requests: Tensor) -> Tensor:
        """X [S, 1+N+n+1, c]."""
        words = self.model.text_model.embeddings
        image = image.repeat_interleave(len(requests) // len(image), 0)   # [S, N, c]
        ends = torch.tensor([self.settings.bos_id, self.settings.eos_id], device=image.device)
        places = torch.tensor([0, 1 + image.shape[1] + requests.shape[1]], device=image.device)
        bos, eos = (words.token_embedding(ends) + words.position_embedding(places)).expand(
            len(image), -1, -1).split(1, 1)                               # each [S, 1, c]
        return torch.cat([bos, image, requests, eos], 1)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
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
        """([S, 1 or m, c], how the last layer's requests share their look at the image)."""
        s, last = self.settings, 1 + image.shape[1] + requests.shape[1]   # the place of EOS
        y, rows = self.read(self.sentence(image, requests))
        if s.pool == "eos":
            y = y[:, last:]
        else:
            # Official: text_projection(Y[:, -5:]), which drops the first request's own output and
            # takes EOS as the fifth vector. Checkpoints were most likely trained so (spec 2.5).
            end = last + 1 if s.tail == "legacy" else last
            y = y[:, end - s.returned:end]
        looks = rows.mean(1)[:, last - requests.shape[1]:last, 1:1 + image.shape[1]]
        return self.model.text_projection(y), looks / looks.sum(-1, keepdim=True)


class InteractivePerception(nn.Module):
    """Request, decomposition, encoder and transmission behind one interface."""

    def __init__(self, settings: InteractionSettings):
        super().__init__()
        s = self.settings = settings
        pooled = s.encoder == "clip_text" and s.pool == "eos"
        if not pooled and s.returned != s.requests:
            raise ValueError(f"{s.requests} requests return as many vectors, not {s.returned}")
        self.request = nn.Linear(s.llm_width, s.requests * s.width)
        out = s.soft * s.width
        self.decompose = nn.Linear(s.image_width, out) if not s.mlp else nn.Sequential(
            nn.Linear(s.image_width, s.mlp), nn.GELU(), nn.Linear(s.mlp, out))
        self.dropout = nn.Dropout(s.dropout)
        if s.encoder == "clip_text":
            self.encoder = ClipTextTower(s)
        elif s.encoder == "transformer":
            if s.width != s.llm_width:
                raise ValueError(f"the transformer's image tokens are words of the LLM: width "
                                 f"{s.width} must be {s.llm_width}")
            self.encoder = RequestTransformer(s)
        else:
            raise ValueError(f"unknown encoder {s.encoder!r}: 'clip_text' or 'transformer'")
        self.transmit = nn.Linear(s.width, s.llm_width * (s.returned if pooled else 1))
        if s.encoder == "transformer":     # at first only what was looked at goes back
            nn.init.zeros_(self.transmit.weight)
            nn.init.zeros_(self.transmit.bias)

    def requests(self, hidden: Tensor) -> Tensor:
        """The LLM's states at the request tokens [S, D] -> R [S, n, c]."""
        return self.request(hidden).unflatten(-1, (self.settings.requests, -1))

    def image_tokens(self, features: Tensor, places: Tensor | None = None) -> Tensor:
        """Features [B, F, Dv] -> I [B, N, c]; `places` [N, c] says where each lies."""
        tokens = self.decompose(features).reshape(len(features), -1, self.settings.width)
        return self.dropout(tokens if places is None else tokens + places)

    def forward(self, hidden: Tensor, features: Tensor, places: Tensor | None = None,
                maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """hidden [S, D], features [B, F, Dv] -> [S, m, D]; with maps also [S, n, N], each
        request's attention over the image tokens, mean of the heads, which sums to 1.
        """
        image = self.image_tokens(features, places)                       # [B, N, c]
        found, looks = self.encoder(image, self.requests(hidden))
        returned = self.transmit(found).reshape(len(hidden), -1, self.settings.llm_width)
        if self.settings.encoder == "transformer":
            # What a request looked at also goes back as it is: patches that resemble sums of the
            # LLM's words. The map that --show draws is the very weights of this sum.
            each = looks.reshape(len(image), -1, looks.shape[-1]) @ image  # [B, S/B*n, c]
            returned = returned + each.reshape(returned.shape)
        return (returned, looks) if maps else returned
