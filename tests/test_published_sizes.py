"""The published sizes, key by key, on the meta device: nothing is allocated."""

import pytest
import torch
from official_files import published

from lion_min import BadInput

from lion_min.published import importing, keys


def lion_file(width: int) -> dict[str, torch.Tensor]:
    """The "model" entry of the published .pth, as spec section 5 lists it; nothing allocated."""
    found = {}

    def add(name, *shape, dtype=torch.float32):
        found[name] = torch.empty(shape, device="meta", dtype=dtype)

    def pair(name, rows, *columns):
        add(f"{name}.weight", rows, *columns)
        add(f"{name}.bias", rows)

    def bert(name, inner, size, kinds):
        for kind, context in kinds.items():
            for part in ("query", "key", "value"):
                pair(f"{name}.{kind}.self.{part}", inner, inner if part == "query" else context)
            pair(f"{name}.{kind}.output.dense", inner, inner)
            pair(f"{name}.{kind}.output.LayerNorm", inner)
        for end in ("", "_query")[:1 if inner == 1408 else 2]:
            pair(f"{name}.intermediate{end}.dense", size, inner)
            pair(f"{name}.output{end}.dense", inner, size)
            pair(f"{name}.output{end}.LayerNorm", inner)

    add("query_tokens", 1, 32, 768)
    add("soft_prompt_hint", width)
    for name, *shape in (("ln_vision", 1408), ("ln_adapter", 1408), ("t5_proj", width, 768),
                         ("adapter_proj.0", 5632, 1408), ("adapter_proj.2", width, 5632)):
        pair(name, *shape)
    for i in (0, 1):
        bert(f"fusion_adapter.blocks.{i}", 1408, 3072, {"attention": 1408, "crossattention": 1408})
    for side, place in (("encoder", 1), ("decoder", 2)):
        add(f"t5_model.{side}.embed_tokens.weight", 32128, width, dtype=torch.bfloat16)
        for i in range(24):
            adapter = f"t5_model.{side}.block.{i}.layer.{place}.adapter"
            for k in (0, 1):
                add(f"{adapter}.router_ratio{k + 1}", 2, width)
                add(f"{adapter}.adapters.{k}.scale", 1)
                pair(f"{adapter}.adapters.{k}.down_proj", 64, width)
                pair(f"{adapter}.adapters.{k}.up_proj", width, 64)
    text = "Qformer.bert.embeddings"
    add(f"{text}.position_ids", 1, 512, dtype=torch.int64)
    add(f"{text}.word_embeddings.weight", 30523, 768)
    add(f"{text}.position_embeddings.weight", 512, 768)
    pair(f"{text}.LayerNorm", 768)
    for i in range(12):
        kinds = {"attention": 768} | ({"crossattention": 1408} if i % 2 == 0 else {})
        bert(f"Qformer.bert.encoder.layer.{i}", 768, 3072, kinds)
    return found


# Millions of parameters by part, spec section 0.
COUNTS = {2048: {"vision": 985.9, "llm": 2849.8, "adapters": 25.76, "query_proj": 1.57,
                 "mlp": 19.47}, 4096: {"vision": 985.9, "llm": 11135.3, "adapters": 51.52,
                                       "query_proj": 3.15, "mlp": 31.01}}


@pytest.mark.parametrize("width, preset, total, trained", [
    (2048, "lion-flant5-xl", 4117.2, 281.57), (4096, "lion-flant5-xxl", 12441.7, 320.44)])
def test_lion_has_the_published_keys_and_shapes(width, preset, total, trained):
    """A key of the 971 unknown, of another shape, or without a place in our model; a frozen
    part of the wrong size."""
    tensors, module = lion_file(width), published("lion")
    assert len(tensors) == 971
    ours, settings = module.convert(tensors)
    assert importing.preset_of(module, settings) == preset
    with torch.device("meta"):
        model = module.build(settings)
    keys.check_filled(model, ours, preset, module.FROZEN)
    assert all(p.is_meta for p in model.parameters())
    millions = {n: sum(p.numel() for p in part.parameters()) / 1e6
                for n, part in model.named_children()}
    assert {k: round(millions[k], 1) for k in COUNTS[width]} == {
        k: round(v, 1) for k, v in COUNTS[width].items()}
    assert sum(millions.values()) == pytest.approx(total, abs=0.1)  # spec: 4117.28 cut
    assert round(sum(t.numel() for t in ours.values()) / 1e6, 2) == trained
    for last in ("t5_model.decoder.block.23.", "Qformer.bert.encoder.layer.11."):
        with pytest.raises(BadInput, match=f"key '{last}.* is missing"):  # no smaller model
            module.convert({k: v for k, v in tensors.items() if not k.startswith(last)})


def test_pvit_has_the_published_number_of_keys():
    """A tensor of the 329 that no table knows (spec section 6)."""
    pvit = published("pvit")
    names = keys.expand(pvit.TABLE + pvit.BOXES.table, pvit.SIZES["pvit-7b"])
    assert sum(not name.startswith("backbone.") for name in names) + 32 == 329   # rotary tables


@pytest.mark.parametrize("width, preset, trained", [(4096, "lmeye-llama7b", 21.9),
                                                    (5120, "lmeye-llama13b", 26.6)])
def test_lmeye_has_the_published_sizes(width, preset, trained):
    """The paper's trained parameters (spec 2.6) counted otherwise: a shape misread."""
    shapes = {"embedding_img": (1, width), "embedding_imgd": (1, width),
              "imgLinear": (width, 768), "promptMlp": (3840, 768), "llm2clip": (768, width),
              "imgdLinear": (5 * width, 768)}
    net = {name if name.startswith("emb") else f"{name}.weight": torch.empty(s, device="meta")
           for name, s in shapes.items()}
    net |= {f"{name}.bias": torch.empty(s[0], device="meta") for name, s in shapes.items()
            if not name.startswith("emb")}
    module = published("lmeye")
    ours, settings = module.convert(net)
    with torch.device("meta"):
        keys.check_filled(module.build(settings), ours, preset, module.FROZEN)
    assert importing.preset_of(module, settings) == preset
    count = sum(t.numel() for n, t in ours.items() if n != "e_img" and "img_proj" not in n)
    assert round(count / 1e6, 1) == trained
