"""Lyrics stage 2: vision-to-language instruction tuning.

Starts from stage 1 without its heads. Trains the MQ-Former, now led by the instruction, its
projection and LoRA on the LLM's q, k and v. The tags prompt the detector, the objects' lines
stand before the question. A third of the rounds are captions: what the lines say is read from the first
step on, a whole scene told in order is not (captions .938 with a quarter of them and 4,096 scenes,
.955 with half and 16,384; the two were changed together).
"""

from lion_min.lyrics.stages import LyricsStage
from lion_min.schedule import Plan

STAGE = LyricsStage(
    number=2,
    trains=("ln_vision", "mqformer", "language_projection", "loras"),
    rounds=("caption", "vqa", "talk", "caption", "region", "box_talk"),
    curriculum_steps=60,
    plan=Plan(steps=1000, lr=1.5e-3, warmup=60, decay="cosine", precision="bf16"),
    start=lambda earlier: {name: tensor for name, tensor in earlier(1).items()
                           if not name.startswith("heads.")},
    steps_in_all=1500,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
