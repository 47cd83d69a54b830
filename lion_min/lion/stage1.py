"""LION stage 1: image-level knowledge.

Starts from the frozen parts and a Q-Former that was taught to follow a question: here by stage 0
(tiny/questions.py), in the paper by BLIP-2. It reads the last ViT state with the question; its
queries, projected, are all visual tokens of the LLM. One adapter a feed-forward net learns the
image-level tasks. Paper: captioning and VQA sets.
"""

from lion_min.lion.stages import LionStage
from lion_min.schedule import Plan


def start(earlier) -> dict:
    """Stage 0's Q-Former, without the head that taught it."""
    return {k: t for k, t in earlier("stage0/qformer").items() if not k.startswith("head.")}


STAGE = LionStage(
    number=1,
    mode="qformer",
    trains=("ln_vision", "qformer", "query_proj", "adapters"),
    rounds=("vqa", "caption", "talk"),
    curriculum_steps=150,
    plan=Plan(steps=1000, lr=1.5e-3, warmup=60, decay="linear_tail", precision="bf16"),
    start=start,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
