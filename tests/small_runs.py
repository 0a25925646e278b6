"""A small data set, and runs of `wave-network` on it that take about a second each."""

import csv
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from safetensors.torch import load_file
from transformers import TrainerCallback

from wave_network.cli import main
from wave_network.training import finetune

WORDS = {
    "sport": ["goal", "match", "striker", "referee", "league", "coach", "stadium", "penalty", "final", "champion"],
    "money": ["bank", "shares", "profit", "market", "interest", "trader", "inflation", "bond", "budget", "merger"],
    "space": ["orbit", "rocket", "planet", "telescope", "comet", "galaxy", "astronaut", "lunar", "probe", "gravity"],
}
SMALL = {
    "use_cpu": True,
    "disable_tqdm": True,
    "hidden_size": 16,
    "hidden_dropout_prob": 0.1,
    "vocab_size": 200,
    "max_length": 32,
    "num_train_epochs": 3,
    "learning_rate": 0.01,
    "per_device_train_batch_size": 8,
    "subword_buckets": 0,
}
INTERRUPTED = 130  # the status of a command that Ctrl-C has ended
OF_A_NEW_MODEL = ("hidden_dropout_prob", "hidden_size", "vocab_size")


def make_rows(count: int, seed: int, names: Sequence[str] = tuple(WORDS)) -> list[dict[str, str]]:
    """Texts of 1 to 12 words, most of them of the class, and enough others that no model gets every text right."""
    chooser = random.Random(seed)
    everything = [word for words in WORDS.values() for word in words]
    rows = []
    for index in range(count):
        name = names[index % len(names)]
        words = [chooser.choice(WORDS[name] if chooser.random() < 0.6 else everything) for _ in range(1 + index % 12)]
        rows.append({"text": " ".join(words), "label": name})
    return rows


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_data(folder: Path) -> Path:
    """A folder of splits. The number of test rows is odd, so that two processes share them unevenly."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "train.csv", make_rows(120, seed=0))
    write_csv(folder / "test.csv", make_rows(43, seed=1))
    return folder


def write_pairs(folder: Path) -> Path:
    """A folder of pairs of texts, the same of both or not. The second of a pair has another length than the first."""
    chooser = random.Random(0)
    rows = []
    for row in make_rows(120, seed=0):
        label = chooser.choice(("same", "other"))
        name = row["label"] if label == "same" else chooser.choice([name for name in WORDS if name != row["label"]])
        second = " ".join(chooser.choices(WORDS[name], k=3))
        rows.append({"sentence1": row["text"], "sentence2": second, "label": label})
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "train.csv", rows)
    return folder


def small_words(dataset: Path | None, output: Path, **settings: Any) -> list[str]:
    """The command line of a small run."""
    words = ["finetune", *(["--dataset", str(dataset)] if dataset else []), "--output_dir", str(output)]
    small = {name: value for name, value in SMALL.items() if "model" not in settings or name not in OF_A_NEW_MODEL}
    for name, value in (small | settings).items():
        if value is None:  # what users get who leave it out
            continue
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def finetune_small(dataset: Path | None, output: Path, **settings: Any) -> Path:
    main(small_words(dataset, output, **settings))
    return output


def read_metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def distance(run: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    weights, others = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command refuses."""
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def interrupt(dataset: Path, output: Path, saves: int, **settings: Any) -> Path:
    """Starts a run that is interrupted once it has saved so many checkpoints."""

    class Interrupt(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None:
            nonlocal saves
            saves -= 1
            if saves == 0:
                raise KeyboardInterrupt

    class InterruptedTrainer(finetune.WaveTrainer):
        def __init__(self, **arguments: Any):
            super().__init__(**arguments, callbacks=[Interrupt()])

    with patch.object(finetune, "WaveTrainer", InterruptedTrainer), pytest.raises(SystemExit) as exit_:
        finetune_small(dataset, output, **settings)
    assert exit_.value.code == INTERRUPTED
    assert not (output / "metrics.json").exists()
    return output
