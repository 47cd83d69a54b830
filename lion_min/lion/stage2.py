"""LION stage 2: region-level knowledge, apart from stage 1 so that the two do not interfere.

Starts from the frozen parts alone, without a Q-Former. The vision aggregator reads three depths of
the ViT, a box in the prompt brings its pooled feature (every other time, or the aggregator's tokens
would not be needed), and one adapter a feed-forward net learns to describe regions (REG) and to
find them (REC). The aggregator starts as the identity and learns at a tenth of the rate: at the
full rate its noise costs more than it gains (VQA loss after 150 steps .238, at a tenth .093).
"""

from lion_min.lion.stages import LionStage
from lion_min.schedule import Plan

STAGE = LionStage(
    number=2,
    mode="aggregator",
    trains=("aggregator", "ln_adapter", "mlp", "region_proj", "adapters"),
    rounds=("region", "region", "box_talk"),
    curriculum_steps=150,
    plan=Plan(steps=900, lr=2e-3, warmup=60, decay="linear_tail", precision="bf16",
              lr_scale={"aggregator": 0.1}),
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
