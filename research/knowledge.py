"""What an encoder knows that learned from a teacher, form by form: `python -m wave_network.research.knowledge`.

Each form is distilled on the same passages, then measured: cosine on held-out passages, and accuracy after 64 and 1,000
labelled rows, on other rows of the same training file. No test set is read. Results are lines of
results/knowledge.jsonl; what stands there is not run again.
"""

import argparse
import csv
import gzip
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

from wave_network.configuration import WaveConfig
from wave_network.files import append_line, describe_run, read_json, read_lines
from wave_network.modeling_wave import WaveForSequenceClassification, WaveModel
from wave_network.modeling_wave.modeling_wave import WaveMixing
from wave_network.research.baselines import Bag, NoContext, NoPhase
from wave_network.research.english import TEXTS
from wave_network.training.distil import DistilArguments, distil
from wave_network.training.probe import shrink

RESULTS = Path(__file__).parent / "results" / "knowledge.jsonl"
HELD_OUT = 1000  # rows that a draw is measured on


@dataclass
class Form:
    """An encoder to compare: fields of its config, another operation in place of the wave's, other settings."""

    config: dict[str, Any] = field(default_factory=dict)
    mixing: type[WaveMixing] = WaveMixing
    settings: dict[str, Any] = field(default_factory=dict)


def make_forms() -> dict[str, Form]:
    forms = {}
    for operation in ("interference", "modulation"):
        for magnitude in ("l2", "rms"):
            config = {"wave_operation": operation, "magnitude": magnitude}
            forms[f"{operation}, {magnitude}"] = Form(config)
            forms[f"{operation}, {magnitude}, without phase"] = Form(config, NoPhase)
        forms[f"{operation}, without context"] = Form({"wave_operation": operation}, NoContext)
    forms["plain block"] = Form({}, Bag)
    return forms


FORMS = make_forms()


@dataclass(frozen=True)
class Task:
    """A file of labelled rows and how long its texts are read."""

    file: str
    max_length: int
    min_words: int = 0


TASKS = {
    "ag": Task("ag_news/train.csv.gz", 128),
    "sst2": Task("sst2/train.csv.gz", 64, min_words=6),  # its shorter rows are phrases of the others
    "trec": Task("trec6/train.csv", 64),
    "emotion": Task("eval/emotion/train.csv.gz", 64),
    "20ng": Task("20ng/train.csv.gz", 256),
}


def read_task(data: Path, task: Task) -> tuple[list[str], list[str]]:
    csv.field_size_limit(2**31 - 1)
    opened = gzip.open if task.file.endswith(".gz") else open
    with opened(data / task.file, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if len(row["text"].split()) >= task.min_words]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def draw_rows(labels: list[str], count: int, draw: int) -> tuple[list[int], list[int]]:
    """Rows to learn from, each class at least twice, and `HELD_OUT` others to measure on."""
    order = list(range(len(labels)))
    random.Random(100 + draw).shuffle(order)
    seen: dict[str, int] = {}
    first = []
    for row in order:
        seen[labels[row]] = seen.get(labels[row], 0) + 1
        if seen[labels[row]] <= 2:
            first.append(row)
    chosen = dict.fromkeys([*first, *(row for row in order if row not in set(first))])
    order = list(chosen)
    return order[:count], order[count : count + HELD_OUT]


def batch_up(ids: list[list[int]], size: int, chooser: random.Random | None) -> list[list[int]]:
    """Rows in batches of like length; in random order, if there is a chooser."""
    order = list(range(len(ids)))
    if chooser is not None:
        chooser.shuffle(order)
        near = size * 20
        order = [
            row
            for start in range(0, len(order), near)
            for row in sorted(order[start : start + near], key=lambda row: len(ids[row]))
        ]
    else:
        order.sort(key=lambda row: len(ids[row]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if chooser is not None:
        chooser.shuffle(batches)
    return batches


def collate(ids: list[list[int]], rows: list[int]) -> dict[str, torch.Tensor]:
    texts = [torch.tensor(ids[row]) for row in rows]
    masks = [torch.ones_like(text) for text in texts]
    return {"input_ids": pad_sequence(texts, True), "attention_mask": pad_sequence(masks, True)}


def embed(model: WaveModel, ids: list[list[int]]) -> np.ndarray:
    """The mean of the tokens of each text."""
    found = np.zeros((len(ids), model.config.hidden_size), np.float32)
    model.eval()
    with torch.inference_mode():
        for rows in batch_up(ids, 128, None):
            found[rows] = model(**collate(ids, rows), pooling="mean").pooler_output.numpy()
    return found


def swap(model: WaveModel, mixing: type[WaveMixing]) -> WaveModel:
    for layer in model.layers:
        layer.mixing.__class__ = mixing
    return model


def load(folder: Path, form: Form, **config: Any) -> WaveForSequenceClassification:
    settings = WaveConfig.from_pretrained(folder).to_dict() | config
    model = WaveForSequenceClassification(WaveConfig.from_dict(settings))
    model.wave.load_state_dict(WaveModel.from_pretrained(folder).state_dict())
    swap(model.wave, form.mixing)
    return model


def finetune(
    model: WaveForSequenceClassification,
    train: tuple[list[list[int]], list[int]],
    held_out: tuple[list[list[int]], list[int]],
    learning_rate: float,
    epochs: int,
    seed: int,
) -> float:
    """Accuracy on the held-out rows after the last epoch."""
    (ids, labels), (other_ids, other_labels) = train, held_out
    chooser = random.Random(seed)
    size = max(4, min(32, len(ids) // 8))
    steps = epochs * -(-len(ids) // size)
    model = shrink(model, {"input_ids": [*ids, *other_ids]})  # a step costs less
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 16, steps)
    model.train()
    for _ in range(epochs):
        for rows in batch_up(ids, size, chooser):
            model(**collate(ids, rows), labels=torch.tensor([labels[row] for row in rows])).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    right = 0
    with torch.inference_mode():
        for rows in batch_up(other_ids, 128, None):
            found = model(**collate(other_ids, rows)).logits.argmax(-1)
            right += int((found == torch.tensor([other_labels[row] for row in rows])).sum())
    return 100 * right / len(other_ids)


def measure(
    folder: Path, form: Form, name: str, data: Path, count: int, draw: int, rates: list[float]
) -> dict[str, Any]:
    """Accuracy of a probe and, by learning rate, of fine-tuning, for one draw of rows."""
    task = TASKS[name]
    texts, classes = read_task(data, task)
    names = sorted(set(classes))
    parts = []
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for rows in draw_rows(classes, count, draw):
        chosen = [texts[row] for row in rows]
        ids = tokenizer(chosen, truncation=True, max_length=task.max_length)["input_ids"]
        parts.append((ids, [names.index(classes[row]) for row in rows]))
    (ids, labels), (other_ids, other_labels) = parts
    wave = load(folder, form).wave
    scaler = StandardScaler().fit(embed(wave, ids))
    probe = LogisticRegression(C=0.05, max_iter=1000).fit(scaler.transform(embed(wave, ids)), labels)
    result = {"probe": 100 * probe.score(scaler.transform(embed(wave, other_ids)), other_labels)}
    epochs = 10 if count >= 500 else 20
    for rate in rates:
        torch.manual_seed(draw)
        model = load(folder, form, num_labels=len(names), hidden_dropout_prob=0.3, classifier_dropout=0.3)
        result[f"{rate:g}"] = finetune(model, *parts, rate, epochs, draw)
    return {key: round(value, 2) for key, value in result.items()}


def run(arguments: argparse.Namespace, name: str, seed: int, draws: list[int]) -> None:
    form = FORMS[name]
    key = {"form": name, "passages": arguments.passages, "seed": seed, "teachers": len(arguments.teacher)}
    folder = arguments.work / "students" / "-".join(map(str, key.values())).replace(", ", "_").replace(" ", "_")
    lines = read_lines(RESULTS)

    def once(task: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        if not any(line.items() >= (key | task).items() for line in lines):
            start = time.process_time()
            line = key | task | make() | {"cpu_s": round(time.process_time() - start, 1)}
            append_line(RESULTS, line | describe_run())
            print(line, flush=True)

    settings = DistilArguments(
        teacher=arguments.teacher,
        teacher_dtype="bfloat16",
        texts=[f"{arguments.corpora / name}:{share}" for name, (share, _) in TEXTS.items()],
        output_dir=str(folder),
        work_dir=str(arguments.work),
        max_passages=arguments.passages,
        model_config=form.config,
        seed=0,
        eval_steps=10_000,
        disable_tqdm=True,
        **form.settings,
    )

    def make() -> dict[str, Any]:
        if not (folder / "config.json").exists():

            def build(config: WaveConfig) -> WaveModel:
                torch.manual_seed(seed)
                return swap(WaveModel(config), form.mixing)

            distil(settings, build)
        return {name: read_json(folder / "metrics.json")[name] for name in ("cosine", "found", "steps")}

    once({"task": "distil"}, make)
    for draw in draws:
        for rows in arguments.rows:
            for task in arguments.tasks:
                what = {"task": task, "rows": rows, "draw": draw}
                once(what, lambda: measure(folder, form, task, arguments.data, rows, draw, arguments.rates))  # noqa: B023


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--teacher", nargs="+", required=True)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the texts of `research.english`")
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is kept, such as teacher's vectors")
    parser.add_argument("--passages", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the encoders; draws take turns")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 1000])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["ag", "sst2", "trec", "emotion"])
    parser.add_argument("--rates", type=float, nargs="*", default=[5e-4, 1e-3, 2e-3])
    arguments = parser.parse_args()
    for place, seed in enumerate(arguments.seeds):
        draws = list(range(place, arguments.draws, len(arguments.seeds)))
        for name in arguments.forms:
            run(arguments, name, seed, draws)


if __name__ == "__main__":
    main()
