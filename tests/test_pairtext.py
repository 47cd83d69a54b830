"""The text of a pair: objects, positions that restart, units that are hidden whole."""

import torch
from test_objectives import BOXES, SPECIAL, TOKENIZER, build, lines, texts
from test_qformer import close

from lion_min.lyrics.pairtext import draw_units, pair_text
from lion_min.tokenizer import box_words


def test_object_text_of_the_tiny_tokenizer():
    """A box as one unit, the tag's words as two, a separator that is masked."""
    text = pair_text([lines(["red circle", "moon"])], [[]], SPECIAL)
    first, second = ([TOKENIZER.ids[w] for w in box_words(box)] for box in BOXES)
    red, circle, moon = (TOKENIZER.ids[w] for w in ("red", "circle", "moon"))
    assert text.ids[0].tolist() == [SPECIAL.cls, red, circle, *first, SPECIAL.sep, moon, *second,
                                    SPECIAL.sep, SPECIAL.end]
    assert text.units[0].tolist() == [0, 1, 1, *range(2, 8), 0, *range(8, 15), 0, 0]


def test_text_of_a_pair():
    """Caption positions that go on behind the objects, a caption without an end, padding that
    counts as text, tags out of the table of positions."""
    text = texts(["red.", "blue."], [["moon"], []])
    assert text.ids[1].tolist() == [SPECIAL.cls, *TOKENIZER.encode("blue."), SPECIAL.end] + [0] * 8
    assert text.positions.tolist() == [[*range(9), 1, 2, 3], [0, 1, 2, 3] + [0] * 8]
    assert text.caption.long().tolist() == [[0] * 9 + [1] * 3, [0, 1, 1, 1] + [0] * 8]
    assert text.mask.sum(1).tolist() == [12, 4]
    assert text.units[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0]
    cut = pair_text([lines(["moon"] * 2)], [[9] * 50], SPECIAL, limit=5, most=16)
    assert cut.ids.shape[1] == 9 + 5            # the second object whole or not at all
    assert cut.ids[0, 9:].tolist() == [9, 9, 9, 9, SPECIAL.end] and cut.positions.max() == 8


def test_units_are_hidden_whole():
    """Half a tag hidden, which the other half gives away; brackets, separators or the caption
    hidden; another share than .15."""
    torch.manual_seed(0)
    units = texts().units
    counts = torch.zeros(int(units.max()) + 1)
    for _ in range(400):
        hidden = draw_units(units, 0.15)
        assert not hidden[units == 0].any()
        for row, h in zip(units, hidden):
            assert all(len(set(h[row == u].tolist())) <= 1 for u in range(1, int(row.max()) + 1))
        counts += torch.stack([(hidden[1] & (units[1] == u)).any() for u in range(len(counts))])
    share = counts[1:] / 400
    assert abs(share.mean() - 0.15) < 0.02 and share.min() > 0.07


def test_hidden_objects_leave_the_caption_alone():
    """Objects 'hidden' from matching that still leak, by a position, a separator or a key; caption
    tokens numbered on behind the objects: another embedding for each number of them."""
    text, mqformer = texts(), build()[0]
    hidden = text.without_objects(torch.tensor([False] * 3 + [True]))
    alone = texts(tags=[[]] * 4)
    for row in range(3):
        bare, whole = (t.pick(torch.tensor([row])) for t in (alone, hidden))
        states = [mqformer.encode_text(t.ids, t.mask, t.positions)[:, 0] for t in (bare, whole)]
        close(*states)
    assert torch.equal(hidden.mask[3], text.mask[3])
