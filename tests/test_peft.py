"""LoRA by PEFT: what it adapts by default, that nothing precomputed bypasses it, and every way to share an adapter."""

import copy
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from fresh_process import run_step
from loopback_hub import LoopbackHub
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from small_runs import make_rows, write_csv
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)
from without_package import compute_bits

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForMultipleChoice,
    WaveForQuestionAnswering,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
    train_wave_tokenizer,
)
from wave_network.modeling_wave import modeling_wave

EXAMPLE = Path(__file__).parent.parent / "examples" / "lora.py"
TEXTS = ["the striker scored twice", "shares fell again", "a telescope saw a galaxy", "goal", "oil and shares rose"]
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_labels": 3, "hidden_dropout_prob": 0.0, "initializer_range": 0.3}
MAPS = {"mixing.variants", "mixing.restore"}
FEED_FORWARD = {"feed_forward.up", "feed_forward.down"}


def build(cls: Any = WaveForSequenceClassification, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(WaveConfig(**SMALL | settings)).to(dtype).eval()


def wrap(model: Any, **settings: Any) -> Any:
    """The model with an adapter that changes what it says, as if it had been trained."""
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(**{"task_type": "SEQ_CLS", "init_lora_weights": False} | settings))
    return adapted.to(model.dtype).eval()


def batch(length: int = 20) -> dict[str, torch.Tensor]:
    """Texts that repeat their words, padded right, left and not at all."""
    input_ids = torch.randint(1, 40, (3, length), generator=torch.Generator().manual_seed(0)) % 9 + 1
    mask = torch.ones_like(input_ids)
    mask[0, length // 2 :] = 0
    mask[1, : length // 3] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask}


def compute_naively(adapted: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """The logits of a plain model into whose weights the adapter was multiplied by hand: `W + scaling B A`."""
    source = adapted.base_model.model
    weights = {}
    for name, weight in source.state_dict().items():
        if "lora_" not in name and "original_module" not in name:
            weights[name.replace(".base_layer", "").replace(".modules_to_save.default", "")] = weight.clone()
    for name, module in source.named_modules():
        if isinstance(module, peft.tuners.lora.Embedding):
            delta = module.lora_embedding_A["default"].T @ module.lora_embedding_B["default"].T
        elif isinstance(module, peft.tuners.lora.Linear):
            delta = module.lora_B["default"].weight @ module.lora_A["default"].weight
        else:
            continue
        weights[f"{name}.weight"] += module.scaling["default"] * delta
    plain = type(source)(copy.deepcopy(source.config)).to(source.dtype).eval()
    plain.load_state_dict(weights)
    plain.config.wave_implementation, plain.config.chunk_length = "eager", None
    return plain(**inputs).logits


# --- What is adapted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "task", "settings", "maps", "head"),
    [
        (WaveForSequenceClassification, "SEQ_CLS", {}, MAPS, "classifier"),
        (WaveForSequenceClassification, "SEQ_CLS", {"intermediate_size": 8}, MAPS | FEED_FORWARD, "classifier"),
        (WaveForSequenceClassification, "SEQ_CLS", {"restore": "real"}, {"mixing.variants"}, "classifier"),
        (WaveForMultipleChoice, "SEQ_CLS", {"conv_kernel_size": 3}, MAPS, "classifier"),
        (WaveForTokenClassification, "TOKEN_CLS", {"num_hidden_layers": 2}, MAPS, "classifier"),
        (WaveForQuestionAnswering, "QUESTION_ANS", {}, MAPS, "qa_outputs"),
        (WaveForMaskedLM, None, {}, MAPS, None),
        (WaveModel, "FEATURE_EXTRACTION", {}, MAPS, None),
    ],
)
def test_the_linear_maps_of_the_layers_are_adapted_by_default(cls, task, settings, maps, head):
    model = build(cls, **settings)
    layers = model.config.num_hidden_layers
    adapted = get_peft_model(model, LoraConfig(task_type=task))
    prefix = "" if cls is WaveModel else "wave."
    assert set(adapted.targeted_module_names) == {
        f"{prefix}layers.{layer}.{name}" for layer in range(layers) for name in maps
    }
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    heads = {name for name in trained if "lora_" not in name}
    assert len(trained) - len(heads) == 2 * len(maps) * layers
    parts = () if head is None else ("weight", "bias")
    assert heads == {f"base_model.model.{head}.modules_to_save.default.{part}" for part in parts}


def test_all_linear_adapts_every_map_but_the_head():
    model = build(intermediate_size=8, num_hidden_layers=2)
    adapted = wrap(model, target_modules="all-linear")
    assert set(adapted.targeted_module_names) == {
        f"wave.layers.{layer}.{name}" for layer in (0, 1) for name in MAPS | FEED_FORWARD
    }
    language = wrap(build(WaveForMaskedLM), task_type=None, target_modules="all-linear")
    assert set(language.targeted_module_names) == {f"wave.layers.0.{name}" for name in MAPS} | {"transform"}


def test_a_default_that_a_user_set_stays(monkeypatch):
    defaults = peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    monkeypatch.setitem(defaults, "wave", ["restore"])
    assert wrap(build()).targeted_module_names == ["wave.layers.0.mixing.restore"]


def test_transformers_own_integration_has_the_same_default():
    model = build()
    model.add_adapter(LoraConfig())
    adapted = {name for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.Linear)}
    assert adapted == {f"wave.layers.0.{name}" for name in MAPS}


# --- What is computed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [None, ["variants", "word_embeddings"], ["word_embeddings"]], ids=str)
@pytest.mark.parametrize("way", ["plain", "shared", "folded before", "in chunks", "packed"])
@torch.no_grad()
def test_an_adapter_is_not_bypassed(way, targets, monkeypatch):
    monkeypatch.setattr(modeling_wave, "SHARED_WIDTH", 1 if way == "shared" else 128)
    monkeypatch.setattr(modeling_wave, "SHARED_ROWS", 10.0)
    model = build()
    untouched = build()(**batch()).logits
    if way == "folded before":
        model.fold_()
    adapted = wrap(model, target_modules=targets)
    if way == "in chunks":
        model.config.chunk_length = 7
    inputs = batch()
    if way == "packed":
        rows = inputs["input_ids"][inputs["attention_mask"] == 1]
        lengths = inputs["attention_mask"].sum(dim=1)
        inputs = {"input_ids": rows[None], "cu_seq_lens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0))}
    expected = compute_naively(adapted, **batch())
    assert (expected - untouched).abs().max() > 0.01
    torch.testing.assert_close(adapted(**inputs).logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
@pytest.mark.parametrize("targets", [None, ["word_embeddings"]], ids=str)
@torch.no_grad()
def test_a_merged_adapter_gives_equal_logits_and_leaves_a_plain_model(targets, folded, tmp_path):
    model = build(dtype=torch.float32)
    if folded:
        model.fold_()
    adapted = wrap(model, target_modules=targets)
    expected = compute_naively(adapted, **batch())
    merged = adapted.merge_and_unload()
    assert type(merged) is WaveForSequenceClassification
    torch.testing.assert_close(merged(**batch()).logits, expected, rtol=0, atol=1e-5)
    assert set(merged.state_dict()) == set(build().state_dict())
    assert (merged.wave.layers[0].mixing.folded is not None) == folded
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch()).logits, merged(**batch()).logits)


@torch.no_grad()
def test_a_folded_model_that_is_compiled_after_merging_has_the_merged_weights():
    adapted = wrap(build(dtype=torch.float32).fold_())
    expected = compute_naively(adapted, **batch())
    merged = torch.compile(adapted.merge_and_unload(), backend="eager", fullgraph=True)
    torch.testing.assert_close(merged(**batch()).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", ["variants", "word_embeddings"])
def test_folding_refuses_an_adapter_by_its_name(target):
    model = build()
    wrap(model, target_modules=[target])
    with pytest.raises(ValueError, match=rf"`fold_\(\)`.*`wave\..*{target}`"):
        model.fold_()
    assert not model.config.folded


def train(model: Any, folder: Path, **settings: Any) -> Any:
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4))
    rows = [{"input_ids": [2 + index % 3, 7, 5 + index % 3], "labels": index % 3} for index in range(24)]
    arguments = {
        "num_train_epochs": 4,
        "learning_rate": 0.05,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
    }
    trainer = Trainer(adapted, TrainingArguments(str(folder), **arguments | settings), train_dataset=rows)
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.5 * before
    return adapted


def test_trainer_trains_the_adapter_alone_and_the_same_with_gradient_checkpointing(tmp_path):
    torch.manual_seed(1)
    base = build(dtype=torch.float32, num_hidden_layers=2)
    states = []
    for checkpointing in (False, True):
        torch.manual_seed(2)
        adapted = train(copy.deepcopy(base), tmp_path, gradient_checkpointing=checkpointing)
        states.append({name: weight.detach().clone() for name, weight in adapted.named_parameters()})
        plain = base.state_dict()
        for name, weight in adapted.base_model.model.state_dict().items():
            if "lora_" not in name and "modules_to_save" not in name:
                original = name.replace(".base_layer", "").replace(".original_module", "")
                assert torch.equal(weight, plain[original]), name
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=0, atol=1e-6, msg=name)


# --- How it is shared -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base and an adapter in folders, as users have them, and the bits of the two together."""
    folder = tmp_path_factory.mktemp("peft")
    tokenizer = train_wave_tokenizer(TEXTS * 2, vocab_size=2000, show_progress=False)
    torch.manual_seed(0)
    config = WaveConfig(vocab_size=4000, hidden_size=64, num_labels=3, initializer_range=0.3, folded=True)
    WaveForSequenceClassification(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base")
    adapted = wrap(base)
    adapted.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return {"folder": folder, "bits": compute_bits(adapted, tokenizer, TEXTS), "tokenizer": tokenizer}


def load_adapter(model: Any, adapter: Path) -> Any:
    model.load_adapter(str(adapter))
    return model


def test_an_adapter_is_a_small_file(shared):
    folder = shared["folder"]
    adapter = (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    assert adapter < 0.05 * (folder / "base" / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    "load",
    [
        lambda base, adapter: PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(base), adapter
        ),
        lambda base, adapter: AutoPeftModelForSequenceClassification.from_pretrained(adapter),
        lambda base, adapter: AutoModelForSequenceClassification.from_pretrained(adapter),
        lambda base, adapter: load_adapter(AutoModelForSequenceClassification.from_pretrained(base), adapter),
        lambda base, adapter: pipeline("text-classification", model=str(adapter), device="cpu").model,
    ],
    ids=["PeftModel", "AutoPeftModel", "AutoModel", "load_adapter", "pipeline"],
)
def test_an_adapter_loads_onto_a_folded_base_with_the_same_bits(load, shared):
    model = load(shared["folder"] / "base", shared["folder"] / "adapter")
    assert compute_bits(model.eval(), shared["tokenizer"], TEXTS) == shared["bits"]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        # PEFT names what it looked for, but only where the adapter holds no head, which the model does have.
        ("FEATURE_EXTRACTION", r"Target modules.*'(query|value)'.*not found in the base model"),
        ("SEQ_CLS", r"No modules were targeted.*check your `target_modules`"),
    ],
)
@pytest.mark.parametrize("load", [PeftModel.from_pretrained, load_adapter], ids=["PeftModel", "load_adapter"])
def test_an_adapter_of_another_model_type_is_refused_and_the_model_stays(load, task, words, tmp_path):
    settings = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    bert = BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=3, **settings))
    get_peft_model(bert, LoraConfig(task_type=task)).save_pretrained(tmp_path)
    model = build(dtype=torch.float32)
    with pytest.raises(ValueError, match=words):
        load(model, tmp_path)
    assert set(model.state_dict()) == set(build().state_dict())
    assert torch.equal(model(**batch()).logits, build(dtype=torch.float32)(**batch()).logits)


def test_an_adapter_of_another_size_is_refused_by_what_does_not_fit(shared):
    with pytest.raises(RuntimeError, match=r"size mismatch for .*variants\.lora_A.*64.*16"):
        PeftModel.from_pretrained(build(dtype=torch.float32), shared["folder"] / "adapter")


# --- Without the package ----------------------------------------------------------------------------------------------


def test_adapters_work_without_the_package_and_by_way_of_the_hub(shared, tmp_path):
    with LoopbackHub(token="hf_right") as hub:
        result = run_step(
            tmp_path,
            hub.url,
            "without_package",
            "adapt",
            with_package=False,
            folder=str(shared["folder"]),
            texts=TEXTS,
        )
        pushed = hub.files("tester/adapter")
    assert result["origin"] == "transformers_modules"
    assert result["targets"] == sorted(f"wave.layers.0.{name}" for name in MAPS)
    assert result["bits"] == {"PeftModel": shared["bits"], "AutoPeftModel": shared["bits"]}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(pushed)


# --- The example ------------------------------------------------------------------------------------------------------


def test_the_example_leaves_an_adapter_for_other_classes_and_overwrites_none(shared, tmp_path, monkeypatch, capsys):
    base, other = shared["folder"] / "base", tmp_path / "other.csv"
    write_csv(other, make_rows(60, seed=2, names=("space", "money")))
    monkeypatch.setattr(sys, "argv", ["lora.py", str(base), str(other), "--output", str(tmp_path / "adapter")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "'label': 'money'" in (out := capsys.readouterr().out) or "'label': 'space'" in out
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "already" in capsys.readouterr().err
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_the_example_without_peft_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "wave-network\[lora\]"'):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
