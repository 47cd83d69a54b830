"""LMEye stage 2: multimodal instruction tuning, where the LLM learns to request.

Starts from stage 1. Trains the request, the interaction and what is returned, the two tokens
<img-q> and <img-d>, and, as the official train.py of August 2023 does, the Q-Former's query tokens
and their projection (spec section 4.2; unlike it, all of them are saved). With these two frozen, as
before August 2023, 16 queries ended at existence .884 and count .850 (500 scenes, one seed).
Region rounds are needed: without boxes the requests do not learn positions. The encoder learns at
a fifth of the rate (loss on boxes after 400 steps .44 against .67, one seed). In the `pointed`
rounds the static tokens are hidden, and the requests must supply what a question about one object
needs; without these rounds they attend to that object hardly more than to the others.
"""

from lion_min.lmeye.stages import LmeyeStage
from lion_min.schedule import Plan

STAGE = LmeyeStage(
    number=2,
    requests=True,
    trains=("interaction", "e_imgq", "e_imgd", "qformer.query_tokens", "query_proj"),
    rounds=("vqa", "region", "talk", "caption", "pointed", "box_talk"),
    blind=("pointed",),
    curriculum_steps=150,
    plan=Plan(steps=1000, lr=1.5e-3, warmup=60, decay="cosine", precision="bf16",
              lr_scale={"interaction.encoder": 0.2}),
    start=lambda earlier: earlier(1),
    needs_earlier=True,
    steps_in_all=4000,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
