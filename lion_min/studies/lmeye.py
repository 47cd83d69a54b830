"""Does the asking help? LMEye's control rows: same data, same parameters, same visual tokens.

    python -m lion_min.studies.lmeye --seeds 0 1 2 --steps 300 --log controls.jsonl

    interactive   the LLM's request meets the image, the answer fills the slots
    static        nothing is asked; the slots hold <img-d> alone
    zeroed        the request meets the image, but is the same for every question
    foreign       the request of another question

Every row trains stage 2 from the same stage 1, on boxes and VQA in turn (the paper has no such
table; its reviewers asked for one, spec section 8).
"""

from __future__ import annotations

from dataclasses import replace

from lion_min.studies import compare


def stages_of(control: str) -> list:
    """How a row is trained: stage 2 with something else in the return slots."""
    from lion_min.lmeye.stage2 import STAGE
    return [replace(STAGE, control=control, rounds=("region", "vqa"))]


COMPARISON = compare.Comparison(
    command="lion_min.studies.lmeye", doc=__doc__, stages=stages_of,
    starts=("lion/stage0", "lmeye/stage1"), steps=400,
    rows=("interactive", "static", "zeroed", "foreign"),
    scores=("rec_acc50", "reg_exact", "relation_acc", "vqa_acc"),
    pairs=tuple(("interactive", row, "rec_acc50") for row in ("static", "zeroed", "foreign")))

if __name__ == "__main__":
    raise SystemExit(compare.main(COMPARISON))
