"""The exercises of the tutorial: each check refuses the stub and three typical mistakes in a
sentence, and accepts the solution. No stub counts as a failure of this suite (conftest.py)."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).with_name("exercises")
WRONG = {  # exercise -> (a part of the solution, what a student may write there)
    "adapter": [("    nn.init.zeros_(up.weight)\n", ""), ("torch.relu(down(x))", "down(x)"),
                ("zeros_(up.bias)", "zeros_(up.bias), nn.init.zeros_(down.weight)")],
    "aggregator_block": [("cross(x, y)", "cross(y, x)"), ("norms[1](x + cross", "norms[1](cross"),
                         ("norms[2](x + ffn(x))", "x + ffn(norms[2](x))")],
    "attention_map": [("[:, 1:]", "[:, :-1]"), ("divmod(int(patches.argmax()), side)",
                      "divmod(int(patches.argmax()), side)[::-1]"), (".mean(0)", ".amax(0)")],
    "bilinear": [(" - 0.5", ""), ("[y, x]", "[x, y]"), (".clamp(0, cells - 1)", "")],
    "box_iou": [("y1 / height", "y1 / width"), ("area_a + area_b - both", "area_a + area_b"),
                ("max(0, min(a[3], b[3]) - max(a[1], b[1]))", "min(a[3], b[3]) - max(a[1], b[1])")],
    "box_token": [(" / sides", ""), ("[width, height, width, height]", "[width, width, height, height]"),
                  ("[width, height, width, height]", "[64] * 4")],
    "contrast": [(".amax(-1)", ".mean(-1)"), ("(F.cross_entropy(s, true) + F.cross_entropy(s.T, true)) / 2",
                 "F.cross_entropy(s, true)"), ("p.masked_fill(torch.eye(len(s), dtype=torch.bool), 0)", "p")],
    "cross_attention": [(" / q.shape[-1] ** 0.5", ""), ("softmax(-1)", "softmax(1)"),
                        ("float(\"-inf\")", "0")],
    "hide_units": [("drawn.gather(1, units)", "(torch.rand(units.shape) < share) & (units > 0)"),
                   ("    drawn[:, 0] = False\n", ""),
                   ("drawn.gather", "drawn[:1].expand(len(units), -1).gather")],
    "icg_mask": [("    mask[:queries, :queries] = True\n", ""), (".tril()", ".tril(-1)"),
                 ("mask[:queries, :queries]", "mask[:queries]")],
    "kv_prefix": [(".tril(prefix)", ".tril()"), ("prefix + torch.arange", "torch.arange"),
                  ("< replaced", "!= replaced")],
    "lora_merge": [("alpha / len(down) * ", ""), ("alpha / len(down)", "alpha / W.shape[0]"),
                   ("up @ down", "(up @ down).T")],
    "region_splice": [("embeds.clone()", "embeds"), ("out[slots] = features",
                      "out.transpose(0, 1)[slots.T] = features"), ("slots.sum() != len(features)", "False")],
    "request": [("repeat_interleave(len(R) // len(image), 0)", "repeat(len(R) // len(image), 1, 1)"),
                ("softmax(-1)", "softmax(1)"), ("unflatten(-1, (n, -1))",
                 "unflatten(-1, (-1, n)).transpose(1, 2)")],
    "router": [("router[k, task]", "router[task, k]"), ("    router = router.clone()\n", ""),
               ("router[1 - task, task] =", "router[task, 1 - task] =")],
    "sampling_points": [("+ 1 / 2", ""), (" - 0.5", ""), ("math.ceil(width)", "1")],
    "schedule": [("(step + 1) / warmup", "step / warmup"), ("(step - warmup)", "step"),
                 ("step >= curriculum", "step > curriculum")],
    "soft_prompt": [("hint, embeds", "embeds + hint, embeds"), (".sum(0)", ".mean(0)"),
                    ("gradient[ids == hint_id].sum(0)", "gradient.sum((0, 1))")],
    "stage_order": [("not done.issuperset(needed)", "order != sorted(order)"),
                    ("done.issuperset(needed)", "done.intersection(needed or [number])"),
                    ("not done.issuperset(needed)", "number > 1 and number - 1 not in done")],
}
Failed = pytest.fail.Exception


@pytest.fixture(scope="module")
def verdict():
    """verdict(name, source) -> the sentence of the check of `name` on such a file; '' for none."""
    sys.path.insert(0, str(FOLDER))

    def judge(name: str, source: str) -> str:
        from checking import Student
        spec = importlib.util.spec_from_file_location(f"check_{name}", FOLDER / f"test_{name}.py")
        spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
        try:
            for test in [value for key, value in vars(module).items() if key.startswith("test_")]:
                test(Student(FOLDER / f"{name}.py", source))
        except Failed as failure:
            return failure.msg
        return ""

    yield judge
    sys.path.remove(str(FOLDER))


def test_every_exercise_has_its_parts():
    """Guards: an exercise that nobody proves, has no solution, or that the tutorial does not name."""
    names = {path.name for path in FOLDER.glob("test_*.py")}
    assert names == {f"test_{name}.py" for name in WRONG}
    assert f"{len(WRONG)} exercises to write" in (ROOT / "README.md").read_text(encoding="utf-8")
    chapters = re.split(r"^## ", (ROOT / "TUTORIAL.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name in WRONG:
        number = re.match(r'"""Chapter (\d+): ', (FOLDER / f"{name}.py").read_text(encoding="utf-8"))[1]
        named = re.search(rf"\b{name}(\.py)?`", chapters[int(number)])
        assert named, f"{name} in chapter {number} of the tutorial"


@pytest.mark.parametrize("name", WRONG)
def test_the_check_tells_right_from_wrong(verdict, name):
    """Guards: a check that passes a mistake or the stub, refuses the solution, or says no sentence."""
    stub, solution = ((FOLDER / part / f"{name}.py").read_text(encoding="utf-8")
                      for part in ("", "solutions"))
    assert verdict(name, solution) == ""
    assert "is not written yet" in verdict(name, stub)
    assert len(WRONG[name]) == 3
    for old, new in WRONG[name]:
        assert solution.count(old) == 1, old
        said = verdict(name, solution.replace(old, new))
        assert len(said.split()) > 5 and "\n" not in said and " stops in line " not in said, (new, said)


def test_what_stops_a_students_file_becomes_a_sentence(verdict):
    """Guards: a bare traceback for a file that does not run, lacks the function or returns nothing."""
    for source, told in (("def merged(:", "stops in line 1 "), ("x = 1", "has no function merged()"),
                         ("def merged(W, *_):\n    W += 0", "returns nothing"),
                         ("def merged(*_):\n    return 1", "a tensor is needed, not int"),
                         ("def merged(W, *_):\n    return W[0]", "the shape is [6]"),
                         ("def merged(*_):\n    return 1 / 0", "merged() stops in line 2 of lora_merge.py")):
        assert told in verdict("lora_merge", source)


def test_a_student_runs_the_check_alone(request, capsys):
    """Guards: a file that pytest does not collect when it is named, or does when it is not."""
    assert not [item for item in request.session.items if FOLDER in item.path.parents]
    check = str(FOLDER / "test_lora_merge.py")
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), check])
    out = capsys.readouterr().out
    assert code == 1 and "\nmerged() is not written yet" in out and "Error" not in out.replace(
        "NotImplementedError", "")
