"""Every setting of `finetune` has an effect, or only must run, or is refused, or is tried in another file."""

import hashlib
import re
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import finetune_small, make_rows, read_metrics, write_csv
from transformers import TrainingArguments

from wave_network.files import read_json
from wave_network.training.settings import (
    BESIDE,
    FIXED,
    OF_GPU,
    OF_PROCESSES,
    DataArguments,
    ModelArguments,
    RunArguments,
)

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
    "eval_delay": (2, {}),
    "eval_on_start": (True, {}),
    "save_strategy": ("best", {}),
    "save_total_limit": (1, {}),
    "save_only_model": (True, {}),
    "load_best_model_at_end": (False, {}),
    "metric_for_best_model": ("loss", {}),
    "logging_strategy": ("no", {}),
    "logging_steps": (3, {"logging_strategy": "steps"}),
    "logging_first_step": (True, {}),
    "include_num_input_tokens_seen": (True, {}),
    "train_sampling_strategy": ("random", {}),
    "seed": (7, {}),
    "data_seed": (7, {}),
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
    "neftune_noise_alpha": (5.0, {}),
}
# Changes memory, time, where it is computed or what is looked out for, and by no more than rounding what is learned.
RUN_ALONE: list[dict[str, Any]] = [
    {
        "packing": True,
        "per_device_eval_batch_size": 3,
        "eval_accumulation_steps": 1,
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 2,
        "dataloader_multiprocessing_context": "fork",
        "dataloader_in_order": False,
        "logging_nan_inf_filter": False,
        "skip_memory_metrics": False,
        "disable_tqdm": False,
    },
    {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
        "eval_use_gather_object": True,
        "dataloader_pin_memory": False,
        "log_level": "error",
        "enable_jit_checkpoint": True,
        "full_determinism": True,
    },
    {"torch_compile": True, "torch_compile_backend": "eager"},
]
ELSEWHERE = {
    "test_data.py, test_readers.py": (
        *(
            "dataset",
            "validation_cut",
            "train_file",
            "validation_file",
            "test_file",
            "dataset_config",
            "text_columns",
            "label_column",
        ),
        *("task", "label_separator", "delimiter", "encoding", "no_header"),
        *("train_split", "validation_split", "test_split"),
    ),
    "test_finetune.py, test_few.py, test_beside.py": (
        *("model", "teacher", "unlabelled", "output_dir", "resume_from_checkpoint", "ignore_data_skip", "use_cpu"),
        *("report_to", "hub_token", "hub_model_id", "push_to_hub", "no_baseline"),
    ),
    "transformers, by another name or a compiler": (
        *("activation_checkpointing", "activation_checkpointing_kwargs", "torch_compile_mode", "optim_target_modules"),
    ),
}
REFUSED = {*OF_GPU, *OF_PROCESSES, *(name for names in FIXED.values() for name in names)}
OTHER_VALUES = {
    "hub_strategy": "every_save",
    "dataloader_multiprocessing_context": "fork",
    "save_steps": 3,
    "ddp_backend": "gloo",
}


def test_every_setting_is_known():
    own = {each.name for kind in (DataArguments, ModelArguments, RunArguments) for each in fields(kind)}
    known = {*EFFECTS, *REFUSED, *BESIDE, *(name for group in RUN_ALONE for name in group)}
    unknown = own - known - {name for names in ELSEWHERE.values() for name in names}
    theirs = unknown & {each.name for each in fields(TrainingArguments)}
    assert unknown == theirs, "put it into EFFECTS"
    if theirs:
        pytest.skip(f"settings of a newer transformers: {sorted(theirs)}")


@pytest.mark.parametrize("name", sorted(set(BESIDE) - {"metric_for_best_model", "save_total_limit"} | REFUSED))
def test_a_setting_without_effect_is_refused(name: str, tmp_path: Path):
    field = RunArguments.__dataclass_fields__.get(name)
    if field is None:
        pytest.skip("transformers has none")
    idle = {"lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "eval_strategy": "no"}
    if name.startswith("save_"):
        idle["save_strategy"] = "no"
    other: Any = {bool: not field.default, int: 1, float: 1.0}.get(type(field.default), "{}")
    settings = {name: OTHER_VALUES.get(name, other), "use_cpu": True}
    with pytest.raises(ValueError, match=f"`{name}`|{name}"):
        RunArguments(str(tmp_path), **idle | settings)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of skewed classes, some in capitals."""
    made = [*make_rows(72, 0), *make_rows(40, 1, ["sport"])]
    for index, row in enumerate(made):
        row |= {"text": row["text"].upper() if index % 4 == 0 else row["text"]}
    return write_csv(tmp_path_factory.mktemp("rows") / "train.csv", made)


@pytest.mark.parametrize("settings", RUN_ALONE, ids=lambda settings: next(iter(settings)))
def test_settings_of_transformers_run(settings: dict[str, Any], rows: Path, tmp_path: Path):
    known = {name: value for name, value in settings.items() if name in RunArguments.__dataclass_fields__}
    try:
        run = finetune_small(rows, tmp_path / "run", num_train_epochs=1, **known)
    finally:
        torch.use_deterministic_algorithms(False)
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
