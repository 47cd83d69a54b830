"""Two processes share one model (FSDP2, gloo): the losses, tensors and answers of one process."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from test_parallel import same_result, torchrun
from torch import nn
from toy_run import log

from lion_min import checkpoints, launch, parallel, scores, trainable, training
from lion_min.adapters import REGION, attach_adapters, set_task
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lora import attach_lora
from lion_min.scenes import WORLDS, make_scene

pytestmark = pytest.mark.slow
STEPS = 4
CPU = torch.device("cpu")
MODELS = {"trained": ("llama", True), "frozen": ("llama", False), "t5": ("t5", False)}
BATCHES = {"trained": 1, "frozen": 1, "t5": 2}         # that each of two takes one after another


def reader(family: str, llm_trains: bool) -> nn.Module:
    """An LLM that trains, or a frozen one with adapters and LoRA; an eye before it; a frozen tower;
    a part that only the first shard of odd steps uses."""
    torch.manual_seed(3)
    llm = LanguageModel(LanguageSettings(family, vocab=40, width=32, layers=2, heads=2, ffn=48))
    names = ("q_proj", "v_proj") if family == "llama" else ("q", "v")
    beside = nn.ModuleDict({} if llm_trains else {
        "adapters": attach_adapters(llm.model, 32, 4, 2),
        "loras": attach_lora(llm.model, names, rank=2, dropout=0.2)})
    model = nn.ModuleDict({"frozen": nn.Linear(8, 16), "eye": nn.Linear(16, 32),
                           "odd": nn.Linear(16, 32), "llm": llm, "beside": beside})
    trainable.only_trainable(model, ["eye", "odd", "llm"] if llm_trains else ["eye", "odd", "beside"])
    set_task(model, REGION)
    return model


def inputs(model: nn.Module, seed: int) -> tuple:
    """Two pictures with two questions each, of unlike lengths, and their visual tokens."""
    draw = torch.Generator().manual_seed(seed)
    prompts, answers = ([torch.randint(2, 40, (int(n),), generator=draw).tolist()
                         for n in torch.randint(1, longest, (4,), generator=draw)] for longest in (12, 4))
    seen = model["frozen"](torch.randn(6, 3, 8, generator=draw))          # 2 pictures, 4 questions
    return prompts, answers, seen[:2], model["eye"](seen[2:])


def run(name: str, out: Path, shard: bool = False, stop_at: int | None = None) -> list:
    """Trains a reader; its answers. A decoder's layers are computed again in backward."""
    plan = training.Plan(steps=STEPS, lr=1e-3, warmup=1, clip=0.5, shard=shard,
                         checkpointing=name != "t5", accumulate=2 * BATCHES[name] // parallel.world())
    model, resume = reader(*MODELS[name]), (out / checkpoints.STATE).exists()
    if shard:
        parallel.shard(model, trainable.layers_of(model["llm"], ""), CPU)
    # With dropout the masks go by the calls, so one process calls as two have to.
    model["llm"].equal_calls = shard or name == "frozen"

    def step_loss(step: int, number: int = 0):
        prompts, answers, seen, own = inputs(model, 10 * step + number)
        eye = model["odd"] if step % 2 and number == 0 else model["eye"]
        text = model["llm"].pack(prompts, answers)
        if (step, number) == (stop_at, 0):
            os.kill(os.getpid(), signal.SIGINT)
        return model["llm"].loss(model["llm"].embed(text.ids), text, eye(seen), own), {"number": number}

    def answered() -> list:
        prompts, _, seen, own = inputs(model, 999)
        text = model["llm"].pack(prompts)
        return model["llm"].generate(model["llm"].embed(text.ids), text, model["eye"](seen), own,
                                     max_new_tokens=5, min_new_tokens=5).tolist()

    training.run(model, step_loss, plan, out, {"system": name}, resume=resume, quiet=True)
    idle = [p for p in model.parameters() if not p.requires_grad]
    assert idle and all(p.grad is None for p in idle), "a frozen tower holds gradients"
    with torch.no_grad():
        return parallel.within(model, answered)


def stage(out: Path, **options) -> None:
    """Two steps of PVIT's stage 2, which trains the LLM; its scores are what it answers."""
    def score(system) -> dict:
        picture = make_scene(WORLDS["medium"], "heldout", 9, 0).draw()
        said = system.answer(system.encode([picture]), ["what is in the image ?"], max_new_tokens=4)
        return dict.fromkeys(scores.ROWS) | {"vqa_by_type": dict.fromkeys(scores.VQA), "said": said}

    launch.train_stage("pvit", 2, launch.Options(out, device="cpu", steps=2, batch=1, lr=1e-4,
                                                 precision="fp32", **options), score=score, pool=4)


def in_two(out: Path) -> None:
    """All that two processes do."""
    told = {name: run(name, out / name, shard=True) for name in MODELS}
    told["ddp"] = run("frozen", out / "ddp")
    model = reader("llama", True)
    parallel.shard(model, trainable.layers_of(model["llm"], ""), CPU)
    told["held"] = sum(p.to_local().numel() for p in model.parameters() if p.requires_grad)
    try:
        run("trained", out / "cut in two", shard=True, stop_at=1)
    except KeyboardInterrupt:
        told["stopped"] = True
    told["resumed"] = run("trained", out / "cut in one", shard=True)
    stage(out, shard=True)
    (out / f"told {parallel.rank()}").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder of what two processes did, one run of which a single process had begun."""
    out = tmp_path_factory.mktemp("two")
    with pytest.raises(KeyboardInterrupt):
        run("trained", out / "cut in one", stop_at=1)
    code = "import sys; from pathlib import Path; from lion_min import parallel; import test_shard; " \
           "parallel.start(); test_shard.in_two(Path(sys.argv[1]))"
    ends = torchrun(2, "-c", code, str(out), timeout=300)
    assert [end for end, *_ in ends] == [0, 0], ends[0][2] + ends[1][2]
    return out


def told(two: Path) -> dict:
    first, second = (json.loads((two / f"told {rank}").read_text()) for rank in (0, 1))
    assert first == second | {"held": first["held"]}
    return first | {"held": (first["held"], second["held"])}


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_model_is_the_whole_one(two, tmp_path, name):
    """The gradient that comes back through the key-value prefix alone met a layer whose weights were
    gone; a part that one process used was exchanged with another one's part, or moved where nobody
    had used it; the norm to clip was of a process's own part; LoRA and adapters stood still; the
    saved tensors were one process's part, or the answers nonsense."""
    answers = run(name, tmp_path / name)
    same_result(two / name, tmp_path / name)
    assert told(two)[name] == answers
    tensors = checkpoints.load_tensors(two / name / checkpoints.STATE)
    assert tensors["step/odd.weight"] == STEPS / 2
    assert not any("frozen" in key or ("llm" in key and name != "trained") for key in tensors)
    assert checkpoints.load_run(two / name)[0].keys() == {
        key.removeprefix("parameter/") for key in tensors if key.startswith("parameter/")}
    assert max(line["grad_norm"] for line in log(two / name)) > 0.5, "nothing was clipped"
    if name == "frozen":
        same_result(two / "ddp", tmp_path / name)


def test_each_process_holds_half(two):
    """Every process held the whole, or its moments, and the GPU was as full as before."""
    count = sum(p.numel() for p in reader("llama", True).parameters() if p.requires_grad)
    held = told(two)["held"]
    assert sum(held) == count and max(held) < 0.51 * count


def test_a_run_goes_on_among_fewer_and_among_more(two, tmp_path):
    """A checkpoint of two processes could not be read by one, or the moments were lost."""
    run("trained", tmp_path)
    assert told(two)["stopped"] and checkpoints.read_state(two / "cut in two")[0] == 2
    assert told(two)["resumed"] == run("trained", two / "cut in two")
    for name in ("cut in two", "cut in one"):
        same_result(two / name, tmp_path)


def test_a_stage_is_shared_and_answers(two, tmp_path, capsys):
    """A stage's scoring ran into parted weights, or its pictures were encoded by them."""
    stage(tmp_path, accumulate=2)
    same_result(two / "pvit" / "stage2", tmp_path / "pvit" / "stage2")
    one, other = (checkpoints.load_json(f / "pvit" / "stage2" / checkpoints.SCORES) for f in (two, tmp_path))
    assert one == other and one["after"]["said"]
