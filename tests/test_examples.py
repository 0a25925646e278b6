"""The examples run, print what they promise, and overwrite nothing."""

import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from small_runs import SMALL, make_rows, write_csv
from transformers import AutoTokenizer

from wave_network import WaveConfig, WaveForSequenceClassification, load, train_wave_tokenizer
from wave_network.inference.export import ExportArguments, export_model

EXAMPLES = Path(__file__).parents[1] / "examples"
LABELS = {0: "money", 1: "space", 2: "sport"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [row for row in make_rows(120, seed=0) if len(row["text"].split()) > 8]
    return str(write_csv(tmp_path_factory.mktemp("texts") / "texts.csv", rows))


def run_example(name: str, *words: str) -> None:
    runpy.run_path(str(EXAMPLES / name))["main"](*words)


def refuses(name: str, *words: str) -> None:
    with pytest.raises(SystemExit, match="is there already"):
        run_example(name, *words)


def test_heads(texts, tmp_path, capsys):
    run_example("heads.py", texts, "2", str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "the prime" in printed
    assert "token-classification: WaveForTokenClassification" in printed
    refuses("heads.py", texts, "2", str(tmp_path / "model"))


def test_lora(texts, tmp_path, capsys):
    tokenizer = train_wave_tokenizer([row["text"] for row in make_rows(40, seed=0)], 200, show_progress=False)
    config = WaveConfig(vocab_size=len(tokenizer), hidden_size=16, id2label=LABELS)
    WaveForSequenceClassification(config).save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    assert AutoTokenizer.from_pretrained(tmp_path / "run")
    run_example("lora.py", str(tmp_path / "run"), texts, str(tmp_path / "adapter"))
    printed = capsys.readouterr().out
    assert "trainable params" in printed
    assert "'label': " in printed
    refuses("lora.py", str(tmp_path / "run"), texts, str(tmp_path / "adapter"))


def test_sentence_embeddings(texts, tmp_path, capsys):
    run_example("sentence_embeddings.py", texts, str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "found after:" in printed
    refuses("sentence_embeddings.py", texts, str(tmp_path / "model"))


def test_trainer(texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run_example("trainer.py", texts, str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "'eval_accuracy': " in printed
    assert "'label': " in printed
    assert load(tmp_path / "model").labels == list(LABELS.values())
    refuses("trainer.py", texts, str(tmp_path / "model"))


def test_a_job_trains_and_pushes(data_folder, tmp_path, monkeypatch, capsys):
    """Without uv, which would install the clone that the first lines name."""
    head = re.match(r"# /// script\n(.*?)# ///\n", (EXAMPLES / "finetune_job.py").read_text(), re.DOTALL)
    assert (EXAMPLES / re.search(r'path = "(.*?)"', head[1])[1] / "pyproject.toml").is_file()
    monkeypatch.chdir(tmp_path)
    pushed = []
    monkeypatch.setattr("wave_network.hub_card.push_run", lambda **arguments: pushed.append(arguments))
    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    run_example("finetune_job.py", str(data_folder), "user/name", *words)
    assert [(each["run_folder"], each["repo_id"]) for each in pushed] == [("runs/job", "user/name")]
    assert (tmp_path / "runs" / "job" / "model.safetensors").is_file()


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_ray_loses_a_worker_and_no_row(run, tmp_path, monkeypatch):
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason='needs pip install ".[ray]"')
    exported = export_model(ExportArguments(str(run), output_dir=str(tmp_path / "export")))
    source, target = tmp_path / "from", tmp_path / "to"
    source.joinpath("b").mkdir(parents=True)
    target.mkdir()
    texts = {f"{folder}{number}.parquet": make_rows(1000, number) for number in range(12) for folder in ("", "b/")}
    texts["none.parquet"] = []
    schema = pyarrow.schema([("text", "string"), ("label", "string")])
    for name, rows in texts.items():
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), source / name)
    (target / "0.parquet").write_text("done before")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")  # a busy machine starts its agents late
    cluster = cluster_utils.Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
        command = [sys.executable, str(EXAMPLES / "predict_ray.py"), str(exported), str(source), str(target)]
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None and len(list(target.rglob("*.parquet"))) < 4:
                time.sleep(0.01)
            cluster.remove_node(workers[0], allow_graceful=False)
            assert len(list(target.rglob("*.parquet"))) < len(texts)
            printed, _ = process.communicate()
    finally:
        cluster.shutdown()
    assert process.returncode == 0
    assert printed.splitlines()[0] == "1 of 25 files are done"
    assert (target / "0.parquet").read_text() == "done before"
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*.parquet")) == sorted(texts)
    for name in texts.keys() - {"0.parquet"}:
        found = pyarrow.parquet.read_table(target / name)
        assert found.select(["text", "label"]).to_pylist() == texts[name]
        assert set(found["predicted_label"].to_pylist()) <= {"sport", "money", "space"}
    assert found.column_names[2:] == [
        "predicted_label",
        "probability",
        *(f"probability_{name}" for name in sorted(LABELS.values())),
    ]
