"""Checkpoints of the first version load, compute and train as they did: frozen/make.py wrote what they are held to."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import wave_network  # noqa: F401

FROZEN = Path(__file__).parent / "frozen"
# Eight steps in float32: other machines have other kernels, which round in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}


@pytest.mark.parametrize("name", ["finetune", "recipe", "paper"])
def test_a_frozen_checkpoint_computes_and_trains_as_it_did(name):
    expected = load_file(FROZEN / name / "expected.safetensors")
    batches = [
        {key: expected[f"batch{step}.{key}"] for key in ("input_ids", "attention_mask", "labels")} for step in range(8)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(FROZEN / name)
    with torch.no_grad():
        torch.testing.assert_close(model(**batches[0]).logits, expected["logits"], rtol=1e-5, atol=1e-7)

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    torch.testing.assert_close(torch.tensor(losses, dtype=torch.float64), expected["losses"], rtol=1e-6, atol=0)
    state = model.state_dict()
    assert {f"after.{key}" for key in state} == {key for key in expected if key.startswith("after.")}
    for key, weight in state.items():
        torch.testing.assert_close(weight, expected[f"after.{key}"], **TOLERANCE, msg=lambda m, key=key: f"{key}: {m}")
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**batches[0]).logits, expected["logits_after"], rtol=1e-4, atol=1e-6)
