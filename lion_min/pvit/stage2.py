"""PVIT stage 2: region-level instruction tuning.

Starts from stage 1. Trains everything but the encoder: the LLM (at a tenth of the rate), both
projections, the box embedding, the two token rows. Data: region instructions as instructions.py
makes them, one to three turns, and questions about the whole image, which keep the image's
tokens in use (paper section 3.3; bbox_fc is the code's). The `region` rounds also ask where
something is, or it would answer that with a wrong box.
"""

from lion_min.pvit.stages import PvitStage
from lion_min.schedule import Plan

STAGE = PvitStage(
    number=2,
    trains=("llm", "mm_projector", "prompt_projector", "bbox_fc", "markers"),
    rounds=("vqa", "instructions", "talk", "region", "instructions", "vqa", "box_talk",
            "instructions", "region"),
    curriculum_steps=60,
    plan=Plan(steps=1300, lr=1.5e-3, warmup=40, decay="cosine", precision="bf16",
              weight_decay=0.0, lr_scale={"llm": 0.1}),
    start=lambda earlier: earlier(1),
    steps_in_all=3600,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
