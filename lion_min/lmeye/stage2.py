"""LMEye stage 2: multimodal instruction tuning, where the LLM learns to ask.

Starts from stage 1, whose static mapping stays as it is. Trains the request, the interaction and
what is returned, and the two tokens <img-q> and <img-d> (official run_llm_instruction.py). Half
the rounds ask for boxes: without them the requests never learn where to look (vqa, reg and
captions alone left REG at .58 after 700 steps, one seed); and the encoder learns at a fifth of the
rate (loss on boxes after 400 steps .44 against .67, one seed).
"""

from lion_min.lmeye.stages import LmeyeStage
from lion_min.training import Plan

STAGE = LmeyeStage(
    number=2,
    asks=True,
    trains=("interaction", "e_imgq", "e_imgd"),
    rounds=("region", "vqa", "region", "caption"),
    easy=150,
    plan=Plan(steps=2500, lr=1.5e-3, warmup=60, decay="cosine", precision="bf16",
              lr_scale={"interaction.encoder": 0.2}),
    start=lambda earlier: earlier(1),
)
