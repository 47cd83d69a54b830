"""LMEye's interaction: the LLM's requests attend to the image, and vectors are returned.

    LLM's state at the request token - request ---> R [S, n, c] --+
    image features - decompose ---------------> I [B, N, c] --+-- encoder - transmit -> [S, m, D]

The encoder has two forms. 'clip_text' is the published one (clip_text.py): CLIP's frozen text tower
reads [BOS, I, R, EOS] as if they were words. 'transformer' is a trainable block for a model without
CLIP ("additional modules" in the abstract); its requests attend to the image tokens.

Shapes: B images, S samples (S = n*B, sample s is about image s // n), F image features of width
Dv, N image tokens (N = F * soft), n requests, m returned vectors, c width inside, D LLM width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from lion_min.lmeye.clip_text import ClipTextTower
from lion_min.qformer import MultiHead, init_bert
from lion_min.trainable import start_at_zero


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
    pool: str = "eos"                      # clip_text: 'eos', or 'tail' = the last five states
    tail: str = "legacy"                   # 'legacy': ends with EOS, without the first request
    vocab: int = 49408                     # clip_text: CLIP's text tower
    positions: int = 77
    bos_id: int = 49406
    eos_id: int = 49407


class RequestBlock(nn.Module):
    """Pre-norm: the requests attend to the image, then to each other; then a feed-forward net."""

    def __init__(self, width: int, heads: int, ffn: int):
        super().__init__()
        self.norm_look, self.norm_image, self.norm_meet = (nn.LayerNorm(width) for _ in range(3))
        self.look, self.meet = MultiHead(width, heads), MultiHead(width, heads)
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, ffn), nn.GELU(), nn.Linear(ffn, width))

    def forward(self, requests: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        attended, weights = self.look(self.norm_look(requests), self.norm_image(image))
        requests = requests + attended                                    # [S, n, c]
        normed = self.norm_meet(requests)
        requests = requests + self.meet(normed, normed)[0]
        return requests + self.ffn(requests), weights.mean(1)             # [S, n, c], [S, n, N]


class RequestTransformer(nn.Module):
    """The trainable form: (requests after all blocks [S, n, c], the last block's map [S, n, N])."""

    def __init__(self, s: InteractionSettings):
        super().__init__()
        self.blocks = nn.ModuleList(RequestBlock(s.width, s.heads, s.ffn) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.width)
        self.apply(partial(init_bert, std=s.init_std))

    def forward(self, image: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            requests, weights = block(requests, image)
        return self.norm(requests), weights


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
        forms = {"clip_text": ClipTextTower, "transformer": RequestTransformer}
        if s.encoder not in forms:
            raise ValueError(f"unknown encoder {s.encoder!r}: 'clip_text' or 'transformer'")
        if s.encoder == "transformer" and s.width != s.llm_width:
            raise ValueError(f"the transformer's image tokens are words of the LLM: width "
                             f"{s.width} must be {s.llm_width}")
        self.encoder = forms[s.encoder](s)
        self.transmit = nn.Linear(s.width, s.llm_width * (s.returned if pooled else 1))
        if s.encoder == "transformer":     # at first only the attended image tokens are returned
            start_at_zero(self.transmit)

    def requests(self, hidden: Tensor) -> Tensor:
        """The LLM's states at the request tokens [S, D] -> R [S, n, c]."""
        return self.request(hidden).unflatten(-1, (self.settings.requests, -1))

    def image_tokens(self, features: Tensor, cells: Tensor | None = None) -> Tensor:
        """Features [B, F, Dv] -> I [B, N, c]; `cells` [N, c] encode the position of each."""
        tokens = self.decompose(features).reshape(len(features), -1, self.settings.width)
        return self.dropout(tokens if cells is None else tokens + cells)

    def forward(self, hidden: Tensor, features: Tensor, cells: Tensor | None = None,
                maps: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """hidden [S, D], features [B, F, Dv] -> [S, m, D]; with maps also [S, n, N], each
        request's attention over the image tokens, mean of the heads, which sums to 1."""
        image = self.image_tokens(features, cells)                        # [B, N, c]
        states, weights = self.encoder(image, self.requests(hidden))
        returned = self.transmit(states).reshape(len(hidden), -1, self.settings.llm_width)
        if self.settings.encoder == "transformer":
            # The attended image tokens are returned, too: patches that resemble sums of the LLM's
            # words. The map that --show draws holds the weights of this sum.
            each = weights.reshape(len(image), -1, weights.shape[-1]) @ image  # [B, S/B*n, c]
            returned = returned + each.reshape(returned.shape)
        return (returned, weights) if maps else returned
