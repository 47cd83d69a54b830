"""Lyrics' four objectives: the text of a pair, masks, values, and what must not happen."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_qformer import close

from lion_min.lyrics.objectives import (Heads, ObjectiveSettings, hard_negatives, icg, itc, itm,
                                        match, msp, objectives)
from lion_min.lyrics.pairtext import PairText, Specials, draw_units, pair_text
from lion_min.lyrics.masks import mask_matrix
from lion_min.lyrics.mqformer import MQFormer, MQFormerSettings, Sources
from lion_min.lyrics.retrieval import rerank
from lion_min.tokenizer import TinyTokenizer, box_words

TOKENIZER = TinyTokenizer()
SPECIAL = Specials(0, 1, *range(len(TOKENIZER), len(TOKENIZER) + 4))
SETTINGS = MQFormerSettings(width=32, layers=2, heads=4, ffn=48, queries=6, vision_width=16,
                            vocab=len(TOKENIZER) + 4, max_text=64, cross_every=1,
                            object_queries=3, object_width=10, init_std=32 ** -0.5)
BOXES = [(0.1, 0.2, 0.35, 0.5), (0.5, 0.5, 0.8, 0.9)]
CAPTIONS = ["a small red circle.", "a large blue star and a green ring.", "a pink heart.",
            "a small yellow moon and a large cyan cross."]
TAGS = [["red circle"], ["blue star", "green ring"], [], ["moon", "cross"]]


def lines(tags: list[str]) -> list[list[int]]:
    """The line of each tag's object: its words and its box."""
    return [TOKENIZER.encode(tag) + [TOKENIZER.ids[w] for w in box_words(box)]
            for tag, box in zip(tags, BOXES)]


def units(tags: list[str]) -> list[list[int]]:
    """Of each tag's object: its words are a unit, and each word of its box another one."""
    return [[1] * len(TOKENIZER.encode(tag)) + [*range(2, 8)] for tag in tags]


def texts(captions=CAPTIONS, tags=TAGS) -> PairText:
    return pair_text([lines(t) for t in tags], [units(t) for t in tags],
                     [TOKENIZER.encode(c) for c in captions], SPECIAL)


def pictures() -> Sources:
    g = torch.Generator().manual_seed(1)
    return Sources(torch.randn(4, 5, 16, generator=g), torch.randn(4, 3, 10, generator=g),
                   torch.arange(3) < torch.tensor([[1], [2], [0], [2]]))


@pytest.fixture
def model() -> tuple[MQFormer, Heads]:
    return build()


def build(**settings) -> tuple[MQFormer, Heads]:
    torch.manual_seed(0)
    return MQFormer(SETTINGS).eval(), Heads(ObjectiveSettings(**settings), SETTINGS).eval()


# ---- the text of a pair --------------------------------------------------------------------------

def test_object_text_of_the_tiny_tokenizer():
    """A box as one unit, the tag's words as two, a separator that is masked."""
    text = pair_text([lines(["red circle", "moon"])], [units(["red circle", "moon"])], [[]], SPECIAL)
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
    cut = pair_text([lines(["moon"] * 2)], [units(["moon"] * 2)], [[9] * 50], SPECIAL, limit=5,
                    most=16)
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


# ---- objectives ----------------------------------------------------------------------------------

def test_mask_matrices_are_the_table():
    """A transposed matrix (who is seen for who sees), a caption that sees what follows."""
    one, no = [1, 1], [0, 0]
    full, causal = [[1, 1, 1]] * 3, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    table = {"itc": (no, one[:0], full), "itm": (one, one, full), "icg": (no, one, causal),
             "msp": (no, one, full)}
    for name, (q_t, t_q, t_t) in table.items():
        expected = [[1, 1, *(q_t + q_t[:1])]] * 2 + [[*(t_q or no), *row] for row in t_t]
        assert mask_matrix(name, 2, 1, 2).long().tolist() == expected, name
    with pytest.raises(ValueError, match="unknown objective 'itg'"):
        mask_matrix("itg", 2, 1, 2)


@torch.no_grad()
def test_itc_value(model):
    """Smoothing forgotten, one direction alone, tau multiplied in, a mean over the queries,
    pictures and texts swapped."""
    mqformer, heads = model
    text, (Z, _) = texts(), mqformer.encode_image(pictures())
    loss, scores = itc(mqformer, heads, Z, text)
    states = mqformer.encode_text(text.ids, text.mask, text.positions)
    t = F.normalize(heads.text_proj(states[:, 0]), dim=1)
    z = F.normalize(heads.vision_proj(Z), dim=2)
    want = torch.tensor([[max(float(z[i, q] @ t[j]) for q in range(6)) / 0.07 for j in range(4)]
                         for i in range(4)])
    torch.testing.assert_close(scores, want, atol=1e-4, rtol=1e-4)
    total = sum(0.9 * logp[i, i] + 0.1 * logp[i].mean() for i in range(4)
                for logp in (want.log_softmax(1), want.T.log_softmax(1)))
    assert abs(loss + total / 8) < 1e-4


def test_hard_negatives():
    """A pair as its own negative; negatives drawn evenly, or the easiest instead of the hardest."""
    torch.manual_seed(0)
    scores = torch.tensor([[9., 5, 0, 0], [0, 9, 5, 0], [0, 0, 9, 5], [5, 0, 0, 9.]])
    drawn = torch.stack([hard_negatives(scores) for _ in range(200)])
    assert (drawn != torch.arange(4)).all()
    assert (drawn == torch.tensor([1, 2, 3, 0])).float().mean() > 0.9
    far = hard_negatives(1e4 * torch.eye(3))        # all others at weight 0 but for the 1e-4
    assert (far != torch.arange(3)).all()
    with pytest.raises(ValueError, match="at least two pairs"):
        hard_negatives(torch.zeros(1, 1))


def test_itm_pairs(model, monkeypatch):
    """The objects of the true picture beside the image of the wrong one, positions that stay
    behind when texts move, labels in another order than the rows, scores read the wrong way."""
    from lion_min.lyrics import objectives as module
    mqformer, heads = model
    sources, text = pictures(), texts()
    scores = torch.tensor([[0., 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9], [9, 0, 0, 0]])
    wrong_text, wrong_image = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    monkeypatch.setattr(module, "hard_negatives", lambda scores: scores.argmax(1))
    loss, total = itm(mqformer, heads, sources, text, scores), 0.0
    for b in range(4):
        for image, words, label in ((b, b, 1), (wrong_image[b], b, 0), (b, wrong_text[b], 0)):
            i, j = torch.tensor([int(image)]), torch.tensor([int(words)])
            logits = match(mqformer, heads, Sources(
                sources.image[i], sources.objects[i], sources.mask[i]), text.pick(j))
            total -= logits.log_softmax(1)[0, label]
    close(loss, total / 12)


def test_icg_value(model):
    """Loss on objects or padding, no shift (each token predicts itself), [CLS] for [DEC], an end
    that is never learned; the answer visible: a later token, or its own, changes a prediction."""
    mqformer, heads = model
    text, (_, cache) = texts(), mqformer.encode_image(pictures())
    ids = text.ids.clone()
    ids[:, 0] = SPECIAL.dec
    states = mqformer.encode_text(ids, text.mask, text.positions, cache, causal=True)
    logp = heads.words(states, mqformer.words).log_softmax(-1)
    each = [-0.9 * logp[b, i - 1, text.ids[b, i]] - 0.1 * logp[b, i - 1].mean()
            for b in range(4) for i in range(text.ids.shape[1]) if text.caption[b, i]]
    assert len(each) == sum(len(TOKENIZER.encode(c)) + 1 for c in CAPTIONS)
    close(icg(mqformer, heads, cache, text, SPECIAL), torch.stack(each).mean())
    read = [mqformer.encode_text(ids, text.mask, text.positions, cache, causal=True)
            for ids in (text.ids, text.ids.clone().index_fill_(1, torch.arange(6, 12), 9))]
    torch.testing.assert_close(read[0][:, :6], read[1][:, :6], atol=1e-6, rtol=0)
    assert (read[0][:, 6] - read[1][:, 6]).abs().max() > 1e-3


def test_msp_value(model):
    """Loss on what was not hidden, a shift, hidden words that stay readable."""
    mqformer, heads = model
    text, (_, cache) = texts(), mqformer.encode_image(pictures())
    torch.manual_seed(5)
    loss = msp(mqformer, heads, cache, text, SPECIAL)
    torch.manual_seed(5)
    hidden = draw_units(text.units, 0.15)
    ids = torch.where(hidden, SPECIAL.mask, text.ids)
    logp = heads.words(mqformer.encode_text(ids, text.mask, text.positions, cache),
                       mqformer.words).log_softmax(-1)
    each = [-0.9 * logp[b, i, text.ids[b, i]] - 0.1 * logp[b, i].mean()
            for b, i in hidden.nonzero().tolist()]
    close(loss, torch.stack(each).mean())


def test_total_and_gradients(model):
    """A part left out of the sum or counted twice, a head that no loss reaches."""
    mqformer, heads = model
    heads.settings.mask_share = 1.0
    torch.manual_seed(0)
    loss, parts = objectives(mqformer, heads, pictures(), texts(), SPECIAL)
    assert list(parts) == ["itc", "itm", "icg", "msp"]
    torch.testing.assert_close(loss, sum(parts.values()))
    assert not any(part.requires_grad for part in parts.values())
    loss.backward()
    for module in model:
        assert not [n for n, p in module.named_parameters() if p.grad is None]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_matched_objects_and_no_object_anywhere(share):
    """Boxes that give the pair away to ITC or ITM although the setting hides them, or that are
    hidden where the official code shows them. The mean over no masked token, attention over no
    object: NaN that ruins the weights."""
    mqformer, heads = build(matched_objects=share)
    same_length = [["blue ring"], ["red moon", "pink star"], [], ["ring", "arrow"]]
    parts = []
    for tags in (TAGS, same_length):
        torch.manual_seed(0)
        parts.append(objectives(mqformer, heads, pictures(), texts(tags=tags), SPECIAL)[1])
    far = {name: abs(parts[0][name] - parts[1][name]) for name in parts[0]}
    assert all((far[name] < 1e-6) == (share == 0) for name in ("itc", "itm")), far
    assert min(far["icg"], far["msp"]) > 1e-4
    sources = Sources(pictures().image, torch.zeros(4, 0, 10))
    loss, parts = objectives(mqformer, heads, sources, texts(tags=[[]] * 4), SPECIAL)
    loss.backward()
    assert parts["msp"] == 0 and all(math.isfinite(p) for p in parts.values())
    assert all(p.grad.isfinite().all() for m in (mqformer, heads) for p in m.parameters()
               if p.grad is not None)


def test_rerank():
    """ITM that judges the wrong pair (rows for columns), or lets in what ITC never chose."""
    scores = torch.tensor([[.9, .8, .1], [.2, .7, .6]])
    asked = []

    def logits(rows, columns):
        asked.extend(zip(rows.tolist(), columns.tolist()))
        yes = (torch.stack([rows, columns]) == torch.tensor([[0], [1]])).all(0) * 4.0
        return torch.stack([torch.zeros_like(yes), yes], 1)

    out = rerank(scores, logits, top=2, chunk=3)
    assert asked == [(0, 0), (0, 1), (1, 1), (1, 2)]
    torch.testing.assert_close(out, torch.tensor([[.9, 4.8, -math.inf], [-math.inf, .7, .6]]))
    assert rerank(scores, logits, top=9).isfinite().all()
