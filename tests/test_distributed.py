"""Several processes: training with DDP and with FSDP2, and `predict`, give what one process gives."""

import csv
import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from safetensors.torch import load_file
from several_processes import Ended, run_processes
from small_runs import finetune_small, make_rows, read_metrics, small_words, write_csv
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
from transformers.training_args import ParallelMode
from transformers.utils import is_accelerate_available

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.training import finetune, sharding
from wave_network.training import predict as predict_module
from wave_network.training.cli import main, parse_settings
from wave_network.training.parts import Parts
from wave_network.training.sharding import ACCELERATE, find_layers, is_sharded

# The rows of the training split fill their batches, in one process and in two.
ROWS = {"train": 96, "validation": 15, "test": 13}
BATCH = 8
TRAINING = {
    "num_train_epochs": 2,
    "train_sampling_strategy": "random",  # grouped by length, the batches of one process and of two differ
    "save_total_limit": 5,
}
LARGE = {
    "hidden_dropout_prob": 0,
    "hidden_size": 128,  # wide enough that equal words share a product
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "position_embedding_type": "absolute",
    "packing": True,
    "class_weights": "balanced",
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "num_train_epochs": 1,
}


needs_fsdp2 = pytest.mark.skipif(
    not is_accelerate_available(ACCELERATE), reason=f"needs accelerate {ACCELERATE} or newer"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate(ROWS.items()):
        write_csv(folder / f"{split}.csv", make_rows(count, seed))
    return folder


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from. It reads most of the texts in chunks, where it needs no gradient."""
    folder = tmp_path_factory.mktemp("start")
    tokenizer = train_wave_tokenizer((row["text"] for row in make_rows(60, seed=0)), 200, show_progress=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = WaveConfig(vocab_size=len(tokenizer), hidden_size=16, hidden_dropout_prob=0, chunk_length=6, num_labels=3)
    WaveForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    settings = TRAINING | {"model": start, "per_device_train_batch_size": BATCH}
    return finetune_small(data, tmp_path_factory.mktemp("one") / "run", **settings)


def note_shards(rank: int) -> None:
    """Has the run write down, beside its folder, how much of the model this process holds in a training step."""
    step = finetune.WaveTrainer.training_step

    def step_and_note(trainer: Any, *arguments: Any, **settings: Any) -> Any:
        held = {
            name: [parameter.numel(), parameter.to_local().numel() if hasattr(parameter, "to_local") else None]
            for name, parameter in trainer.model.named_parameters()
        }
        Path(f"{trainer.args.output_dir}-shards-{rank}.json").write_text(json.dumps(held))
        return step(trainer, *arguments, **settings)

    finetune.WaveTrainer.training_step = step_and_note


def finetune_in_two(data: Path, run: Path, **settings: Any) -> list[Ended]:
    settings = TRAINING | {"per_device_train_batch_size": BATCH // 2} | settings
    logs = run.parent / f"{run.name}-logs"
    ended = run_processes(2, small_words(data, run, **settings), logs, note_shards)
    shutil.rmtree(logs)
    return ended


@pytest.fixture(scope="module")
def split_run(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes with FSDP2."""
    run = tmp_path_factory.mktemp("split") / "run"
    ended = finetune_in_two(data, run, model=start, fsdp="true")
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert [each.out.count("Done in") for each in ended] == [1, 0]  # one process speaks
    return run


def list_files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def distance(run: Path, other: Path) -> float:
    first, second = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert set(first) == set(second)
    return max((first[name] - second[name]).abs().max().item() for name in first)


def interrupt(run: Path, copy: Path) -> Path:
    """A copy of a run as it was when its first checkpoint had been written."""
    shutil.copytree(run, copy)
    for checkpoint in sorted(copy.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[1:]:
        shutil.rmtree(checkpoint)
    for name in ("metrics.json", "model.safetensors"):
        (copy / name).unlink()
    return copy


# Training


def assert_split(run: Path) -> None:
    """Each of the two processes has held about one half of each parameter."""
    first, second = (json.loads(Path(f"{run}-shards-{rank}.json").read_text()) for rank in (0, 1))
    for name, (whole, held) in first.items():
        assert held is not None, f"{name} is not split"
        assert held + second[name][1] == whole
        assert max(held, second[name][1]) < 0.7 * whole or len(first) == 3, name


@needs_fsdp2
def test_fsdp_trains_as_one_process(split_run: Path, one: Path):
    assert_split(split_run)
    assert distance(split_run, one) < 1e-5
    assert list_files(split_run) == list_files(one)
    ours, theirs = read_metrics(split_run), read_metrics(one)
    assert ours["settings"]["processes"] == 2
    for name in ("model", "data", "best", "results"):
        assert ours[name] == theirs[name], name
    AutoModelForSequenceClassification.from_pretrained(split_run)


@needs_fsdp2
def test_fsdp_trains_every_part_of_a_model_as_one_process(data: Path, tmp_path: Path):
    one = finetune_small(data, tmp_path / "one", **TRAINING | LARGE | {"per_device_train_batch_size": BATCH})
    ended = finetune_in_two(data, tmp_path / "two", fsdp="full_shard", **LARGE)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert_split(tmp_path / "two")
    assert distance(tmp_path / "two", one) < 1e-4


@needs_fsdp2
def test_a_resumed_fsdp_run_ends_as_the_whole_one(start: Path, split_run: Path, data: Path, tmp_path: Path):
    run = interrupt(split_run, tmp_path / "run")
    ended = finetune_in_two(data, run, model=start, fsdp=True, resume=True)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert_split(run)
    assert distance(run, split_run) == 0
    assert read_metrics(run)["results"] == read_metrics(split_run)["results"]


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"),
    reason="older ones cannot load the moments onto the device cpu:0 (seen in 5.10.1)",
)
def test_two_processes_resume_what_one_began(start: Path, one: Path, data: Path, tmp_path: Path):
    run = interrupt(one, tmp_path / "run")
    ended = finetune_in_two(data, run, model=start, resume=True)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    held = json.loads(Path(f"{run}-shards-0.json").read_text())
    assert all(here is None for _, here in held.values())  # this is DDP
    assert distance(run, one) < 1e-5


def test_the_word_table_is_left_to_accelerate():
    assert find_layers(WaveForSequenceClassification(WaveConfig(vocab_size=20, hidden_size=8))) == ["WaveLayer"]
    bert = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    assert find_layers(BertForSequenceClassification(bert)) == ["BertLayer"]


@needs_fsdp2
@pytest.mark.parametrize("resumed", ["with", "without"])
def test_a_run_is_resumed_as_it_was_split(
    resumed: str, one: Path, split_run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = interrupt(one if resumed == "with" else split_run, tmp_path / "run")
    before = list_files(run)
    settings = {"fsdp": True} if resumed == "with" else {}
    with pytest.raises(SystemExit) as exit_:
        finetune_small(data, run, resume=True, **settings)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "`fsdp`" in error
    assert f"{run}/checkpoint-12 was written {'without' if resumed == 'with' else 'with'} it" in error
    assert list_files(run) == before


def make_arguments(tmp_path: Path, **settings: Any) -> finetune.RunArguments:
    return finetune.RunArguments(str(tmp_path), use_cpu=True, fsdp=True, **settings)


def test_fsdp_with_an_old_accelerate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharding, "ACCELERATE", "99.0")
    with pytest.raises(ImportError, match=r"`fsdp` \(True\) needs accelerate 99\.0 or newer.*pip install"):
        sharding.refuse_unfit_sharding(make_arguments(tmp_path), None)


@needs_fsdp2
def test_fsdp_in_one_process_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        finetune_small(data, tmp_path / "run", fsdp=True)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    for word in ("`fsdp` (True)", "this is one", "torchrun --nproc_per_node"):
        assert word in error
    assert not (tmp_path / "run").exists()


@needs_fsdp2
@pytest.mark.parametrize("settings", [{"version": 1}, {"cpu_offload": True}])
def test_what_fsdp_cannot_do_on_a_cpu_is_refused(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finetune.RunArguments, "parallel_mode", ParallelMode.DISTRIBUTED)
    arguments = make_arguments(tmp_path, fsdp_config=settings)
    with pytest.raises(ValueError, match=rf"`fsdp_config`.*'{next(iter(settings))}': {next(iter(settings.values()))}"):
        sharding.refuse_unfit_sharding(arguments, None)


@needs_fsdp2
def test_fsdps_own_checkpointing_is_refused_with_dropout(data: Path, tmp_path: Path):
    ended = finetune_in_two(
        data, tmp_path / "run", fsdp=True, fsdp_config='{"activation_checkpointing": true}', hidden_dropout_prob=0.1
    )
    assert [each.code for each in ended] == [2, 2]
    assert "--gradient_checkpointing" in ended[0].err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("word", "value"), [("true", True), ("True", True), ("false", False), ("full_shard", True)])
def test_fsdp_is_switched_on_by_a_word(word: str, value: bool, tmp_path: Path):
    (arguments,) = parse_settings("finetune", [finetune.RunArguments], ["--use_cpu", "--fsdp", word])
    assert arguments.fsdp is value


# Predict


@pytest.fixture(scope="module")
def texts() -> list[dict[str, str]]:
    """Rows of many lengths; some cells have several lines, quotes and nothing at all."""
    rows = [{"text": row["text"]} for row in make_rows(50, seed=9)]
    rows[3]["text"] = 'goal, "match"\nbank\r\n'
    rows[20]["text"] = ""
    return rows


def take_small_chunks(rank: int) -> None:
    predict_module.CHUNK = 7


def predict_words(model: Path, file: Path, output: Path) -> list[str]:
    return ["predict", str(model), "--file", str(file), "--output", str(output), "--device", "cpu"]


def predict_alone(model: Path, file: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(predict_module, "CHUNK", 7)
    main(predict_words(model, file, output))
    return output.read_bytes()


def list_parts(output: Path) -> list[int]:
    """The finished chunks of an output that is not complete."""
    return sorted(int(path.name.split("-")[0]) for path in output.with_name(f".{output.name}.parts").glob("*.csv"))


def test_several_processes_write_what_one_writes(
    one: Path, texts: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, output = write_csv(tmp_path / "texts.csv", texts), tmp_path / "two.csv"
    expected = predict_alone(one, file, tmp_path / "one.csv", monkeypatch)
    assert expected.count(b"\r\n") == 51
    ended = run_processes(2, predict_words(one, file, output), tmp_path / "logs", take_small_chunks)
    assert [each.code for each in ended] == [0, 0], ended[0].err
    assert output.read_bytes() == expected
    assert [each.out for each in ended] == [f"Written: {output}\n", ""]
    assert ["Classifying" in each.err for each in ended] == [True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "one.csv", "texts.csv", "two.csv"]


def test_more_processes_than_chunks_of_a_compressed_file_of_pairs(
    one: Path, texts: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, output = tmp_path / "pairs.jsonl.gz", tmp_path / "three.csv"
    pairs = [{"premise": row["text"], "hypothesis": "a bank"} for row in texts[:10]]
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(pair) + "\n" for pair in pairs)
    expected = predict_alone(one, file, tmp_path / "one.csv", monkeypatch)
    ended = run_processes(3, predict_words(one, file, output), tmp_path / "logs", take_small_chunks)
    assert [each.code for each in ended] == [0, 0, 0], ended[0].err
    assert output.read_bytes() == expected


def kill_the_second(rank: int) -> None:
    """The second process ends without a word in the second chunk that it writes."""
    end_the_second(rank, lambda: os.kill(os.getpid(), signal.SIGKILL))


def fill_the_disk_of_the_second(rank: int) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    end_the_second(rank, fail)


def end_the_second(rank: int, end: Callable[[], None]) -> None:
    take_small_chunks(rank)
    write, written = Parts.write, []

    def write_or_end(parts: Parts, index: int, *arguments: Any) -> None:
        written.append(index)
        if rank == 1 and len(written) == 2:
            end()
        write(parts, index, *arguments)

    Parts.write = write_or_end


@pytest.mark.parametrize("prepare", [kill_the_second, fill_the_disk_of_the_second])
def test_if_one_process_ends_the_others_do_and_the_same_command_goes_on(
    prepare: Callable[[int], None],
    one: Path,
    texts: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    file, output = write_csv(tmp_path / "texts.csv", texts), tmp_path / "out.csv"
    expected = predict_alone(one, file, tmp_path / "whole.csv", monkeypatch)
    ended = run_processes(2, predict_words(one, file, output), tmp_path / "logs", prepare)
    kept, error = ended[0].err.splitlines()[-2:]
    assert ended[0].code == 2
    assert error == "wave-network predict: ConnectionError: Another one of the 2 processes has ended."
    assert kept == f"Finished chunks that are kept in '{tmp_path / '.out.csv.parts'}': 5."
    if prepare is kill_the_second:
        assert ended[1].code == -signal.SIGKILL
    else:
        assert ended[1].code == 2
        assert "No space left on device" in ended[1].err.splitlines()[-1]
    assert not output.exists()
    assert list_parts(output) == [0, 1, 2, 4, 6]

    classified = []
    classify = predict_module.Classifier.classify
    monkeypatch.setattr(
        predict_module.Classifier, "classify", lambda self, rows: classified.append(len(rows)) or classify(self, rows)
    )
    capsys.readouterr()
    assert predict_alone(one, file, output, monkeypatch) == expected
    assert classified == [7, 7, 1]
    assert "An interrupted run goes on. Finished chunks: 5." in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "out.csv", "texts.csv", "whole.csv"]


def test_one_process_reports_a_bad_row_and_the_work_before_it_is_kept(
    one: Path, texts: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, output = write_csv(tmp_path / "texts.csv", texts), tmp_path / "out.csv"
    expected = predict_alone(one, file, tmp_path / "whole.csv", monkeypatch)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:32], b"a field, too many\n", *lines[32:]]))  # in the fifth chunk
    ended = run_processes(3, predict_words(one, file, output), tmp_path / "logs", take_small_chunks)
    assert [each.code for each in ended] == [2, 2, 2]
    reports = [[line for line in each.err.splitlines() if line.startswith("wave-network")] for each in ended]
    assert [len(lines) for lines in reports] == [0, 1, 0]
    assert "got 2 in the row that ends in line 33" in reports[1][0]
    assert list_parts(output) == [0, 1, 2, 3]

    write_csv(file, texts)
    assert predict_alone(one, file, output, monkeypatch) == expected


def test_what_all_processes_refuse_one_reports(one: Path, tmp_path: Path):
    file = write_csv(tmp_path / "texts.csv", [{"text": "goal"}])
    ended = run_processes(2, predict_words(one, file, Path("-")), tmp_path / "logs")
    assert [each.code for each in ended] == [2, 2]
    assert "`output` must be a file where 2 processes share the work, got '-'" in ended[0].err
    assert ended[1].err == ""
    assert ended[0].out == ""


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch):
    assert predict_module.choose_device() == ("cuda:0" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices = []
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        devices.append(predict_module.choose_device())
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]


# torchrun itself


def test_the_example_trains_and_predicts_under_torchrun(data: Path, tmp_path: Path):
    script = Path(__file__).parent.parent / "examples" / "distributed.sh"
    file = write_csv(tmp_path / "texts.csv", [{"text": row["text"]} for row in make_rows(9, seed=8)])
    run = tmp_path / "run"
    fsdp = {"fsdp": True} if is_accelerate_available(ACCELERATE) else {}
    settings = small_words(data, run, num_train_epochs=1, **fsdp)[5:]  # the script has the first ones
    process = subprocess.run(
        ["sh", str(script), str(data), str(file), *settings],
        env=os.environ
        | {
            "RUN": str(run),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    assert read_metrics(run)["settings"]["processes"] == 2
    assert is_sharded(next(run.glob("checkpoint-*"))) == bool(fsdp)
    assert process.stdout.endswith(f"Written: {file}.predictions.csv\n")
    with open(f"{file}.predictions.csv", newline="") as rows:
        assert [row["row"] for row in csv.DictReader(rows)] == [str(index) for index in range(9)]
