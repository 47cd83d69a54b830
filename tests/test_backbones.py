"""Pretrained backbones by name or folder: towers, LLMs, presets, refusals."""

import copy
import functools
import json
import shutil

import pytest
import torch
from random_backbones import CHAT, LLMS, TOWERS, folder  # noqa: F401: a fixture
from safetensors.torch import load_file, save_file

from lion_min import BadInput
from lion_min.adapters import REGION, attach_adapters, set_task
from lion_min.language import TextBatch
from lion_min.lora import attach_lora
from lion_min.pretrained.backbones import LANGUAGE, VISION, load_language, load_vision, pretrained_parts
from lion_min.pretrained.presets import PRESETS
from lion_min.vision import VisionEncoder, VisionSettings


@pytest.fixture(scope="module")
def llm(folder):
    """llm("t5"): (LLM, tokenizer), read once; each test may spoil its own copy of the LLM."""
    read = functools.cache(lambda name: load_language(folder(name)))
    return lambda name: (copy.deepcopy(read(name)[0]), read(name)[1])


def file_of(where) -> dict[str, torch.Tensor]:
    return load_file(where / "model.safetensors")


# ---- towers ------------------------------------------------------------------------------------

@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
def test_tower_states(folder, family):
    """A tower filled at random; a normed last state; SigLIP's first patch taken for a CLS; DINOv2's
    registers taken for patches, or the size it was trained on for the one to show."""
    eyes = load_vision(folder(family)).eval()
    s, own = eyes.settings, file_of(folder(family))
    assert (s.image, s.patch, s.width, s.blocks, s.mlp, s.stem) == (32, 8, 32, 2, 64, ())
    assert s.family == ("dinov2" if family == "registers" else family)
    states = eyes(torch.randn(2, 3, 32, 32, generator=torch.manual_seed(1)))
    assert [list(state.shape) for state in states] == [[2, 1 + s.side ** 2, 32]] * 3
    if s.family == "dinov2":
        import transformers
        kind = getattr(transformers, VISION[eyes.model.config.model_type][1])
        theirs = kind.from_pretrained(folder(family)).eval()
        last = theirs(torch.randn(2, 3, 32, 32, generator=torch.manual_seed(1))).last_hidden_state
        normed, registers = theirs.layernorm(states[-1]), last.shape[1] - 17
        assert registers == (4 if family == "registers" else 0)
        torch.testing.assert_close(normed, torch.cat([last[:, :1], last[:, 1 + registers:]], 1))
        return
    for name, parameter in eyes.model.named_parameters():
        assert torch.equal(parameter, own[f"vision_model.{name}"]), name
    if family == "siglip":
        torch.testing.assert_close(states[2][:, 0], states[2][:, 1:].mean(1))
    elif family == "clip":                 # raw: the block after which no norm came
        layer = eyes.model.encoder.layers[1](states[1], attention_mask=None)
        torch.testing.assert_close(layer[0] if isinstance(layer, tuple) else layer, states[2])


@torch.no_grad()
def test_half_precision_and_statistics(folder):
    """A tower that stays fp32 when bf16 was asked for; CLIP's colours shown to SigLIP."""
    eyes = load_vision(folder("siglip"), torch.bfloat16)
    assert eyes(torch.randn(1, 3, 32, 32))[0].dtype == torch.bfloat16
    assert eyes.settings.mean == eyes.settings.std == (0.5, 0.5, 0.5)
    assert VisionSettings("eva").mean == VisionSettings("clip").mean != eyes.settings.mean
    assert load_vision(folder("registers")).settings.std == (0.229, 0.224, 0.225)    # ImageNet's
    sizes = VisionSettings("siglip", image=16, patch=8, width=16, blocks=1, mlp=16)
    assert VisionEncoder(sizes)(torch.randn(2, 3, 16, 16))[1].shape == (2, 5, 16)


# ---- LLMs --------------------------------------------------------------------------------------

def ids_of(model, count: int = 9) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(3, model.settings.vocab - 9, (1, count))


@torch.no_grad()
@pytest.mark.parametrize("name", CHAT)
def test_logits_are_transformers_own(llm, name):
    """Our additive mask read otherwise by a family: a sample sees ahead, or its neighbour."""
    model, _ = llm(name)
    row = ids_of(model)
    first, answer, other = row[0, :5].tolist(), row[0, 5:].tolist(), [7, 8, 9]
    expected = model.model(input_ids=row).logits[0]

    def logits(*rows):
        return model.model.lm_head(model.text_states(*rows))

    for prompts in ([first], [other, first]):
        text = model.pack(prompts, [answer] * len(prompts))
        embeds = model.embed(text.ids)
        found = [logits(embeds, text)[-1, :9]]
        shared = embeds[-1:, :2].expand(len(prompts), -1, -1)         # its first words as an image
        behind = TextBatch(text.ids[:, 2:], text.mask[:, 2:])
        found.append(logits(embeds[:, 2:], behind, shared)[-1, :7])
        for each in found:
            torch.testing.assert_close(each, expected[-len(each):], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sliding_layers_count_no_padding(llm):
    """A short prompt beside a long one whose window is spent on the padding before it."""
    model, _ = llm("gemma3")
    model.settings.eos_id = -1
    rows = [ids_of(model)[0, :n].tolist() for n in (3, 9)]
    shared = model.embed(torch.tensor([[5, 6, 7, 8, 9]]))
    both = model.pack(rows)
    answers = model.generate(model.embed(both.ids), both, shared, max_new_tokens=7)
    for row, answer in zip(rows, answers):
        alone = model.pack([row])
        assert torch.equal(model.generate(model.embed(alone.ids), alone, shared, max_new_tokens=7)[0], answer)
    assert model.notes == ["the answer was cut at 7 tokens, the most that are written"]


@torch.no_grad()
@pytest.mark.parametrize("name", CHAT)
def test_generation_is_greedy_and_ends(llm, name):
    """The file's own sampling or repetition penalty; an answer that runs on past its end."""
    model, _ = llm(name)
    assert model.model.generation_config.repetition_penalty in (None, 1)
    row, expected = ids_of(model), []
    for _ in range(6):
        expected.append(int(model.model(input_ids=row).logits[0, -1].argmax()))
        row = torch.cat([row, torch.tensor([expected[-1:]])], 1)
    text = model.pack(row[:, :-6].tolist())
    model.settings.eos_id = -1 if len(set(expected)) == 1 else expected[-1]
    answer = model.generate(model.embed(text.ids), text, max_new_tokens=9)[0].tolist()
    end = expected.index(model.settings.eos_id) + 1 if model.settings.eos_id >= 0 else 6
    assert answer[:end] == expected[:end]
    assert len(answer) == (end if model.settings.eos_id >= 0 else 9)


@torch.no_grad()
def test_t5_is_the_files_own(llm, folder):
    """transformers 5 ties head and embedding; FlanT5 with the tanh GELU; no answer from it."""
    model, words = llm("t5")
    own, s = file_of(folder("t5")), model.settings
    assert torch.equal(model.model.lm_head.weight, own["lm_head.weight"])
    assert torch.equal(model.model.shared.weight, own["shared.weight"]) and not s.tied
    assert model.model.encoder.block[0].layer[1].DenseReluDense.act(torch.tensor(1.)).item() \
        == torch.nn.functional.gelu(torch.tensor(1.)).item()
    assert (s.family, s.decoder_layers, s.head_width, s.ffn, s.pad_id, s.eos_id) \
        == ("t5", 2, 8, 64, 0, 1)
    text = model.pack([words.chat_prompt(words.encode("what is this ?"))])
    assert isinstance(words.decode(model.generate(model.embed(text.ids), text)[0].tolist()), str)


@torch.no_grad()
@pytest.mark.parametrize("name", LLMS)
def test_sizes_and_placeholders(llm, name):
    """An index error on a placeholder's id; settings that name another model's sizes."""
    model, words = llm(name)
    rows, s = model.model.get_input_embeddings().weight, model.settings
    assert (s.vocab, s.width, s.layers, s.heads) == (len(rows), 32, 2, 4) == (len(words), 32, 2, 4)
    assert (s.head_width == 16) == (name in ("qwen3", "gemma3"))
    assert words.region_id == len(words) + 2 and words.hint_id == len(words) + 3
    embeds = model.embed(torch.tensor([[5, words.region_id, len(words)]]))
    scale = 32 ** 0.5 if name == "gemma3" else 1
    torch.testing.assert_close(embeds[0], scale * rows[[5, 0, 0]])


@pytest.mark.parametrize("name", LLMS)
def test_adapters_and_lora_train_alone(llm, name):
    """A family whose feed-forward nets or attention are called otherwise: nothing is attached."""
    model, _ = llm(name)
    model.requires_grad_(False)
    adapters = attach_adapters(model.model, model.width, 4, 2)
    loras = attach_lora(model.model, ("q", "k", "v") if name == "t5" else
                        ("q_proj", "k_proj", "v_proj"))
    layers = 4 if name == "t5" else 2
    assert len(adapters) == layers and len(loras) == 3 * (6 if name == "t5" else 2)
    set_task(adapters, REGION)
    text = model.pack([[5, 6, 7]], [[8, 9]])
    trained = [*adapters.parameters(), *loras.parameters()]
    steps = torch.optim.SGD(trained, 1e-3)
    losses = []
    for _ in range(2):
        loss = model.loss(model.embed(text.ids), text)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and all(p.grad is None for p in model.model.parameters())


# ---- refusals ----------------------------------------------------------------------------------

def changed(where, **fields) -> None:
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | fields))


def rekeyed(where, change) -> None:
    tensors = file_of(where)
    change(tensors)
    save_file(tensors, where / "model.safetensors", {"format": "pt"})


NORM = "vision_model.post_layernorm.weight"
SPOILT = {
    "config.json": lambda f: (f / "config.json").unlink(),
    f"'bert' is no vision tower known here; give one whose model_type is {', '.join(VISION)}":
        lambda f: changed(f, model_type="bert"),
    "a 'sees-2030' is no": lambda f: changed(f, model_type="sees-2030"),
    "a None is no": lambda f: (f / "config.json").write_text("{}"),
    "no model.safetensors": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
    "cannot be read": lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 99),
    f"key '{NORM.removeprefix('vision_model.')}' is missing":
        lambda f: rekeyed(f, lambda t: t.pop(NORM)),
    "unknown key 'extra.weight'":
        lambda f: rekeyed(f, lambda t: t.update({"vision_model.extra.weight": torch.ones(1)})),
    "post_layernorm.weight' is [3] instead of [32]":
        lambda f: rekeyed(f, lambda t: t.update({NORM: torch.ones(3)})),
}


def refused(call, where, capfd) -> str:
    """The line of a BadInput; nothing but it reaches the user."""
    capfd.readouterr()
    with pytest.raises(BadInput) as told:
        call(where)
    line = str(told.value)
    if call is load_language:
        assert "packages" not in line and "required" not in line
    assert "\n" not in line and str(where) in line and capfd.readouterr() == ("", "")
    return line


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_folder(folder, tmp_path, what, capfd):
    """A half-filled tower, a pickle opened, a stack trace; transformers' own report on stderr."""
    where = shutil.copytree(folder("clip"), tmp_path / "clip")
    SPOILT[what](where)
    assert what in refused(load_vision, where, capfd)


def test_unknown_llm(folder, tmp_path, capfd):
    """A family without a word about those that are known."""
    where = shutil.copytree(folder("llama"), tmp_path / "llama")
    changed(where, model_type="mamba")
    assert f"'mamba' is no LLM known here; give one whose model_type is {', '.join(LANGUAGE)}" \
        in refused(load_language, where, capfd)


def test_spoilt_tokenizer(folder, tmp_path, capfd):
    """An empty vocabulary made up; a tokenizer with more words than the LLM has rows."""
    bare = shutil.copytree(folder("t5"), tmp_path / "t5")
    (bare / "tokenizer.json").unlink()
    assert "holds no tokenizer" in refused(load_language, bare, capfd)
    for name in ("spiece.model", "tokenizer.model"):       # asked for packages nobody has
        (bare / name).write_bytes(b"\x0a\x0c\x0a\x03dog\x15\x00\x00\x00\x00\x18\x01")
        line = refused(load_language, bare, capfd)
        assert f"holds its tokenizer as {name} alone" in line and "save_pretrained" in line
        (bare / name).unlink()
    longer = shutil.copytree(folder("llama"), tmp_path / "longer")
    shutil.copy(folder("qwen2") / "tokenizer.json", longer)
    changed(longer, vocab_size=290)
    rekeyed(longer, lambda t: t.update({"model.embed_tokens.weight":
                                        t["model.embed_tokens.weight"][:290].clone()}))
    assert "belong together" in refused(load_language, longer, capfd)


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "tiny"])
def test_preset_without_network(name, capfd, folder, tmp_path):
    """Half a minute of retries and a stack trace where there is no network."""
    preset, eyes = PRESETS[name], folder("clip")
    for part, flag, call in ((preset.vision, "--vision", load_vision),
                             (preset.language, "--llm", load_language)):
        line = refused(call, part, capfd)
        assert f"pass its folder with {flag} FOLDER" in line and "no network" in line
    with pytest.raises(BadInput, match=preset.language):
        pretrained_parts(tmp_path, name, vision=str(eyes))
    assert "no such folder" in refused(load_vision, "/no/such/folder", capfd)


def test_preset_with_folders(folder, tmp_path):
    """Folders given and the Hub asked all the same; a preset for no system."""
    parts = pretrained_parts(tmp_path, "clip-smollm2", str(folder("eva")), str(folder("llama")))
    assert parts.vision.settings.family == "eva"
    assert parts.llm.settings.vocab == len(parts.tokenizer)
    assert {s for p in PRESETS.values() for s in p.systems} == {"lion", "pvit", "lyrics", "lmeye"}
