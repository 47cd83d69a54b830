"""LMEye stage 1: the static mapping.

Image features become a few tokens of the LLM, the same for every question; trained on captions
(official run_llm_pretrain.py). The prompt holds no request token yet.
"""

from lion_min.lmeye.stages import LmeyeStage
from lion_min.schedule import Plan

STAGE = LmeyeStage(
    number=1,
    requests=False,
    trains=("ln_vision", "qformer", "query_proj"),
    rounds=("caption",),
    curriculum_steps=100,
    plan=Plan(steps=1500, lr=1.5e-3, warmup=40, decay="cosine", precision="bf16"),
    steps_in_all=3000,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
