"""A trained model in 8-bit integers: close to the float one, whole after a save, and refused where it cannot work."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import finetune_small, make_rows, small_words, write_csv, write_data
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.modeling_wave import fused_wave
from wave_network.modeling_wave.embeddings_wave import WaveTokens
from wave_network.training.cli import main
from wave_network.training.int8 import int8_config

pytest.importorskip("torchao", reason='needs torchao: pip install "wave-network[int8]"')

TABLE = "wave.embeddings.word_embeddings.weight"
MAPS = {"wave.layers.0.mixing.variants.weight", "wave.layers.0.mixing.restore.weight"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model that can be folded, with positions and a feed-forward block that have parameters."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {"conv_kernel_size": 0, "position_embedding_type": "absolute", "intermediate_size": 24}
    return finetune_small(data, folder, **settings)


@pytest.fixture(scope="module")
def saved(run: Path) -> Path:
    """The same in int8, as a folder of its own."""
    folder = run.with_name("run-int8")
    load(run, quantization_config=int8_config()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(run).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the width from which on float projections are shared between equal tokens."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "wide"
    WaveForSequenceClassification(WaveConfig(vocab_size=300, hidden_size=256, num_labels=3)).save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> WaveForSequenceClassification:
    return AutoModelForSequenceClassification.from_pretrained(folder, **settings)


def make_batch(run: Path) -> dict[str, torch.Tensor]:
    texts = [row["text"] for row in make_rows(90, seed=5)]
    return AutoTokenizer.from_pretrained(run)(texts, padding=True, return_tensors="pt")


@torch.inference_mode()
def classify(model: WaveForSequenceClassification, batch: Any) -> torch.Tensor:
    return model(**batch).logits


# ---- What comes out


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)], ids=["both", "maps", "table"])
def test_logits_are_close_and_labels_the_same(run: Path, parts: tuple[bool, bool]) -> None:
    batch = make_batch(run)
    expected = classify(load(run), batch)
    logits = classify(load(run, quantization_config=int8_config(*parts)), batch)
    assert not torch.equal(logits, expected)
    # Each rounding is half of a 127th of the largest number of its row.
    assert (logits - expected).abs().max() < 0.02 * expected.abs().max()
    best = expected.topk(2).values
    is_clear = best[:, 0] - best[:, 1] > 0.04 * expected.abs().max()
    assert is_clear.sum() > 60
    assert torch.equal(logits.argmax(-1)[is_clear], expected.argmax(-1)[is_clear])


def test_the_maps_and_the_table_are_int8_in_memory_and_nothing_else_is(run: Path) -> None:
    parameters = dict(load(run, quantization_config=int8_config()).named_parameters())
    feed_forward = {f"wave.layers.0.feed_forward.{name}.weight" for name in ("up", "down")}
    quantized = {name for name, parameter in parameters.items() if type(parameter).__name__ == "Int8Tensor"}
    assert quantized == {TABLE} | MAPS | feed_forward
    for name in quantized:
        assert parameters[name].qdata.dtype == torch.int8
        assert parameters[name].scale.numel() == parameters[name].shape[0]
    assert all(type(parameters[name]) is nn.Parameter for name in parameters.keys() - quantized)


def test_the_table_never_becomes_floats(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchao.quantization import Int8Tensor

    model, batch = load(run, quantization_config=int8_config()), make_batch(run)
    table, expected = model.get_input_embeddings(), classify(model, batch)
    table.register_forward_hook(lambda module, ids, rows: None)  # then it has to be called
    assert torch.equal(classify(model, batch), expected)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("floats were made of the whole table")

    monkeypatch.setattr(Int8Tensor, "dequantize", refuse)
    classify(load(run, quantization_config=int8_config()), batch)
    with pytest.raises(AssertionError, match="whole table"):
        classify(model, batch)


@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_a_word_outside_of_the_table_is_refused(run: Path, wrong: int) -> None:
    with pytest.raises(IndexError, match="`input_ids` must lie in 0"):
        classify(load(run, quantization_config=int8_config()), {"input_ids": torch.tensor([[2, wrong]])})


def test_a_text_has_the_same_projection_in_every_batch(wide: Path) -> None:
    """A float projection is shared between equal tokens; of words and positions apart, int8 would round otherwise."""
    model = load(wide, quantization_config=int8_config())
    tokens = WaveTokens.check(torch.randint(1, 20, (8, 32)))
    with torch.inference_mode():
        hidden_states, lookups = model.wave.embeddings(tokens)
        mixing = model.wave.layers[0].mixing
        assert torch.equal(mixing.project(hidden_states, lookups), mixing.variants(hidden_states))


def test_it_compiles_into_one_graph(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = load(run, quantization_config=int8_config()), make_batch(run)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    # Compared with the form that it compiles: another one differs in a last digit, which the rounding of activations to
    # integers can make a whole step of.
    monkeypatch.setattr(fused_wave, "choose_form", lambda x_BLE, blocked, triton, traced: traced)
    torch.testing.assert_close(classify(compiled, batch), classify(model, batch), rtol=0, atol=1e-5)


# ---- Files


def test_a_save_is_small_and_loads_with_equal_logits(run: Path, saved: Path, wide: Path, tmp_path: Path) -> None:
    batch = make_batch(run)
    expected = classify(load(run, quantization_config=int8_config()), batch)
    again = load(saved)
    assert type(again.get_input_embeddings().weight).__name__ == "Int8Tensor"
    assert torch.equal(classify(again, batch), expected)
    # transformers cannot undo what it did to load this, and need not.
    again.save_pretrained(tmp_path / "twice", save_original_format=False)
    assert torch.equal(classify(load(tmp_path / "twice"), batch), expected)

    load(wide, quantization_config=int8_config()).save_pretrained(tmp_path / "wide")
    sizes = [Path(folder, "model.safetensors").stat().st_size for folder in (wide, tmp_path / "wide")]
    assert sizes[1] < 0.28 * sizes[0]


def test_predict_takes_the_folder(run: Path, saved: Path, tmp_path: Path) -> None:
    texts = write_csv(tmp_path / "texts.csv", [{"text": row["text"]} for row in make_rows(30, seed=7)])
    rows = []
    for folder in (run, saved):
        output = tmp_path / f"{folder.name}.csv"
        main(["predict", str(folder), "--file", str(texts), "--output", str(output), "--device", "cpu"])
        rows.append(list(csv.DictReader(output.open(encoding="utf-8"))))
    for row, other in zip(*rows, strict=True):
        assert float(other["probability"]) == pytest.approx(float(row["probability"]), abs=0.03)


# ---- What cannot be had


def test_fold_refuses_and_names_the_module(run: Path) -> None:
    with pytest.raises(ValueError, match=r"wave\.embeddings\.word_embeddings.*Int8Tensor"):
        load(run, quantization_config=int8_config()).fold_()
    with pytest.raises(ValueError, match=r"wave\.layers\.0\.mixing\.variants.*Int8Tensor"):
        load(run, quantization_config=int8_config(word_table=False)).fold_()


def test_a_folded_checkpoint_is_loaded_unfolded(run: Path, tmp_path: Path) -> None:
    load(run).fold_().save_pretrained(tmp_path)
    model, batch = load(tmp_path, quantization_config=int8_config()), make_batch(run)
    assert not model.config.folded
    assert torch.equal(classify(model, batch), classify(load(run, quantization_config=int8_config()), batch))


def test_training_is_refused(data: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        main(small_words(data, tmp_path / "run", model=str(saved)))
    assert error.value.code == 2
    assert "quantized" in capsys.readouterr().err


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"wave-network\[int8\]"):
        int8_config()
