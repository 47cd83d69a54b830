"""What stands for a box? The ablation of PVIT's table 2, same data, same steps, several seeds.

    python -m lion_min.studies.pvit --seeds 0 1 2 --steps 200

    feature    a pooled feature between <Region> and </Region>       (the paper: 64.5 on COCO)
    text       the coordinates as words, no region encoder           (the paper: 52.6)
    location   four learnt location tokens

Every row runs the paper's two stages, half of the steps each, on the same questions in the same
order. Coordinates say nothing unless the picture's tokens do, and no LLaVA has taught those here:
the rows without a feature train mm_projector in stage 1, too.
"""

from __future__ import annotations

from dataclasses import replace

from lion_min.studies import compare


def stages_of(representation: str) -> list:
    """How a row is trained: both stages with something else standing for a box."""
    from lion_min.pvit import stage1, stage2
    from lion_min.pvit.stages import of_representation
    one, two = (of_representation(s.STAGE, representation) for s in (stage1, stage2))
    trains = {"feature": one.trains, "text": ("llm.model.model.embed_tokens", "mm_projector"),
              "location": ("markers", "locations", "mm_projector")}[representation]
    return [replace(one, trains=trains), replace(two, rounds=("reg", "instructions"))]


COMPARISON = compare.Comparison(
    command="lion_min.studies.pvit", doc=__doc__, stages=stages_of, starts=("lion/stage0",), steps=200,
    rows=("feature", "text", "location"),
    scores=("reg_exact", "reg_kind", "reg_colour", "reg_exact_heldout_pairs"),
    pairs=(("feature", "text", "reg_exact"), ("feature", "location", "reg_exact")))

if __name__ == "__main__":
    raise SystemExit(compare.main(COMPARISON))
