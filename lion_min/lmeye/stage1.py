"""LMEye stage 1: the static mapping.

Image features become a few tokens of the LLM, the same whatever is asked; trained on captions
(official run_llm_pretrain.py). Nothing is requested yet: the prompt holds no request token. Three
times the usual scenes, for it learns those of a smaller pool by heart: 8,000 steps on 16,384 ended
at a loss of .04 and named fewer new objects than 3,000 did.
"""

from lion_min.lmeye.stages import LmeyeStage
from lion_min.staging import POOL
from lion_min.training import Plan

STAGE = LmeyeStage(
    number=1,
    asks=False,
    trains=("ln_vision", "qformer", "query_proj"),
    rounds=("caption",),
    easy=100,
    pool=3 * POOL,
    plan=Plan(steps=3000, lr=1.5e-3, warmup=40, decay="cosine", precision="bf16"),
)
