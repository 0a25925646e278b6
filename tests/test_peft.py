"""LoRA by PEFT: which maps it adapts, that chunks and packing do not bypass it, and what training leaves alone."""

import copy
from typing import Any

import peft
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from wave_network import WaveConfig, WaveForMaskedLM, WaveForSequenceClassification

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_labels": 3, "hidden_dropout_prob": 0.0, "initializer_range": 0.3}
MAPS = ["variants", "restore"]


def build(cls: Any = WaveForSequenceClassification, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    torch.manual_seed(0)
    return cls(WaveConfig(**SMALL | settings)).to(dtype).eval()


def wrap(model: Any, **settings: Any) -> Any:
    """The model with an adapter that changes what it says, as if it had been trained."""
    torch.manual_seed(1)
    lora = LoraConfig(**{"task_type": "SEQ_CLS", "target_modules": MAPS, "init_lora_weights": False} | settings)
    return get_peft_model(model, lora).to(model.dtype).eval()


def batch(length: int = 20) -> dict[str, torch.Tensor]:
    input_ids = torch.randint(1, 40, (3, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(input_ids)
    mask[0, length // 2 :] = mask[1, : length // 3] = 0
    return {"input_ids": input_ids * mask, "attention_mask": mask}


def merge_by_hand(adapted: Any) -> Any:
    """A plain model into whose weights the adapter is multiplied: `W + scaling B A`."""
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
    return plain


@pytest.mark.parametrize(("cls", "more"), [(WaveForSequenceClassification, set()), (WaveForMaskedLM, {"transform"})])
def test_all_linear_adapts_every_map_but_the_head(cls, more):
    model = build(cls, intermediate_size=8, num_hidden_layers=2)
    adapted = wrap(model, task_type="SEQ_CLS" if not more else None, target_modules="all-linear")
    maps = ("mixing.variants", "mixing.restore", "feed_forward.up", "feed_forward.down")
    assert set(adapted.targeted_module_names) == more | {f"wave.layers.{n}.{name}" for n in (0, 1) for name in maps}


@pytest.mark.parametrize("targets", [MAPS, ["variants", "word_embeddings"]], ids=str)
@torch.no_grad()
def test_an_adapter_is_not_bypassed_and_merges(targets, tmp_path):
    adapted = wrap(build(num_hidden_layers=2, conv_kernel_size=3), target_modules=targets)
    plain, inputs = merge_by_hand(adapted), batch()
    expected = plain(**inputs).logits
    assert (expected - build(num_hidden_layers=2, conv_kernel_size=3)(**inputs).logits).abs().max() > 0.01
    torch.testing.assert_close(adapted(**inputs).logits, expected, rtol=0, atol=1e-12)
    packed = {"input_ids": torch.arange(1, 13)[None], "cu_seq_lens": torch.tensor([0, 5, 12])}
    torch.testing.assert_close(adapted(**packed).logits, plain(**packed).logits, rtol=0, atol=1e-12)
    adapted.base_model.model.config.chunk_length = 7
    torch.testing.assert_close(adapted(**inputs).logits, expected, rtol=0, atol=1e-12)
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = WaveForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=0, atol=1e-12)


def test_trainer_trains_the_adapter_alone(tmp_path):
    base = build(dtype=torch.float32)
    base.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(
        WaveForSequenceClassification.from_pretrained(tmp_path / "base"),
        LoraConfig(task_type="SEQ_CLS", target_modules=MAPS),
    )
    rows = [{"input_ids": row, "labels": index % 3} for index, row in enumerate(batch()["input_ids"])]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=3, learning_rate=0.1, report_to="none", use_cpu=True, save_strategy="no"
    )
    Trainer(adapted, arguments, train_dataset=rows).train()
    adapted.save_pretrained(tmp_path / "adapter")
    before = base.state_dict()
    for name, weight in adapted.base_model.model.state_dict().items():
        if "lora_B" in name:
            assert weight.abs().max() > 0
        elif "base_layer" in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")])
    expected = adapted.eval()(**batch()).logits
    again = WaveForSequenceClassification.from_pretrained(tmp_path / "base")
    for loaded in (
        PeftModel.from_pretrained(again, tmp_path / "adapter"),
        AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter"),
    ):
        assert torch.equal(loaded.eval()(**batch()).logits, expected)
