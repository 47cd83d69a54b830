"""The upper bound: everything trained together, encoder and LLM too.

The staged pipeline with its frozen parts is compared with it. Starts from stage 0; the encoder
is not frozen, so no features are cached and a step costs about three times as much.
"""

from lion_min.lion.stage3 import STAGE as STAGE3
from lion_min.lion.stages import LionStage
from lion_min.schedule import Plan

STAGE = LionStage(
    number="joint",
    mode="all",
    trains=STAGE3.trains + ("vision", "llm"),
    rounds=STAGE3.rounds,
    plan=Plan(steps=1500, lr=1e-3, warmup=100, decay="linear_tail",
              lr_scale={"vision": 0.3, "llm": 0.3}),
)
