"""Every setting of `finetune` has an effect, or only must run, or is tried in another file; others are refused."""

import hashlib
import re
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from small_runs import finetune_small, make_rows, read_metrics, write_csv

from wave_network.files import read_json
from wave_network.training.settings import IDLE, DataArguments, ModelArguments, RunArguments

# A value that changes what a run is, in its weights, files, records or words; and what the run beside has, too.
EFFECTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "validation_fraction": (0.3, {}),
    "tokenizer": ("RUN", {"vocab_size": None}),
    "vocab_size": (60, {}),
    "lowercase": (False, {}),
    "max_length": (8, {}),
    "hidden_size": (8, {}),
    "num_hidden_layers": (2, {}),
    "intermediate_size": (8, {}),
    "conv_kernel_size": (0, {}),
    "ngram_vocab_size": (50, {}),
    "ngram_size": (3, {"ngram_vocab_size": 50}),
    "ngram_hidden_size": (4, {"ngram_vocab_size": 50}),
    "wave_operation": ("interference", {}),
    "magnitude": ("rms", {}),
    "restore": ("magnitude", {}),
    "classifier_pooling": ("max", {}),
    "position_embedding_type": ("none", {}),
    "hidden_dropout_prob": (0.5, {}),
    "token_dropout_prob": (0.3, {}),
    "mixup_alpha": (1.0, {}),
    "subword_buckets": (64, {}),
    "class_weights": ("balanced", {}),
    "early_stopping_patience": (1, {"learning_rate": 1e-9}),
    "early_stopping_threshold": (0.9, {"early_stopping_patience": 1}),
    "ema_decay": (0.5, {}),
    "calibrate": (True, {}),
    "save_dtype": ("float16", {}),
    "learning_rate": (0.1, {}),
    "num_train_epochs": (2, {}),
    "max_steps": (5, {"num_train_epochs": None}),
    "per_device_train_batch_size": (4, {}),
    "gradient_accumulation_steps": (2, {}),
    "eval_strategy": ("no", {}),
    "eval_steps": (14, {"eval_strategy": "steps"}),
    "save_strategy": ("best", {}),
    "save_total_limit": (1, {}),
    "load_best_model_at_end": (False, {}),
    "metric_for_best_model": ("loss", {}),
    "logging_strategy": ("no", {}),
    "logging_steps": (3, {"logging_strategy": "steps"}),
    "train_sampling_strategy": ("random", {}),
    "seed": (7, {}),
    "lr_scheduler_type": ("cosine", {}),
    "lr_scheduler_kwargs": ('{"power": 3}', {"lr_scheduler_type": "polynomial"}),
    "warmup_steps": (9, {}),
    "optim": ("sgd", {}),
    "optim_args": ("momentum=0.9", {"optim": "rmsprop"}),
    "weight_decay": (0.9, {}),
    "adam_beta1": (0.5, {}),
    "adam_beta2": (0.5, {}),
    "adam_epsilon": (0.1, {}),
    "max_grad_norm": (0.1, {}),
    "label_smoothing_factor": (0.3, {}),
    "bf16": (True, {}),
}
# For a setting that has no effect beside another one: a value that it may have.
OTHERS = {"unlabelled": ["a.csv"], "metric_for_best_model": "loss", "hub_strategy": "every_save", "run_name": "a"}
OTHERS |= {"lr_scheduler_kwargs": "{}"}
# Changes memory, time, where it is computed or what is looked out for, and by no more than rounding what is learned.
RUN_ALONE: list[dict[str, Any]] = [
    {"packing": True, "per_device_eval_batch_size": 3, "dataloader_num_workers": 1, "disable_tqdm": False},
    {"gradient_checkpointing": True},
    {"torch_compile": True},
]
ELSEWHERE = {
    "test_data.py, test_readers.py": (
        *("dataset", "validation_cut", "train_file", "validation_file", "test_file", "dataset_config", "text_columns"),
        *("label_column", "task", "label_separator", "delimiter", "encoding", "no_header"),
        *("train_split", "validation_split", "test_split"),
    ),
    "test_finetune.py, test_few.py, test_beside.py": (
        *("model", "teacher", "unlabelled", "output_dir", "resume_from_checkpoint", "use_cpu", "fp16", "report_to"),
        *("hub_token", "hub_model_id", "push_to_hub", "no_baseline"),
    ),
}


def test_every_setting_is_known():
    own = {each.name for kind in (DataArguments, ModelArguments, RunArguments) for each in fields(kind) if each.init}
    known = {*EFFECTS, *IDLE, *chain(*RUN_ALONE, *ELSEWHERE.values())}
    assert own <= known, f"put {own - known} into EFFECTS"


@pytest.mark.parametrize("name", sorted(IDLE))
def test_a_setting_without_effect_is_refused(name: str, tmp_path: Path):
    other, values = IDLE[name]
    kind: Any = RunArguments if name in RunArguments.__dataclass_fields__ else ModelArguments
    default, value = kind.__dataclass_fields__[name].default, OTHERS.get(name)
    settings = {name: value or {bool: not default}.get(type(default), 1), other: values[0] if values else "RUN"}
    with pytest.raises(ValueError, match=f"`{name}` has no effect with(out)? `{other}`"):
        kind(**settings | ({"output_dir": str(tmp_path), "use_cpu": True} if kind is RunArguments else {}))


@pytest.mark.parametrize("name", ["fsdp", "do_train", "eval_on_start", "local_rank"])
def test_other_settings_of_transformers_are_for_its_trainer(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"{name} is not a setting of finetune; use transformers' Trainer"):
        RunArguments(str(tmp_path), **{name: True})


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of skewed classes, some in capitals."""
    made = [*make_rows(72, 0), *make_rows(40, 1, ["sport"])]
    for index, row in enumerate(made):
        row |= {"text": row["text"].upper() if index % 4 == 0 else row["text"]}
    return write_csv(tmp_path_factory.mktemp("rows") / "train.csv", made)


@pytest.mark.parametrize("settings", RUN_ALONE, ids=lambda settings: next(iter(settings)))
def test_settings_of_transformers_run(settings: dict[str, Any], rows: Path, tmp_path: Path):
    run = finetune_small(rows, tmp_path / "run", num_train_epochs=1, **settings)
    assert read_metrics(run)["end"]["epoch"] == 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_changes_the_run(
    name: str, rows: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    value, beside = EFFECTS[name]
    seen = []
    for change in ({}, {name: run if value == "RUN" else value}):
        finetune_small(rows, Path("run"), text_columns="text", label_column="label", **beside | change)
        seen.append(observe(Path("run"), capfd))
        Path("run").rename(f"run-{len(seen)}")
    assert seen[0] != seen[1]


def observe(run: Path, capfd: pytest.CaptureFixture[str]) -> list[Any]:
    """What a run left and said, without what differs from one run to the next, and what only repeats its settings."""
    out, _ = capfd.readouterr()
    record = read_metrics(run)
    for name in ("command", "settings", "created", "duration_seconds", "seed"):
        del record[name]
    logs = [read_json(file)["log_history"] for file in sorted(run.glob("checkpoint-*/trainer_state.json"))]
    logs = [
        {name: value for name, value in log.items() if "per_second" not in name and "runtime" not in name}
        for log in chain.from_iterable(logs)
    ]
    weights = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    files = sorted(str(file.relative_to(run)) for file in run.rglob("*"))
    said = [re.sub(r"[\d.]+", "", line) for line in out.splitlines() if not line.startswith(("{", "Done"))]
    return [record, logs, weights, (run / "config.json").read_text(), files, said]
