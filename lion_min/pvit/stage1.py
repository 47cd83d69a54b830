"""PVIT stage 1: region-feature alignment.

A box in, the phrase of what lies in it out. Trains the region projection and the rows of
<Region> and </Region>, nothing else (paper section 3.3; the two rows are the code's). The image's
projection is LLaVA's in print and has been trained before; here it starts at random and learns in
stage 2, so in this stage the LLM reads the region's token alone.
"""

from lion_min.pvit.stages import PvitStage
from lion_min.schedule import Plan

STAGE = PvitStage(
    number=1,
    trains=("prompt_projector", "markers"),
    rounds=("reg",),
    plan=Plan(steps=250, lr=2e-3, warmup=20, decay="cosine", precision="bf16", weight_decay=0.0),
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
