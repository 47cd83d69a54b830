"""Does the refiner help, and against hallucination? Lyrics with and without objects.

    python -m lion_min.studies.lyrics --seeds 0 1 2 --steps 200

    on     object queries and the objects' lines
    off    image queries alone, from the same stage 1 without its object parts

Existence questions are POPE's: half of them yes, each no an object that is almost there. A model
that hallucinates says yes too often (exist_yes_rate above .5). The paper's own table is unread
(spec section 6).
"""

from __future__ import annotations

from dataclasses import replace

from lion_min.studies import compare


def stages_of(row: str) -> list:
    """How a row is trained: stage 2 with or without objects."""
    from lion_min.lyrics.stage2 import STAGE as stage
    off = replace(stage, refiner=False, start=lambda earlier: without_objects(stage.start(earlier)))
    return [stage if row == "on" else off]


def without_objects(tensors: dict) -> dict:
    """Stage 1's MQ-Former as a plain Q-Former: what a model without refiner starts from."""
    from lion_min.lyrics.model import tiny
    from lion_min.tokenizer import TinyTokenizer
    from lion_min.vision import VisionSettings
    tensors = {name: t for name, t in tensors.items() if ".object_cross." not in name}
    s = tiny(VisionSettings(), len(TinyTokenizer())).mqformer
    queries = tensors["mqformer.query_tokens"][:, :s.queries - s.object_queries]   # [1, Q, D]
    return tensors | {"mqformer.query_tokens": queries}


COMPARISON = compare.Comparison(
    command="lion_min.studies.lyrics", doc=__doc__, stages=stages_of,
    starts=("lion/stage0", "lyrics/stage0", "lyrics/stage1"), steps=200, rows=("on", "off"), label="refiner ",
    scores=("exist_acc", "exist_yes_rate", "vqa_acc", "caption_object_f1"),
    pairs=(("on", "off", "exist_acc"),))

if __name__ == "__main__":
    raise SystemExit(compare.main(COMPARISON))
