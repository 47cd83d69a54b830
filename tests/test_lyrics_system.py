"""Lyrics ready to be asked, on random parts: the right picture's objects, and what is shown."""

import pytest
import torch
from random_lyrics import PROMPTS, TAGS, TOKENIZER, build, found, inputs
from random_pvit import pictures

from lion_min.drawing import INK, PAPER
from lion_min.explanation import coverage
from lion_min.lyrics.explain import MARGIN, explain, matrix
from lion_min.lyrics.prompt import objects_of
from lion_min.lyrics.retrieval import hits
from lion_min.lyrics.stage2 import STAGE
from lion_min.lyrics.system import LyricsSystem
from lion_min.parts import Parts
from lion_min.system import Reply
from lion_min.vision import TagHead


def system_of(refiner: bool = True) -> LyricsSystem:
    model = build(refiner)
    return LyricsSystem(Parts(model.vision, TagHead(32, TAGS), model.llm, TOKENIZER), STAGE, model)


@pytest.mark.parametrize("refiner", [True, False])
def test_index_takes_the_right_pictures(refiner):
    """Objects of another picture beside the states of this one, across chunks."""
    system = system_of(refiner)
    images = pictures(4)
    seen = [system.encode(images[:3]), system.encode(images[3:])]
    picked, one = system.index(seen, [3, 1, 1]), system.encode(images[1:2])
    for row, own in enumerate((seen[1], one, one)):
        assert picked["tags"][row] == own["tags"][0]
        torch.testing.assert_close(picked["states"][4][row], own["states"][4][0], atol=1e-4,
                                   rtol=1e-4)
        if refiner:
            assert picked["objects"].mask.any(1).all()
            assert torch.equal(picked["objects"].lines[row], own["objects"].lines[0])
            torch.testing.assert_close(picked["objects"].features[row],
                                       own["objects"].features[0], atol=1e-4, rtol=1e-4)
    answers = system.answer(picked, PROMPTS[:3], max_new_tokens=4)
    assert len(answers) == 3 and all(isinstance(a, str) for a in answers)


def test_hits_count_the_same_words_as_right():
    """R@1 that calls a caption wrong because another picture has the very same one."""
    scores = torch.tensor([[0., 1, 0], [0, 1, 0], [1, 0, 0]])
    assert hits(scores, ["a", "a", "b"]) == round(2 / 3, 4)
    assert hits(scores, ["a", "b", "c"]) == round(1 / 3, 4)


# ---- what is shown ---------------------------------------------------------------------------

def test_matrix_has_its_rows_down_and_its_columns_across():
    """A mask drawn transposed, so that the image seems to read the text; black where nothing is
    seen; a group's line at another group's place."""
    seen = torch.zeros(4, 4, dtype=torch.bool)
    seen[3, 1] = True                                                # the last row sees column 1
    picture = matrix(seen, {"image": 1, "objects": 1, "text": 2})
    cell = (picture.width - MARGIN) / 4
    middle = [int(MARGIN + (i + 0.5) * cell) for i in range(4)]
    shades = [[picture.getpixel((x, y)) for x in middle] for y in middle]
    black = tuple(bytes.fromhex(INK[1:]))
    assert [(y, x) for y in range(4) for x in range(4) if shades[y][x] == black] == [(3, 1)]
    assert shades[1][3] == tuple(bytes.fromhex(PAPER[1:]))
    lines = [x for x in range(picture.width) if picture.getpixel((x, 5)) == (213, 94, 0)]
    assert {round((x - MARGIN) / cell) for x in lines} == {0, 1, 2}  # "text" is two columns wide


@pytest.mark.parametrize("refiner", [True, False])
def test_explain_shows_objects_and_attention(refiner, monkeypatch):
    """Attention drawn in the place of another object; masks of objects that were not kept."""
    system = system_of(refiner)
    features = system.encode(pictures(1))
    if refiner:
        one = found()
        features |= {"objects": objects_of(one, TOKENIZER).pick([0])}
        monkeypatch.setattr(system.model.refiner, "refine", lambda states, tags: one)
    image, objects = torch.zeros(1, 4, 8, 64), torch.zeros(1, 4, 12, 12)
    image[..., 2 * 8 + 5], objects[..., 1] = 1.0, 1.0                # row 2, column 5; object 1
    maps = [(image, objects) if refiner else image] * 3
    monkeypatch.setattr(system.model, "query_tokens", lambda x, maps: (None, own))
    own = maps
    shown = explain(system, Reply(PROMPTS[0], "yes", [], [], 0.0, features, pictures(1)[0], []))
    assert shown.maps[0].share().argmax() == 2 * 8 + 5 and not shown.router
    kinds = [kind for _, kind in shown.tokens]
    if not refiner:
        assert len(shown.maps) == 1 and shown.detections is None and "region" not in kinds
        return
    assert shown.tags == ["red", "blue", "circle", "star"]
    assert [d.label for d in shown.detections] == ["red circle", "blue star"]
    assert shown.detections[0].score > 0 and shown.detections[0].mask.shape[0] > 8
    assert kinds[:2] == ["region"] * 2 and kinds.count("image") == 8        # a line an object
    box = coverage([one.boxes[0, 1].tolist()], 8)[0].view(8, 8)
    torch.testing.assert_close(shown.maps[1].share(), box / box.sum())


@torch.no_grad()
def test_maps_are_shares():
    """Attention before its softmax, or with the blank row that stands for no object."""
    model = build()
    maps = model.query_tokens(inputs(model), maps=True)[1]
    assert len(maps) == 3
    for image, objects in maps:
        assert image.shape == (4, 4, 8, 64) and objects.shape == (4, 4, 12, 12)
        torch.testing.assert_close(image.sum(-1), torch.ones(4, 4, 8))
        torch.testing.assert_close(objects.sum(-1)[:2], torch.ones(2, 4, 12))
        assert not objects[2:].any()                                 # nothing was found there
