"""LION stage 4: image tags through the soft prompt (three stages in print, four in the code).

Starts from stage 3. Every prompt gets the tagger's words behind a sentence whose <extra_id_0> is
one learned vector, which lets the LLM learn how reliable tags are. In training a tenth of the tags
is lost and 3 % of the absent ones are added, for the tagger's own mistakes are rare. In region
rounds a third of the scenes hold two objects that differ in size alone, which were confused.
"""

from lion_min.lion.stage3 import STAGE as STAGE3
from lion_min.lion.stages import LionStage
from lion_min.schedule import Plan

STAGE = LionStage(
    number=4,
    mode="all",
    trains=STAGE3.trains + ("soft_prompt",),
    rounds=("vqa", "region", "talk", "caption", "box_talk", "vqa", "region"),
    plan=Plan(steps=400, lr=1e-3, warmup=20, decay="cosine", precision="bf16",
              lr_scale={"aggregator": 0.1}),
    start=lambda earlier: earlier(3),
    tags=True,
    tag_noise=0.1,
    lookalike_share=0.3,
    steps_in_all=1550,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
