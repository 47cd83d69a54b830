"""What does each part of LION do? Stages 1-3 at one budget, one thing changed a row.

    python -m lion_min.studies.lion --seeds 0 1 2 --steps 450

    staged         stages 1, 2 and 3 in turn, a third of the steps each, as the paper trains
    together       stage 3 alone, from nothing: both levels at once. The rows below are this one
    no-aggregator  the Q-Former's tokens alone (a box is then text alone, too)
    no-qformer     the aggregator's tokens alone
    one-depth      the aggregator reads the last ViT state thrice, not three depths
    one-adapter    a single adapter a feed-forward net for both levels, no router
    text-boxes     a box is its words alone, without the region token

The paper's own ablation tables are unread (spec 7.5); what it says of them in words: the levels
conflict when mixed naively, stages and the mixture of adapters mend that, the aggregator helps REC.
"""

from __future__ import annotations

from dataclasses import replace

from lion_min.studies import compare

CHANGES = {"one-depth": {"depths": (4, 4, 4)}, "one-adapter": {"adapters": 1},
           "text-boxes": {"region_tokens": False}, "no-aggregator": {"adapters": 2},
           "no-qformer": {"adapters": 2}}
WITHOUT = {"no-aggregator": ("aggregator", "ln_adapter", "mlp", "region_proj"),
           "no-qformer": ("ln_vision", "qformer", "query_proj"), "text-boxes": ("region_proj",)}
MODES = {"no-aggregator": "qformer", "no-qformer": "aggregator"}


def stages_of(row: str) -> list:
    """How a row is trained: three stages in turn, or stage 3 from nothing with one change."""
    from lion_min.lion import stage1, stage2, stage3
    one, three = stage1.STAGE, stage3.STAGE
    if row == "staged":
        return [one, stage2.STAGE, three]
    trains = tuple(t for t in three.trains if t not in WITHOUT.get(row, ()))
    lr_scale = {name: scale for name, scale in three.plan.lr_scale.items() if name in trains}
    return [replace(three, start=lambda earlier: {}, curriculum_steps=one.curriculum_steps, trains=trains,
                    mode=MODES.get(row, three.mode), plan=replace(three.plan, lr_scale=lr_scale),
                    changes=CHANGES.get(row, {}))]


COMPARISON = compare.Comparison(
    command="lion_min.studies.lion", doc=__doc__, stages=stages_of, starts=("lion/stage0",), steps=450,
    rows=("staged", "together", "no-aggregator", "no-qformer", "one-depth", "one-adapter", "text-boxes"),
    scores=("vqa_acc", "caption_object_f1", "reg_exact", "rec_acc50", "rec_acc50_relational"),
    pairs=(("staged", "together", "rec_acc50"), ("together", "no-aggregator", "rec_acc50"),
           ("together", "no-qformer", "caption_object_f1"), ("together", "one-depth", "reg_exact"),
           ("together", "one-adapter", "vqa_acc"), ("together", "text-boxes", "reg_exact")))

if __name__ == "__main__":
    raise SystemExit(compare.main(COMPARISON))
