"""LION stage 3: both kinds of knowledge in one model, through the mixture of adapters.

Starts from stage 1 (Q-Former, image adapter) and stage 2 (aggregator, region adapter). The router
starts as the identity, so at step 0 an image batch passes the stage-1 adapter alone and a region
batch the stage-2 adapter alone. Batches of the two levels alternate (spec 3.2).
"""

from lion_min.lion.stages import LionStage
from lion_min.schedule import Plan


def start(earlier) -> dict:
    """Stages 1 and 2 side by side, adapters merged (not in the official code; spec 3.1)."""
    from lion_min.adapters import merge_stage_adapters   # torch would make --help slow
    image, region = earlier(1), earlier(2)
    return image | region | merge_stage_adapters(region, image)


STAGE = LionStage(
    number=3,
    mode="all",
    trains=("ln_vision", "qformer", "query_proj", "aggregator", "ln_adapter", "mlp",
            "region_proj", "adapters"),
    rounds=("vqa", "region", "talk", "region", "caption", "box_talk"),
    plan=Plan(steps=550, lr=1.5e-3, warmup=60, decay="linear_tail", precision="bf16",
              lr_scale={"aggregator": 0.1}),
    start=start,
    steps_in_all=800,
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
