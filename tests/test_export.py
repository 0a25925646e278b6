"""`wave-network export`: folders that compute what their model computes, run without it, or are not written at all."""

import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import make_rows, write_csv
from test_predict import AWKWARD, classify, compute_logits, make_texts, save_bert, save_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForMaskedLM, pipeline

from wave_network.inference import classify as classify_module
from wave_network.inference import export as export_module
from wave_network.inference.classifier import Classifier, load_classifier
from wave_network.inference.classify import ExportedClassifier, clean, to_scores
from wave_network.inference.export import ExportArguments, export_model, measure_agreement

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="needs the extra onnx")
pytest.importorskip("transformers.exporters.metadata", reason="needs transformers 5.23 or newer")

ROOT = Path(export_module.__file__).parents[1]
IN_FOLDER = {
    "README.md",
    "classify.py",
    "config.json",
    "handler.py",
    "onnx/model.onnx",
    "requirements.txt",
    "tokenizer.json",
    "tokenizer_config.json",
}
# What the export is to do without cannot be imported by a process that starts with this.
ALONE = """
import sys
for name in ("torch", "transformers", "wave_network", "safetensors", "pandas", "datasets", "huggingface_hub"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of onnxruntime wait in a loop, which takes time from all tests beside these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExportedClassifier.__init__, "__defaults__", (1,))
        yield


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "plain", AutoTokenizer.from_pretrained(run))


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    return export(model)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return make_texts()


@pytest.fixture(scope="module")
def classifier(exported: Path) -> ExportedClassifier:
    return ExportedClassifier(exported)


def export(model: Path, **settings: Any) -> Path:
    return export_model(ExportArguments(str(model), **settings))


def list_files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def check_logits(folder: Path, model: Path, texts: list[Any], max_length: int | None = None) -> None:
    """Each text in the company of the others, against the text alone in torch."""
    logits = ExportedClassifier(folder).logits(texts)
    np.testing.assert_allclose(logits, compute_logits(model, texts, max_length), rtol=0, atol=1e-5)
    assert len({tuple(row) for row in logits.round(3).tolist()}) > len(texts) / 3  # else nothing was tested


# What is written


def test_the_folder_is_complete_and_says_nothing_of_this_machine(model: Path, exported: Path):
    assert exported == model.with_name("plain-onnx")
    assert list_files(exported) == IN_FOLDER
    for name in IN_FOLDER:
        content = (exported / name).read_bytes()
        assert str(model.parent).encode() not in content, name
        assert str(ROOT).encode() not in content, name
    card = (exported / "README.md").read_text()
    for line in ("pipeline_tag: text-classification", "| 100.00 % of 512 (random words", "1. with, comma"):
        assert line in card
    assert [path.name for path in model.parent.iterdir() if path.name.startswith(".")] == []


def test_the_tools_of_the_hub_find_what_they_read(exported: Path):
    """Text Embeddings Inference and transformers.js read these names."""
    import onnxruntime

    config = json.loads((exported / "config.json").read_text())
    assert config["id2label"] == {str(index): label for index, label in enumerate(AWKWARD)}
    assert config["label2id"] == {label: index for index, label in enumerate(AWKWARD)}
    assert config["architectures"] == ["WaveForSequenceClassification"]  # "...Classification" to the server
    assert config["model_type"] == "bert"  # which transformers.js knows
    assert (config["max_position_embeddings"], config["pad_token_id"]) == (32, 0)
    assert (config["hidden_size"], config["num_hidden_layers"]) == (16, 1)
    assert "auto_map" not in config
    assert json.loads((exported / "tokenizer_config.json").read_text())["model_max_length"] == 32
    session = onnxruntime.InferenceSession(exported / "onnx" / "model.onnx")
    assert [(node.name, node.type) for node in session.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
    assert [node.name for node in session.get_outputs()] == ["logits"]


@pytest.mark.parametrize(
    ("settings", "max_length"),
    [
        (
            {
                "conv_kernel_size": 3,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "type_vocab_size": 2,
                "position_embedding_type": "absolute",
                "max_position_embeddings": 64,
                "magnitude": "rms",
                "classifier_pooling": "segments",
            },
            64,
        ),
        # Longer than it reads in one pass, and than its table of positions.
        ({"wave_operation": "interference", "classifier_pooling": "max", "chunk_length": 20}, 700),
        ({"position_embedding_type": "none", "classifier_pooling": "cls", "ngram_vocab_size": 50, "ngram_size": 3}, 40),
    ],
    ids=["many settings", "chunks", "n-grams"],
)
def test_other_wave_networks(run: Path, texts: list[str], tmp_path: Path, settings: dict[str, Any], max_length: int):
    model = save_model(tmp_path / "full", AutoTokenizer.from_pretrained(run), **settings)
    folder = export(model, max_length=max_length)
    check_logits(folder, model, [*texts, *zip(texts[:9], texts[9:18], strict=True)], max_length)
    assert ("token_type_ids" in ExportedClassifier(folder).inputs) == ("type_vocab_size" in settings)
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == max_length


def test_a_model_of_another_kind(run: Path, texts: list[str], tmp_path: Path):
    bert = save_bert(tmp_path / "bert", AutoTokenizer.from_pretrained(run))
    folder = export(bert)
    assert ExportedClassifier(folder).inputs[-1] == "token_type_ids"
    check_logits(folder, bert, [*texts, ("goal match", "bank")], 64)
    with pytest.raises(ValueError, match="`max_length` must be 2 to 64, got 65"):
        export(bert, max_length=65, output_dir=str(tmp_path / "out"))
    BertForMaskedLM(AutoModelForSequenceClassification.from_pretrained(bert).config).save_pretrained(
        tmp_path / "masked"
    )
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "masked")
    with pytest.raises(ValueError, match="must be a trained classifier"):
        export(tmp_path / "masked")


def test_a_dominant_token_is_exact(model: Path, texts: list[str], tmp_path: Path):
    """One word is ten thousand times as large as the others, which must not drown beside it."""
    source = shutil.copytree(model, tmp_path / "model")
    loaded = AutoModelForSequenceClassification.from_pretrained(source)
    word = AutoTokenizer.from_pretrained(model)("goal", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        loaded.get_input_embeddings().weight[word] *= 1e4
    loaded.save_pretrained(source)
    found = ExportedClassifier(export(source)).logits(["goal", "goal match", "bank goal profit", "goal goal bank"])
    exact = AutoModelForSequenceClassification.from_pretrained(source, wave_implementation="eager").double()
    tokenizer = AutoTokenizer.from_pretrained(source)
    batch = tokenizer(["goal", "goal match", "bank goal profit", "goal goal bank"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = exact.eval()(**batch).logits.numpy()
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_a_row_of_a_table_has_a_scale_of_its_own(tmp_path: Path):
    """A row that is a million times as large takes nothing from the others; a table that is also multiplied stays."""
    import onnx
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    table = (np.random.default_rng(0).normal(size=(5, 20)) * [[1], [1e6], [0], [1e-3], [1]]).astype(np.float32)
    both = [onnx.numpy_helper.from_array(table, name) for name in ("table", "other")]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Gather", ["other", "ids"], ["others"]),
        helper.make_node("Add", ["other", "other"], ["sum"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["a", "b"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("rows", "others", "sum")]
    graph = helper.make_graph(nodes, "two tables", [ids], outputs, both)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "float.onnx")
    export_module.quantize(tmp_path / "float.onnx", tmp_path / "small.onnx")
    chosen = np.array([[4, 3, 2], [1, 0, 4]])
    rows, others, _ = InferenceSession(tmp_path / "small.onnx").run(None, {"ids": chosen})
    np.testing.assert_array_equal(others, table[chosen])
    assert (np.abs(rows - table[chosen]) <= np.abs(table[chosen]).max(-1, keepdims=True) / 253).all()
    assert (rows != others).any()


def test_int8_is_small_and_keeps_its_labels(run: Path, tmp_path: Path):
    file = write_csv(tmp_path / "real.csv", [{"text": row["text"]} for row in make_rows(300, seed=9)])
    folder = export(run, format="onnx-int8", calibration=str(file), output_dir=str(tmp_path / "small"))
    assert list_files(folder) == IN_FOLDER - {"onnx/model.onnx"} | {"onnx/model_quantized.onnx"}
    assert "of 300 (real.csv)" in (folder / "README.md").read_text()
    weights = (run / "model.safetensors").stat().st_size
    graph = export(run, output_dir=str(tmp_path / "float")) / "onnx" / "model.onnx"
    assert graph.stat().st_size <= weights + 60_000
    assert (folder / "onnx" / "model_quantized.onnx").stat().st_size <= 0.3 * weights + 60_000
    texts = [row["text"] for row in make_rows(100, seed=10)]
    classifier = ExportedClassifier(folder)
    found, expected = classifier.logits(texts), compute_logits(run, texts).numpy()
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.99
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    alone = np.concatenate([classifier.logits([text]) for text in texts[:20]])
    np.testing.assert_allclose(alone, found[:20], atol=1e-5)  # whatever stands beside a text


# What is no export of the model is not left behind


@pytest.fixture
def write_graph(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """In place of tracing, the finished graph, to be spoiled; it takes no time."""

    def replace(spoil: Any = lambda graph: None) -> None:
        def copy(file: Path, model: Any, tokenizer: Any) -> None:
            import onnx

            graph = onnx.load(exported / "onnx" / "model.onnx")
            spoil(graph.graph)
            file.parent.mkdir()
            onnx.save(graph, file)

        monkeypatch.setattr(export_module, "write_graph", copy)

    return replace


def change_bias(graph: Any) -> None:
    from onnx import numpy_helper

    (bias,) = (each for each in graph.initializer if each.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))


def fix_length(graph: Any) -> None:
    for node in graph.input:
        node.type.tensor_type.shape.dim[1].dim_value = 16


@pytest.mark.parametrize(
    ("spoil", "message"), [(change_bias, "2 x 16 tokens a logit is off"), (fix_length, "fails on a batch of 1 x 1")]
)
def test_a_graph_that_is_not_the_model(write_graph: Any, model: Path, tmp_path: Path, spoil: Any, message: str):
    write_graph(spoil)
    with pytest.raises(ValueError, match=message):
        export(model, output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_is_not_the_model_s(write_graph: Any, model: Path, tmp_path: Path, monkeypatch: Any):
    write_graph()
    write_files = export_module.write_files

    def write_other(folder: Path, *arguments: Any) -> None:
        write_files(folder, *arguments)
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        tokenizer["normalizer"] = None  # which lower-cases
        file.write_text(json.dumps(tokenizer), encoding="utf-8")

    monkeypatch.setattr(export_module, "write_files", write_other)
    with pytest.raises(ValueError, match="on odd texts a logit is off"):
        export(model, output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_labels_that_int8_changes(write_graph: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_graph()
    monkeypatch.setattr(export_module, "measure_agreement", lambda *_: 0.98)
    with pytest.raises(ValueError, match=r"98\.0% of 512 texts.*99%.*--calibration"):
        export(model, format="onnx-int8", output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_replaced_whole_or_not_at_all(
    write_graph: Any, model: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_graph()
    output = shutil.copytree(exported, tmp_path / "out")
    (output / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="--overwrite"):
        export(model, output_dir=str(output))
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "check_shapes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export(model, output_dir=str(output), overwrite=True)
    assert list_files(output) == IN_FOLDER | {"mine.txt"}
    export(model, output_dir=str(output), overwrite=True)
    assert list_files(output) == IN_FOLDER
    assert list(tmp_path.iterdir()) == [output]


def test_what_is_no_export_is_not_replaced(model: Path):
    with pytest.raises(FileExistsError, match="holds no export"):
        export(model, output_dir=str(model), overwrite=True)
    assert (model / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "tflite"}, r"`format` must be one of .*'tflite'"),
        ({"max_length": 1}, "`max_length` must be 2 to .*, got 1"),
        ({"model": "missing/model/somewhere"}, "missing/model/somewhere"),
        ({"calibration": "missing.csv"}, r"missing\.csv"),
    ],
)
def test_bad_settings_are_named(model: Path, tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises((ValueError, OSError), match=message):
        export(**{"model": model, "output_dir": str(tmp_path / "out")} | settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(export_module, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ImportError, match=r"An export needs no_such_package: pip install onnx onnxruntime onnxscript"):
        export(model, output_dir=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_agreement_is_measured_for_each_problem():
    logits = np.array([[1.0, 2.0], [3.0, -4.0]])
    assert measure_agreement(logits, logits[:, ::-1], "single_label_classification") == 0
    assert measure_agreement(logits, logits * [1, -1], "multi_label_classification") == 0
    values = np.array([[0.0], [1.0], [100.0]])
    assert measure_agreement(values + np.array([[0.9], [1.1], [0]]), values, "regression") == pytest.approx(2 / 3)
    same = np.array([[200.0], [200.0]])
    assert measure_agreement(same + np.array([[0.001], [1.0]]), same, "regression") == 0.5


# The classifier


def test_it_answers_like_the_pipeline(classifier: ExportedClassifier, model: Path, texts: list[str]):
    expected = pipeline("text-classification", model=str(model), device="cpu")
    for top_k in (1, 2, None):
        reference = expected(texts[:10], top_k=top_k, truncation=True)
        for found, scores in zip(classifier.classify(texts[:10], top_k=top_k), reference, strict=True):
            assert [score["label"] for score in found] == [score["label"] for score in scores]
            assert [score["score"] for score in found] == pytest.approx([score["score"] for score in scores], abs=1e-6)
    assert classifier.classify([]) == []
    assert classifier.logits([]).shape == (0, 3)


@pytest.fixture(scope="module")
def original(model: Path) -> Classifier:
    return Classifier(load_classifier(str(model)), AutoTokenizer.from_pretrained(model))


@given(texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=40), min_size=1, max_size=4))
def test_any_texts_get_the_logits_of_the_model(classifier: ExportedClassifier, original: Classifier, texts: list[str]):
    expected = original.logits([{"text": clean(text)} for text in texts])
    np.testing.assert_allclose(classifier.logits(texts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", ["half \ud83d", "zero \0 byte", "\U0010ffff", "a" * 100_000, "\n\t ", ""])
def test_no_text_does_harm(classifier: ExportedClassifier, text: str):
    logits = classifier.logits([text, "goal"])
    assert np.isfinite(logits).all()
    assert logits[1] == pytest.approx(classifier.logits(["goal"])[0], abs=1e-5)


def test_scores_of_large_logits_are_finite():
    logits = np.array([[-200.0, -3.0, 0.0, 5.0, 200.0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        for problem, function in (("multi_label_classification", torch.sigmoid), ("single", lambda x: x.softmax(-1))):
            expected = function(torch.tensor(logits))
            np.testing.assert_allclose(to_scores(logits, problem), expected, rtol=1e-5, atol=1e-7)
    assert to_scores(logits, "regression") is logits


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [None, b"", b'{"version"', b"\xff"], ids=["missing", "empty", "cut", "not UTF-8"])
def test_a_damaged_file_is_named(exported: Path, tmp_path: Path, name: str, content: bytes | None):
    folder = shutil.copytree(exported, tmp_path / "damaged")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{Path(name).name}' is missing or damaged"):
        ExportedClassifier(folder)


def test_threads_may_share_it(classifier: ExportedClassifier, texts: list[str]):
    expected = classifier.logits(texts)
    with ThreadPoolExecutor(6) as pool:
        for first, found in enumerate(pool.map(lambda first: classifier.logits(texts[first:]), range(6))):
            np.testing.assert_allclose(found, expected[first:], atol=1e-5)


def test_the_code_of_its_card_runs(exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(exported)
    monkeypatch.syspath_prepend(str(exported))
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("classifier.classify", "answer = classifier.classify"), names)
    del sys.modules["classify"]
    assert {each["label"] for each in names["answer"][0]} == set(AWKWARD)


# The command of the folder


def run_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    classify_module.main(words)
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_it_runs_alone_and_writes_what_predict_writes(model: Path, exported: Path, texts: list[str], tmp_path: Path):
    file = write_csv(tmp_path / "texts.csv", [{"id": index, "text": text} for index, text in enumerate(texts)])
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    code = f"{ALONE}\nsys.argv = ['classify.py', '--file', {str(file)!r}]\nimport runpy\n"
    code += f"runpy.run_path({str(moved / 'classify.py')!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    found = list(csv.DictReader(io.StringIO(result.stdout.decode(), newline="")))
    for row, other in zip(found, classify(model, file), strict=True):
        other.pop("text")  # which only `predict` writes
        assert (list(row), row["row"], row["label"]) == (list(other), other["row"], other["label"])
        for name in row.keys() - {"row", "label"}:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-5)


def test_it_reads_texts_lines_and_columns(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = ["--folder", str(exported)]
    expected = run_command(["goal", "bank shares", *folder], capsys)
    (tmp_path / "lines.txt").write_text("\ufeffgoal\r\nbank shares\n", encoding="utf-8")
    assert run_command(["--file", str(tmp_path / "lines.txt"), *folder], capsys) == expected
    write_csv(tmp_path / "a.csv", [{"x": 1, "body": "goal"}, {"x": 2, "body": "bank shares"}])
    assert run_command(["--file", str(tmp_path / "a.csv"), "--text_columns", "body", *folder], capsys) == expected
    (tmp_path / "pairs.tsv").write_text("a\tb\ngoal\tbank\n")
    (found,) = run_command(["--file", str(tmp_path / "pairs.tsv"), "--text_columns", "a", "b", *folder], capsys)
    (scores,) = ExportedClassifier(exported).classify([("goal", "bank")])
    assert float(found["probability"]) == pytest.approx(scores[0]["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "missing.csv"),
        ("body.csv", "body\na\n", r"--text_columns must be among \['body'\], got \['text'\]"),
        ("empty.csv", "", "--text_columns"),
        ("ragged.csv", "id,text\n1,one\n2\n", "ragged.csv' has another number of fields than its header in line 3"),
        ("wide.csv", "id,text\n1,one,2\n", "wide.csv' has another number of fields"),
        ("quote.csv", 'id,text\n1,"one\n', "end of data"),
        ("latin.txt", "ä".encode("latin-1"), "utf-8"),
    ],
)
def test_bad_files_are_one_line(exported: Path, tmp_path: Path, name: str, content: Any, message: str):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=f"^classify.py: .*{message}"):
        classify_module.main(["--file", str(tmp_path / name), "--folder", str(exported)])


@pytest.mark.parametrize(("problem_type", "labels"), [("multi_label_classification", AWKWARD), (None, ["stars"])])
def test_other_problems(
    run: Path,
    texts: list[str],
    problem_type: str | None,
    labels: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    model = save_model(tmp_path / "model", AutoTokenizer.from_pretrained(run), labels, problem_type=problem_type)
    file = write_csv(tmp_path / "texts.csv", [{"text": text} for text in texts])
    found = run_command(["--file", str(file), "--folder", str(export(model))], capsys)
    for row, other in zip(found, classify(model, file), strict=True):
        other.pop("text")  # which only `predict` writes
        assert (list(row), row.get("label")) == (list(other), other.get("label"))
        for name in row.keys() - {"row", "label"}:
            assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-4)


# The handler


@pytest.fixture
def handler(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The handler as huggingface-inference-toolkit loads it."""
    monkeypatch.syspath_prepend(str(exported))
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", exported / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.EndpointHandler(str(exported))
    del sys.modules["classify"]


@pytest.mark.parametrize("parameters", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}], ids=str)
def test_the_handler_answers_like_the_pipeline(handler: Any, model: Path, parameters: dict[str, Any]):
    answer = pipeline("text-classification", model=str(model), device="cpu")

    def flatten(result: Any) -> tuple[Any, list[float]]:
        if isinstance(result, list):
            parts = [flatten(each) for each in result]
            return [part[0] for part in parts], [score for part in parts for score in part[1]]
        return result["label"], [result["score"]]

    for inputs in ("goal match", ["goal match"], ["bank", "orbit"], [{"text": "goal", "text_pair": "bank"}]):
        found = handler({"inputs": inputs, "parameters": parameters})
        assert found == json.loads(json.dumps(found))
        labels, scores = flatten(answer(inputs, **parameters))
        assert flatten(found)[0] == labels
        assert flatten(found)[1] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "`inputs` must be texts.*got None"),
        ({"inputs": []}, "`inputs` must hold 1 to 256 texts, got 0"),
        ({"inputs": ["goal"] * 257}, "`inputs` must hold 1 to 256 texts, got 257"),
        ({"inputs": ["goal", 3]}, "`inputs` must be texts.*got 3"),
        ({"inputs": {"text": "goal", "text_pair": 3}}, "`inputs` must be texts"),
        ({"inputs": "goal", "parameters": {"temperature": 1}}, "`parameters` must be.*temperature"),
        ({"inputs": "goal", "parameters": {"top_k": 0}}, "`top_k`"),
        ({"inputs": "goal", "parameters": {"top_k": True}}, "`top_k`"),
    ],
)
def test_the_handler_refuses_clearly(handler: Any, request_: Any, message: str):
    with pytest.raises(ValueError, match=message):
        handler(request_)


# The example


def load_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_the_example(write_graph: Any, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_graph()
    copied = shutil.copytree(model, tmp_path / "run")
    load_example("export").main([f"{copied}/", "onnx"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(any(label in line for label in AWKWARD) for line in lines)
    assert list_files(tmp_path / "run-onnx") == IN_FOLDER


def test_the_server(exported: Path):
    pytest.importorskip("fastapi", reason="needs pip install fastapi uvicorn")
    from fastapi.testclient import TestClient

    client = TestClient(load_example("serve").make_app(str(exported)))
    assert client.get("/health").json() == {"labels": AWKWARD}
    expected = ExportedClassifier(exported)
    answer = client.post("/classify", json={"inputs": ["goal", ["goal", "bank"]], "top_k": None})
    assert answer.json() == expected.classify(["goal", ("goal", "bank")], top_k=None)
    assert [len(best) for best in client.post("/classify", json={"inputs": ["goal"]}).json()] == [1]
    for bad in (
        {},
        {"inputs": "goal"},
        {"inputs": []},
        {"inputs": ["a"] * 257},
        {"inputs": [3]},
        {"inputs": ["a"], "top_k": 0},
    ):
        assert client.post("/classify", json=bad).status_code == 422
    page = client.get("/").text
    assert 'of ["text"]' in page
    assert "//" not in page  # nothing is loaded from elsewhere
    assert client.get("/docs").status_code == 404
    long = "goal " * 5000
    cut = " ".join(["goal"] * 30)  # 32 tokens with [CLS] and [SEP]
    whole, short = client.post("/classify", json={"inputs": [long, cut], "top_k": None}).json()
    assert whole == short
