"""`wave-network export`: files that compute what their model computes, run without it, or are not written at all."""

import csv
import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import WORDS, finetune_small, make_rows, write_csv, write_data
from test_predict import AWKWARD
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    pipeline,
)

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.export import ExportedClassifier
from wave_network.export import checks as checks_module
from wave_network.export import convert as convert_module
from wave_network.export import export as export_module
from wave_network.export import runtime as runtime_module
from wave_network.export.card import show
from wave_network.export.checks import Difference, compare, measure_agreement
from wave_network.export.export import ExportArguments, export_model
from wave_network.export.int8 import quantize_onnx, quantize_tables
from wave_network.training.cli import main
from wave_network.training.data import read_texts

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason='needs pip install "wave-network[onnx]"')
pytest.importorskip("transformers.exporters.metadata", reason="needs transformers 5.23 or newer")

ROOT = Path(export_module.__file__).parents[1]
IN_FOLDER = {
    "README.md",
    "config.json",
    "export.json",
    "handler.py",
    "model.onnx",
    "requirements.txt",
    "runtime.py",
    "tokenizer.json",
    "tokenizer_config.json",
}
# Everything of ours, and what the runtime is to do without, is hidden from a process that starts with this.
ALONE = """
import sys
for name in ("torch", "transformers", "wave_network", "safetensors", "pandas", "pyarrow", "datasets"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of onnxruntime wait in a loop, which takes time from all tests beside these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_module, "count_cores", lambda: 1)
        patch.setattr(convert_module, "count_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_wave_tokenizer((row["text"] for row in make_rows(60, seed=0)), 200, show_progress=False)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Texts of many lengths, one of them empty, one far longer than a model reads."""
    texts = [row["text"] for row in make_rows(40, seed=2)]
    texts[7], texts[21] = "", 'a "quoted", text\nof two lines, ÄÖÜ 漢字 🙂'
    texts[20] = " ".join(word for words in WORDS.values() for word in words) * 40
    return texts


def save_model(folder: Path, tokenizer: Any, **settings: Any) -> Path:
    """A classifier with random weights, biases included, large enough that its results differ from text to text."""
    torch.manual_seed(1)
    labels = dict(enumerate(AWKWARD))
    config = WaveConfig(vocab_size=len(tokenizer), hidden_size=16, id2label=labels, initializer_range=0.5, **settings)
    loaded = WaveForSequenceClassification(config)
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "plain", tokenizer)


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    return export(model)


@pytest.fixture(scope="module")
def bert(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = dict(enumerate(AWKWARD))
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.5, id2label=labels, **settings
    )
    folder = tmp_path_factory.mktemp("models") / "bert"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def export(model: Path, **settings: Any) -> Path:
    return export_model(ExportArguments(str(model), **{"report": False} | settings))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load_eager(folder: Path) -> WaveForSequenceClassification:
    """The readable operations in float64: what every other form is an approximation of."""
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, wave_implementation="eager")
    return loaded.double().eval()


def reference_logits(model: Path, texts: list[Any], max_length: int | None = None) -> np.ndarray:
    """Each text alone through transformers."""
    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForSequenceClassification.from_pretrained(model)
    logits = []
    for text in texts:
        parts = ([part] for part in (text if isinstance(text, tuple) else (text,)))
        batch = tokenizer(*parts, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            logits.append(loaded(**batch).logits[0].numpy())
    return np.array(logits)


def assert_same_as_torch(folder: Path, model: Path, texts: list[Any]) -> None:
    """Each text in the company of the others, against the text alone."""
    classifier = ExportedClassifier(folder)
    logits = classifier.logits(texts)
    np.testing.assert_allclose(logits, reference_logits(model, texts, classifier.max_length), rtol=0, atol=1e-5)
    assert len({tuple(row) for row in logits.round(3).tolist()}) > len(texts) / 3  # else nothing was tested


# ---- What is written


def test_a_label_cannot_break_the_card():
    assert show("a\n# heading <script>") == "a # heading &lt;script&gt;"


def test_the_folder_is_whole_and_says_nothing_of_this_machine(model: Path, exported: Path):
    assert exported == model.with_name("plain-onnx")
    assert {file.name for file in exported.iterdir()} == IN_FOLDER
    for file in exported.iterdir():
        content = file.read_bytes()
        assert str(model.parent).encode() not in content, file.name
        assert str(ROOT).encode() not in content, file.name
    config = json.loads((exported / "config.json").read_text())
    assert [config["id2label"][str(index)] for index in range(3)] == AWKWARD
    assert "auto_map" not in config
    card = (exported / "README.md").read_text()
    for line in ("pipeline_tag: text-classification", "| texts with the same label | 100.00 % |", AWKWARD[1]):
        assert line in card
    assert list(model.parent.glob(".*")) == []


def test_it_runs_alone(model: Path, exported: Path, texts: list[str], tmp_path: Path):
    """The command of the folder, where neither torch nor transformers can be imported, writes what `predict` writes."""
    file = write_csv(tmp_path / "texts.csv", [{"id": index, "text": text} for index, text in enumerate(texts)])
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    code = f"{ALONE}\nsys.argv = ['runtime.py', {str(file)!r}]\nimport runpy\n"
    code += f"runpy.run_path({str(moved / 'runtime.py')!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    output = tmp_path / "texts.csv.predictions.csv"
    assert result.stdout == f"Written: {output}\n"
    found = read_rows(output)
    main(["predict", str(model), "--file", str(file), "--output", str(tmp_path / "torch.csv"), "--device", "cpu"])
    expected = read_rows(tmp_path / "torch.csv")
    assert [list(row) for row in found] == [list(row) for row in expected]
    assert len({row["label"] for row in found}) > 1
    for row, other in zip(found, expected, strict=True):
        assert (row["row"], row["label"]) == (other["row"], other["label"])
        for name in row.keys() - {"row", "label"}:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-5)


def test_logits_are_those_of_the_model(model: Path, exported: Path, texts: list[str]):
    assert_same_as_torch(exported, model, texts)


def test_pairs_are_read_as_pairs(model: Path, exported: Path, texts: list[str]):
    pairs = list(zip(texts[:20], reversed(texts[:20]), strict=True))
    assert_same_as_torch(exported, model, [*pairs, "goal match"])


def test_every_option_of_a_wave_network(tokenizer: Any, texts: list[str], tmp_path: Path):
    settings = {
        "conv_kernel_size": 3,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "type_vocab_size": 2,
        "position_embedding_type": "absolute",
        "max_position_embeddings": 64,
        "magnitude": "rms",
        "restore": "magnitude",
        "classifier_pooling": "cls",
    }
    model = save_model(tmp_path / "full", tokenizer, **settings)
    folder = export(model)
    classifier = ExportedClassifier(folder)
    assert classifier.max_length == 64
    assert classifier.graph.inputs == ["input_ids", "attention_mask", "token_type_ids"]
    assert_same_as_torch(folder, model, [*texts, *zip(texts[:9], texts[9:18], strict=True)])
    dog, man = classifier.logits(["goal match striker", "striker match goal"])
    assert np.abs(dog - man).max() > 1e-3  # the convolution is there


def test_a_folded_checkpoint_without_positions(tokenizer: Any, texts: list[str], tmp_path: Path):
    settings = {"position_embedding_type": "none", "wave_operation": "interference", "classifier_pooling": "max"}
    model = save_model(tmp_path / "plain", tokenizer, chunk_length=20, **settings)
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    loaded.fold_().save_pretrained(tmp_path / "folded")
    tokenizer.save_pretrained(tmp_path / "folded")
    # The model's own limit is none; a longer text than it reads in one pass, and than it was traced with, is one here.
    folder = export(tmp_path / "folded", max_length=700)
    assert ExportedClassifier(folder).max_length == 700
    assert_same_as_torch(folder, model, texts)


def test_a_model_of_another_kind(bert: Path, texts: list[str]):
    folder = export(bert)
    classifier = ExportedClassifier(folder)
    assert (classifier.max_length, classifier.graph.inputs[-1]) == (64, "token_type_ids")
    assert_same_as_torch(folder, bert, [*texts, ("goal match", "bank")])
    assert "(BertForSequenceClassification)" in (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["openvino", "executorch"])
def test_other_runtimes(model: Path, texts: list[str], kind: str):
    pytest.importorskip(kind, reason=f'needs pip install "wave-network[{kind}]"')
    folder = export(model, format=kind)
    assert folder == model.with_name(f"plain-{kind}")
    # More texts than a batch of ExecuTorch may have.
    assert_same_as_torch(folder, model, texts)


# ---- The graph, where rounding bites


def run_graph(folder: Path, ids: list[list[int]], mask: list[list[int]] | None = None) -> np.ndarray:
    ids_BL = np.array(ids)
    mask_BL = np.ones_like(ids_BL) if mask is None else np.array(mask)
    return ExportedClassifier(folder).graph({"input_ids": ids_BL, "attention_mask": mask_BL})


@pytest.fixture(scope="module")
def dominated(model: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model and its graph with one word ten thousand times as large as the others."""
    import onnx

    source = shutil.copytree(model, tmp_path_factory.mktemp("dominated") / "model")
    folder = shutil.copytree(exported, source.with_name("exported"))
    loaded = AutoModelForSequenceClassification.from_pretrained(source)
    with torch.no_grad():
        loaded.get_input_embeddings().weight[50] *= 1e4
    loaded.save_pretrained(source)
    graph = onnx.load(folder / "model.onnx")
    (table,) = (each for each in graph.graph.initializer if each.name.endswith("word_embeddings.weight"))
    table.CopyFrom(onnx.numpy_helper.from_array(loaded.get_input_embeddings().weight.detach().numpy(), table.name))
    onnx.save(graph, folder / "model.onnx")
    return source, folder


@pytest.mark.parametrize("ids", [[50, 60, 61, 62], [60, 61, 50, 62, 63], [50, 50, 60], [50], [60], [60, 60]])
def test_a_dominant_token_and_a_single_one_are_exact(dominated: tuple[Path, Path], ids: list[int]):
    source, folder = dominated
    with torch.inference_mode():
        expected = load_eager(source)(input_ids=torch.tensor([ids])).logits.numpy()
    found = run_graph(folder, [ids])
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    # Beside a longer text, with padding on either side.
    room = [0] * (6 - len(ids))
    rows = [[60, 61, 62, 63, 64, 65], ids + room, room + ids]
    mask = [[1] * 6, [1] * len(ids) + room, room + [1] * len(ids)]
    for row in run_graph(folder, rows, mask)[1:]:
        assert np.abs(row - expected[0]).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_padding_alone_gives_the_bias_of_the_classifier(model: Path, exported: Path):
    bias = AutoModelForSequenceClassification.from_pretrained(model).classifier.bias.tolist()
    for rows in (1, 3):
        for found in run_graph(exported, [[0] * 5] * rows, [[0] * 5] * rows).tolist():
            assert found == pytest.approx(bias, abs=1e-6)


# ---- 8-bit integers


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned something, with the shape of that of `make demo`."""
    root = tmp_path_factory.mktemp("trained")
    folder = finetune_small(write_data(root), root / "run", hidden_size=128, num_train_epochs=5)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    loaded.resize_token_embeddings(8192)
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(trained: Path) -> tuple[Path, int]:
    """It in int8, and the size of the float file that this was made from."""
    file, sizes = write_csv(trained / "real.csv", [{"text": row["text"]} for row in make_rows(300, seed=9)]), []

    def quantize(source: Path, target: Path) -> None:
        sizes.append(source.stat().st_size)
        quantize_onnx(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "quantize_onnx", quantize)
        patch.setattr(checks_module.measure_speed, "__defaults__", (0.0,))
        return export(trained, format="onnx-int8", calibration=str(file), report=True), sizes[0]


def test_files_are_small(trained: Path, small: tuple[Path, int]):
    weights = (trained / "model.safetensors").stat().st_size
    assert small[1] <= 1.1 * weights
    assert (small[0] / "model.onnx").stat().st_size <= 0.3 * weights
    assert not (small[0] / "float.onnx").exists()


def test_int8_keeps_its_labels(trained: Path, small: tuple[Path, int]):
    checks = json.loads((small[0] / "export.json").read_text())["checks"]
    assert (checks["texts"], checks["texts_from"]) == (300, "real.csv")
    assert checks["agreement"] >= 0.99
    assert checks["speed"].keys() == {"batch_1", "batch_32"}
    texts = [row["text"] for row in make_rows(100, seed=10)]
    found, expected = ExportedClassifier(small[0]).logits(texts), reference_logits(trained, texts)
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.99
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_each_row_of_a_table_has_its_own_scale():
    from onnx import TensorProto, checker, helper, numpy_helper

    rows = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    rows[3] *= 1e6
    rows[4] = 0
    ids = np.arange(200)
    tables = [numpy_helper.from_array(rows, name) for name in ("table", "shared")]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["looked_up"]),
            helper.make_node("Gather", ["shared", "ids"], ["looked_up_too"]),
            helper.make_node("Transpose", ["shared"], ["shared_turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["looked_up_too", "shared_turned"], ["products"]),
        ],
        "lookups",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["count"])],
        [
            helper.make_tensor_value_info("looked_up", TensorProto.FLOAT, ["count", 16]),
            helper.make_tensor_value_info("products", TensorProto.FLOAT, ["count", 200]),
        ],
        tables,
    )
    quantize_tables(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    names = {tensor.name: tensor.data_type for tensor in graph.initializer}
    # What something else than a look-up reads stays as it is.
    assert names == {"shared": TensorProto.FLOAT, "table.integers": TensorProto.INT8, "table.scales": TensorProto.FLOAT}
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, products = session.run(None, {"ids": ids})
    steps = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - rows) <= 0.5001 * steps).all()
    assert found[4].tolist() == [0] * 16
    np.testing.assert_allclose(products, rows @ rows.T, rtol=1e-4, atol=1e-2)


# ---- What is no export of the model is not left behind


@pytest.fixture
def convert(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """In place of tracing, the finished graph, to be spoiled; it takes no time."""

    def replace(spoil: Callable[[Path], None] = lambda folder: None) -> None:
        def copy(source: Any, kind: str, folder: Path) -> dict[str, Any]:
            for name in ("model.onnx", "export.json"):
                shutil.copy(exported / name, folder)
            spoil(folder)
            return json.loads((exported / "export.json").read_text())["classifier"] | {"format": kind}

        monkeypatch.setattr(export_module, "convert", copy)
        monkeypatch.setattr(checks_module.measure_speed, "__defaults__", (0.0,))

    return replace


def change_bias(folder: Path) -> None:
    import onnx

    graph = onnx.load(folder / "model.onnx")
    (bias,) = (each for each in graph.graph.initializer if each.name == "classifier.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1e-4), bias.name))
    onnx.save(graph, folder / "model.onnx")


def fix_length(folder: Path) -> None:
    """A graph for the length that it was traced with alone."""
    import onnx

    graph = onnx.load(folder / "model.onnx")
    for node in graph.graph.input:
        node.type.tensor_type.shape.dim[1].dim_value = 16
    onnx.save(graph, folder / "model.onnx")


@pytest.mark.parametrize(
    ("spoil", "message"), [(change_bias, "is not the model: on a batch of"), (fix_length, "graph fails on a batch of")]
)
def test_a_graph_that_is_not_the_model(convert: Any, model: Path, tmp_path: Path, spoil: Any, message: str):
    convert(spoil)
    with pytest.raises(ValueError, match=message):
        export(model, output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_is_not_the_model_s(
    convert: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert()
    write_files = export_module.write_files

    def write_other(source: Any, settings: Any, folder: Path) -> None:
        write_files(source, settings, folder)
        file = folder / "tokenizer.json"
        file.write_text(file.read_text().replace('"lowercase": true', '"lowercase": false'))

    monkeypatch.setattr(export_module, "write_files", write_other)
    with pytest.raises(ValueError, match=r"tokenizer\.json does not say.*'Tab"):
        export(model, output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_labels_that_int8_changes(convert: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    convert()
    monkeypatch.setattr(export_module, "measure_agreement", lambda *_: 0.98)
    settings = {"format": "onnx-int8", "output_dir": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=r"98\.0% of 512 texts.*99%.*--calibration.*--allow_disagreement"):
        export(model, **settings)
    assert list(tmp_path.iterdir()) == []
    checks = json.loads((export(model, allow_disagreement=True, **settings) / "export.json").read_text())["checks"]
    assert checks["agreement"] == 0.98


def test_an_export_is_replaced_whole_or_not_at_all(
    convert: Any, model: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert()
    output = shutil.copytree(exported, tmp_path / "out")
    (output / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="--overwrite"):
        export(model, output_dir=str(output))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export_module, "check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(model, output_dir=str(output), overwrite=True)
    replace = export_module.os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(source, "model.onnx").exists() and not Path(source, "mine.txt").exists():
            raise OSError("no room")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(export_module.os, "replace", fail)
        with pytest.raises(OSError, match="no room"):
            export(model, output_dir=str(output), overwrite=True)
    assert {file.name for file in output.iterdir()} == IN_FOLDER | {"mine.txt"}
    export(model, output_dir=str(output), overwrite=True)
    assert {file.name for file in output.iterdir()} == IN_FOLDER
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_comes_while_a_model_is_exported_is_not_lost(tmp_path: Path, overwrite: bool):
    target = tmp_path / "out"

    def write() -> None:
        with export_module.open_folder(target, overwrite) as folder:
            (folder / "export.json").write_text("{}")
            target.mkdir()
            (target / "precious.txt").touch()

    with pytest.raises(FileExistsError, match=r"'.*out' .*so that the export is '.*out-\w+'") as raised:
        write()
    kept = Path(str(raised.value).split("'")[-2])
    assert [file.name for file in target.iterdir()] == ["precious.txt"]
    assert [file.name for file in kept.iterdir()] == ["export.json"]
    assert sorted(tmp_path.iterdir()) == [target, kept]


def test_in_place_of_a_link_comes_the_export_and_what_it_leads_to_stays(
    convert: Any, model: Path, exported: Path, tmp_path: Path
):
    convert()
    elsewhere, link = shutil.copytree(exported, tmp_path / "elsewhere"), tmp_path / "out"
    link.symlink_to(elsewhere)
    export(model, output_dir=str(link), overwrite=True)
    assert not link.is_symlink()
    assert [{file.name for file in folder.iterdir()} for folder in (link, elsewhere)] == [IN_FOLDER] * 2
    assert sorted(tmp_path.iterdir()) == [elsewhere, link]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_that_leads_nowhere_is_not_replaced(model: Path, tmp_path: Path, overwrite: bool):
    (tmp_path / "out").symlink_to(tmp_path / "missing")
    with pytest.raises(FileExistsError, match="The output"):
        export(model, output_dir=str(tmp_path / "out"), overwrite=overwrite)
    assert (tmp_path / "out").is_symlink()


def test_what_is_no_export_is_not_replaced(model: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="holds no export"):
        export(model, output_dir=str(tmp_path / "out"), overwrite=True)
    with pytest.raises(FileExistsError, match="own folder"):
        export(model, output_dir=str(model / "." / ""), overwrite=True)
    assert (model / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        ("onnx", "onnxscript", "onnx"),
        ("onnx-int8", "onnxruntime", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("executorch", "executorch", "executorch"),
        ("onnx", "transformers.exporters", "onnx"),
    ],
)
def test_a_missing_package_is_named(
    model: Path, kind: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'pip install "wave-network\[{extra}\]"'):
        export(model, format=kind, output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, r"`format` must be one of .*'tflite'"),
        ({"max_length": 1}, r"`max_length` must be at least 2, got 1"),
        ({"model": "missing/model/somewhere"}, "missing/model/somewhere"),
        ({"calibration": "missing.csv"}, r"missing\.csv"),
    ],
)
def test_bad_settings_are_named(model: Path, tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises((ValueError, OSError), match=message):
        export(**{"model": model, "output_dir": str(tmp_path / "out")} | settings)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_no_trained_classifier(bert: Path, tokenizer: Any, tmp_path: Path):
    loaded = BertForSequenceClassification.from_pretrained(bert)
    BertForMaskedLM(loaded.config).save_pretrained(tmp_path / "masked")
    tokenizer.save_pretrained(tmp_path / "masked")
    with pytest.raises(ValueError, match=r"no trained classifier.*classifier\.bias"):
        export(tmp_path / "masked")
    with pytest.raises(ValueError, match="`max_length` must be 2 to 64"):
        export(bert, max_length=65, output_dir=str(tmp_path / "out"))
    shutil.copytree(bert, tmp_path / "quantised")
    config = json.loads((bert / "config.json").read_text()) | {"quantization_config": {"quant_method": "torchao"}}
    (tmp_path / "quantised" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="quantised"):
        export(tmp_path / "quantised")


@pytest.mark.parametrize("content", ['{"version": "1.0", "trunc', "{}", "[]"])
def test_a_damaged_tokenizer_is_refused_with_the_name_of_its_model(model: Path, tmp_path: Path, content: str):
    damaged = shutil.copytree(model, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"damaged' cannot be read, its tokenizer\.json"):
        export(damaged)


def test_a_row_of_padding_is_compared_where_the_model_knows_an_answer():
    def respects(batch: dict[str, np.ndarray]) -> np.ndarray:
        return (batch["input_ids"] * batch["attention_mask"]).sum(axis=1, keepdims=True).astype(np.float32)

    def attends(batch: dict[str, np.ndarray]) -> np.ndarray:
        rest = np.where(batch["attention_mask"].any(axis=1), 0, batch["input_ids"].sum(axis=1))
        return respects(batch) + rest[:, None].astype(np.float32)

    def zero(batch: dict[str, np.ndarray]) -> np.ndarray:
        return np.where(batch["attention_mask"].any(axis=1, keepdims=True), respects(batch), 1)

    batch = {"input_ids": np.array([[3, 4], [1, 0]]), "attention_mask": np.array([[1, 1], [0, 0]])}
    assert compare(zero, attends, iter([("two", batch)])).difference == 0
    with pytest.raises(ValueError, match="on a batch of two"):
        compare(zero, respects, iter([("two", batch)]))


def test_measures_are_of_what_they_say():
    logits = np.array([[1.0, 2.0], [3.0, -4.0], [np.nan, 1.0]])
    assert Difference.between(logits, logits.copy()) == Difference(0.0, 4.0)
    assert Difference.between(logits + 0.5, logits).difference == 0.5
    assert Difference.between(np.zeros((3, 2)), logits).difference == np.inf
    assert measure_agreement("single_label_classification", logits[:2], logits[:2, ::-1]) == 0
    assert measure_agreement("multi_label_classification", logits[:2], logits[:2] * [1, -1]) == 0
    values = np.array([[0.0], [1.0], [100.0]])
    assert measure_agreement("regression", values + np.array([[0.9], [1.1], [0]]), values) == pytest.approx(2 / 3)
    same = np.array([[200.0], [200.0]])  # without a range it is a hundredth of the value
    assert measure_agreement("regression", same + np.array([[1.9], [2.1]]), same) == 0.5
    assert measure_agreement("regression", np.array([[0.009]]), np.array([[0.0]])) == 1


def test_a_speed_is_that_of_as_many_texts_at_a_time_as_it_says(classifier: ExportedClassifier, monkeypatch: Any):
    asked: list[list[str]] = []
    monkeypatch.setattr(ExportedClassifier, "logits", lambda _, texts: asked.append(list(texts)))
    checks_module.measure_speed(classifier, ["a", "b", "c"], batch=4, seconds=0)
    assert set(map(tuple, asked)) == {("a", "b", "c", "a")}


# ---- The classifier


@pytest.fixture(scope="module")
def classifier(exported: Path) -> ExportedClassifier:
    return ExportedClassifier(exported, threads=1)


def test_labels_scores_and_lengths(classifier: ExportedClassifier, model: Path, texts: list[str]):
    assert (classifier.labels, classifier.max_length, classifier.format) == (AWKWARD, 512, "onnx")
    expected = pipeline("text-classification", model=str(model), device="cpu")
    for top_k in (1, 2, None):
        reference = expected(texts[:10], top_k=top_k, truncation=True)
        for found, scores in zip(classifier.classify(texts[:10], top_k=top_k), reference, strict=True):
            assert [score["label"] for score in found] == [score["label"] for score in scores]
            assert [score["score"] for score in found] == pytest.approx([score["score"] for score in scores], abs=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(model)
    counts = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert classifier.count_tokens(texts) == counts
    assert max(counts) > 512
    assert classifier.classify([]) == classifier.count_tokens([]) == []
    assert classifier.logits([]).shape == (0, 3)


@pytest.mark.parametrize("text", ["half \ud83d", "zero \0 byte", "\U0010ffff", "a" * 100_000, "\n\t "])
def test_no_text_does_harm(classifier: ExportedClassifier, text: str):
    assert np.isfinite(classifier.logits([text, "goal"])).all()
    assert classifier.logits([text, "goal"])[1] == pytest.approx(classifier.logits(["goal"])[0], abs=1e-5)


@pytest.mark.parametrize("texts", ["one text", None, [1], ["a", None], [("a",)], [["a", "b"]], [b"bytes"], {"a": 1}])
def test_what_is_no_list_of_texts(classifier: ExportedClassifier, texts: Any):
    for method in (classifier.classify, classifier.logits, classifier.count_tokens):
        with pytest.raises(TypeError, match="`texts` must"):
            method(texts)


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"top_k": "2"}, {"top_k": True}, {"function_to_apply": "tanh"}])
def test_bad_arguments_are_named(classifier: ExportedClassifier, settings: dict[str, Any]):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must"):
        classifier.classify(["goal"], **settings)


def test_bad_folders_are_named(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="`threads` must be at least 1, got 0"):
        ExportedClassifier(exported, threads=0)
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json"):
        ExportedClassifier(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        ExportedClassifier(exported)


DAMAGED = {
    "model.onnx": {b"": r"The graph '.*model\.onnx' cannot be loaded", b"cut": r"The graph '.*model\.onnx' cannot be"},
    "tokenizer.json": {
        b"{}": r"The tokenizer '.*tokenizer\.json' cannot be read",
        b'{"version"': r"The tokenizer '.*tokenizer\.json' cannot be read",
    },
    "export.json": {
        b"{}": r"The file '.*export\.json' must have `classifier`",
        b"[]": r"The file '.*export\.json' must have `classifier`",
        b'{"classifier": {}}': r"The file '.*export\.json' must have `classifier\.format`",
        b'{"classifier": ': r"The file '.*export\.json' is cut short, or not JSON",
    },
    "config.json": {
        b"{}": r"The file '.*config\.json' must have `id2label`",
        b'{"id2label": {"1": "one"}}': r"The file '.*config\.json' must have `id2label\.0`",
        b"\xff": r"The file '.*config\.json' is cut short, or not JSON",
    },
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [(name, content, message) for name, each in DAMAGED.items() for content, message in each.items()],
)
def test_a_damaged_file_is_named(exported: Path, tmp_path: Path, name: str, content: bytes, message: str):
    folder = shutil.copytree(exported, tmp_path / "damaged")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ExportedClassifier(folder)


def test_a_format_that_is_not_known_is_named(exported: Path, tmp_path: Path):
    folder = shutil.copytree(exported, tmp_path / "other")
    manifest = (folder / "export.json").read_text()
    (folder / "export.json").write_text(manifest.replace('"format": "onnx"', '"format": "tflite"'))
    with pytest.raises(ValueError, match=r"`classifier\.format` of '.*export\.json' must be one of .*got 'tflite'"):
        ExportedClassifier(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "export.json", "config.json"])
def test_a_missing_file_is_named(exported: Path, tmp_path: Path, name: str):
    folder = shutil.copytree(exported, tmp_path / "damaged")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"damaged' is not what .*: it lacks {name}"):
        ExportedClassifier(folder)


def test_threads_may_share_it(classifier: ExportedClassifier, texts: list[str]):
    expected, results = classifier.logits(texts), {}
    threads = [
        threading.Thread(target=lambda shift=shift: results.update({shift: classifier.logits(texts[shift:])}))
        for shift in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for shift in range(6):
        np.testing.assert_allclose(results[shift], expected[shift:], atol=1e-5)


def test_a_tokenizer_that_pads_and_cuts_on_the_left(exported: Path, tmp_path: Path):
    folder = shutil.copytree(exported, tmp_path / "left")
    manifest = json.loads((folder / "export.json").read_text())
    manifest["classifier"] |= {"padding_side": "left", "truncation_side": "left", "max_length": 6}
    (folder / "export.json").write_text(json.dumps(manifest))
    batches = []
    left = ExportedClassifier(folder)
    run, left.graph = left.graph, lambda batch: batches.append(batch) or run(batch)
    whole = left.logits(["goal", "goal match striker referee league coach"])
    assert batches[0]["attention_mask"].tolist() == [[0, 0, 0, 1, 1, 1], [1] * 6]
    short = ExportedClassifier(exported).logits(["goal", "striker referee league coach"])
    assert whole == pytest.approx(short, abs=1e-5)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [("multi_label_classification", AWKWARD), ("regression", ["stars"]), (None, ["stars"])],
)
def test_other_problems(
    exported: Path, model: Path, texts: list[str], problem_type: str | None, labels: list[str], tmp_path: Path
):
    """The logits of the same graph, read as another problem, by `predict` and by the runtime."""
    import onnx

    file = write_csv(tmp_path / "texts.csv", [{"text": text} for text in texts])
    source, folder = shutil.copytree(model, tmp_path / "model"), shutil.copytree(exported, tmp_path / "exported")
    loaded = AutoModelForSequenceClassification.from_pretrained(model)
    loaded.config.problem_type, loaded.config.id2label = problem_type, dict(enumerate(labels))
    loaded.config.label2id = {label: index for index, label in enumerate(labels)}
    if len(labels) == 1:
        loaded.classifier.weight.data, loaded.classifier.bias.data = (
            part.data[:1].contiguous() for part in (loaded.classifier.weight, loaded.classifier.bias)
        )
    loaded.save_pretrained(source)
    graph = onnx.load(folder / "model.onnx")
    for tensor in graph.graph.initializer:
        if tensor.name.startswith("classifier."):
            values = loaded.state_dict()[tensor.name].numpy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(labels)
    onnx.save(graph, folder / "model.onnx")
    config = json.loads((folder / "config.json").read_text())
    config |= {"problem_type": problem_type, "id2label": {str(index): label for index, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config))

    main(["predict", str(source), "--file", str(file), "--output", str(tmp_path / "torch.csv"), "--device", "cpu"])
    runtime_module.main([str(file), "--folder", str(folder), "--output", str(tmp_path / "alone.csv")])
    expected, found = read_rows(tmp_path / "torch.csv"), read_rows(tmp_path / "alone.csv")
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.get("label") == other.get("label")
        for name in row.keys() - {"row", "label"}:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-4)
    scores = ExportedClassifier(folder).classify(texts[:1], top_k=None)[0]
    if len(labels) == 1:
        assert scores == [{"label": "stars", "score": pytest.approx(float(found[0]["stars"]), abs=1e-4)}]
    else:
        assert {score["label"]: score["score"] for score in scores} == pytest.approx(
            {label: float(found[0][f"probability_{label}"]) for label in labels}, abs=1e-5
        )


# ---- The command of the folder: files


GOOD_FILES = {
    "a.csv": "id,text\n1,one\n2,\n\n3,\"two, 'three'\nfour\"\n",
    "a.csv.gz": "Text,label\none,x\n",
    "pairs.tsv": "sentence1\tsentence2\tlabel\none\ttwo\t0\n",
    "odd.csv": "number,remark\n1,some words\n2,3\n",
    "a.jsonl": '{"text": "one"}\n\n{"text": null}\n{"id": 3}\n',
    "question.ndjson": '{"question": "who", "sentence": "he"}\n',
    "a.txt": "\ufeffone\r\n\n  two, three\rfour\n",
}
BAD_FILES = {
    "ragged.csv": b"id,text\n1,one\n2\n",
    "quote.csv": b'id,text\n1,"one\n',
    "two.csv": b"text,review\na,b\n",
    "numbers.csv": b"a,b\n1,2\n",
    "twice.csv": b"text,text\na,b\n",
    "empty.csv": b"",
    "header.csv": b"id,text\n",
    "list.jsonl": b"[1]\n",
    "broken.jsonl": b'{"text": \n',
    "number.jsonl": b'{"text": 3}\n',
    "zero.jsonl": b'{"text": 0}\n',
    "false.jsonl": b'{"text": false}\n',
    "nothing.jsonl": b'{"text": []}\n',
    "cut.txt.gz": gzip.compress(b"some text\n" * 50)[:-9],
    "plain.txt.gz": b"no gzip\n",
    "latin.txt": "ä\n".encode("latin-1"),
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_files_are_read_as_predict_reads_them(name: str, tmp_path: Path):
    content = GOOD_FILES[name].encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    rows = [row for rows in read_texts(tmp_path / name) for row in rows]
    expected = [tuple(row.values()) if len(row) == 2 else row["text"] for row in rows]
    assert [text for texts in runtime_module.read_texts(tmp_path / name, None) for text in texts] == expected


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_as_predict_refuses_them(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(BAD_FILES[name])
    for reader in (read_texts, lambda path: runtime_module.read_texts(path, None)):
        with pytest.raises(ValueError, match=rf"{name}|text_columns"):
            list(reader(tmp_path / name))


def test_columns_are_those_of_predict():
    from wave_network.training import data

    for name in ("TEXT_PAIRS", "TEXT_COLUMNS", "LABEL_COLUMNS", "NUMBER"):
        assert getattr(runtime_module, name) == getattr(data, name)


def test_the_command_refuses_in_one_line(exported: Path, tmp_path: Path):
    file = write_csv(tmp_path / "texts.csv", [{"text": "goal", "other": "bank"}])
    base = [str(file), "--folder", str(exported)]
    for words, message in [
        ([str(tmp_path / "no.csv"), *base[1:]], "There is no file"),
        ([str(exported / "model.onnx"), *base[1:]], "`file` must end in one of"),
        ([*base, "--text_columns", "body"], "`text_columns` must be .*'body'"),
        ([*base, "--batch_size", "0"], "`batch_size` must be at least 1, got 0"),
        ([*base, "--output", str(exported / "config.json")], "exists.*--overwrite"),
    ]:
        with pytest.raises(SystemExit, match=rf"^runtime\.py: \w+Error: .*{message}"):
            runtime_module.main(words)
    assert list(tmp_path.iterdir()) == [file]


def test_the_texts_are_not_overwritten_by_their_labels(exported: Path, tmp_path: Path):
    file, link = write_csv(tmp_path / "texts.csv", [{"text": "goal"}]), tmp_path / "link.csv"
    before = file.read_bytes()
    link.symlink_to(file)
    for output in (file, link):
        with pytest.raises(SystemExit, match=r"`output` must be another file than `file` \('.*texts\.csv'\), got"):
            runtime_module.main([str(file), "--folder", str(exported), "--output", str(output), "--overwrite"])
    assert file.read_bytes() == before


def test_chunks_batches_and_columns(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rows = [{"a": row["text"], "b": str(index), "c": "bank"} for index, row in enumerate(make_rows(11, seed=4))]
    file = write_csv(tmp_path / "texts.csv", rows)
    expected = ExportedClassifier(exported).logits([" ".join(row.values()) for row in rows]).argmax(-1)
    monkeypatch.setattr(runtime_module, "CHUNK", 4)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    words = [str(file), "--folder", str(exported), "--text_columns", "a", "b", "c", "--batch_size", "3"]
    runtime_module.main([*words, "--output", "-"])
    captured = capsys.readouterr()
    found = list(csv.DictReader(captured.out.splitlines()))
    assert [row["label"] for row in found] == [AWKWARD[index] for index in expected]
    assert captured.err.splitlines() == [f"Classifying: {count} texts" for count in (4, 8, 11)]


# ---- The handler


@pytest.fixture
def handler(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The handler as huggingface-inference-toolkit loads it."""
    monkeypatch.syspath_prepend(str(exported))
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", exported / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.EndpointHandler(str(exported))
    del sys.modules["runtime"]


PARAMETERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": None},
    {"function_to_apply": "sigmoid", "top_k": 3},
]


@pytest.fixture(scope="module")
def answer(model: Path) -> Any:
    return pipeline("text-classification", model=str(model), device="cpu")


def test_scores_of_large_logits_are_finite_and_warn_of_nothing(exported: Path):
    logits = np.array([[-200.0, -3.0, 0.0, 5.0, 200.0]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = ExportedClassifier(exported).to_scores(logits, "sigmoid")
    np.testing.assert_allclose(scores, torch.tensor(logits).sigmoid(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize(
    "inputs",
    ["goal match", ["goal match"], ["bank", "shares", "orbit"], [{"text": "goal", "text_pair": "bank"}]],
    ids=["text", "list of one", "list", "pair"],
)
def test_the_handler_answers_like_the_pipeline(handler: Any, answer: Any, inputs: Any, parameters: dict[str, Any]):
    expected = answer(inputs, **parameters)
    found = handler({"inputs": inputs, "parameters": parameters})
    assert found == json.loads(json.dumps(found))

    def flatten(result: Any) -> tuple[Any, list[float]]:
        if isinstance(result, list):
            parts = [flatten(each) for each in result]
            return [part[0] for part in parts], [score for part in parts for score in part[1]]
        return result["label"], [result["score"]]

    assert flatten(found)[0] == flatten(expected)[0]
    assert flatten(found)[1] == pytest.approx(flatten(expected)[1], abs=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("text", '"inputs"'),
        ({}, '"inputs"'),
        ({"inputs": ""}, "must not be empty texts, got '' at 0"),
        ({"inputs": ["goal", " \n"]}, "must not be empty texts, got ' .n' at 1"),
        ({"inputs": []}, "`inputs` must hold 1 to 256 texts, got 0"),
        ({"inputs": ["goal"] * 257}, "`inputs` must hold 1 to 256 texts, got 257"),
        ({"inputs": 3}, "`inputs` must be texts.*got 3 at 0"),
        ({"inputs": ["goal", None]}, "`inputs` must be texts.*got None at 1"),
        ({"inputs": [["goal", "bank"]]}, "`inputs` must be texts"),
        ({"inputs": {"text": "goal", "text_pair": 3}}, "`inputs` must be texts"),
        ({"inputs": "goal", "parameters": [1]}, "`parameters` must be"),
        ({"inputs": "goal", "parameters": {"temperature": 1}}, "`parameters` must be.*temperature"),
        ({"inputs": "goal", "parameters": {"top_k": 0}}, "`top_k` must be"),
        ({"inputs": "goal", "parameters": {"top_k": "all"}}, "`top_k` must be"),
        ({"inputs": "goal", "parameters": {"function_to_apply": "tanh"}}, "`function_to_apply` must be"),
        ({"inputs": "goal", "parameters": {"truncation": "no"}}, "`parameters.truncation` must be"),
        ({"inputs": ["a", "goal " * 600], "parameters": {"truncation": False}}, "at most 512 tokens, got 602 at 1"),
    ],
)
def test_the_handler_refuses_clearly(handler: Any, request_: Any, message: str):
    with pytest.raises(ValueError, match=message):
        handler(request_)
    assert len(handler({"inputs": "goal", "parameters": None})) == 1


# ---- The verb, and the example


def test_the_verb_explains_itself(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        main(["export", "--help"])
    assert exit_.value.code == 0
    assert "--calibration" in capsys.readouterr().out


def test_the_verb_says_what_it_wrote(convert: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    convert()
    main(["export", str(model), "--output_dir", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Written: {tmp_path / 'out'} (model.onnx: ")
    assert "512 texts (random words of the vocabulary): 100.00% with the same label" in lines[1]
    assert ["texts a second, one at a time" in lines[2], "texts a second, 32 at a time" in lines[3]] == [True, True]
    with pytest.raises(SystemExit) as exit_:
        main(["export", str(model), "--output_dir", str(tmp_path / "out")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("wave-network export: FileExistsError: ")


def test_a_model_may_be_where_one_stands(convert: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    convert()
    monkeypatch.chdir(shutil.copytree(model, tmp_path / "here"))
    assert export(Path(".")) == tmp_path / "here-onnx"


def test_the_example(convert: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    convert()
    spec = importlib.util.spec_from_file_location("example_of_export", ROOT / "examples" / "export.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    copied = shutil.copytree(model, tmp_path / "run")
    example.main([f"{copied}/", "onnx"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(any(label in line for label in AWKWARD) for line in lines)
    assert (tmp_path / "run-onnx" / "model.onnx").exists()
