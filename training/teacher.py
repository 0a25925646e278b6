"""`finetune --teacher`: the student learns the logits of another classifier, on labelled, unlabelled and changed texts.

What the teacher says is kept in the run folder, so that a run that was stopped goes on.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn.functional import mse_loss
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from ..data.load import TextData, read_texts
from ..data.tokens import DataCollatorWithPadding
from ..files import open_whole
from .probe import STRENGTHS, MakeTrainer, Probe, embed
from .settings import MAX_LENGTH, ModelArguments, RunArguments, set_quietly
from .trainer import ClassificationLoss, WaveTrainer, find_last

SHARE = 0.3  # of the cross-entropy in the loss
SHARD = 1024  # texts in a file of logits
DROPPED = 0.15  # share of the words that a changed copy loses
RATE, EPOCHS = 5e-5, 3.0  # of a teacher that is fine-tuned here

Texts = list[tuple[str, ...]]
Encode = Callable[[Dataset, PreTrainedTokenizerBase], Dataset]


class TeacherLoss:
    """
    The mean squared difference of centred logits (Ba and Caruana, 2014, arXiv 1312.6184, eq. 3), and `SHARE` of the
    cross-entropy on the rows that have a label. Rows of validation have labels alone, and the cross-entropy.
    """

    def __init__(self, hard: ClassificationLoss | None):
        self.hard = hard or ClassificationLoss()

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """
        Args:
            outputs: With `logits` (N, K).
            labels: (N,), or (N, 1 + K): a label, or -1 for none, and the teacher's logits.
            num_items_in_batch: The numbers in the labels of the whole step.
        """
        if labels.ndim == 1:
            return self.hard(outputs, labels, num_items_in_batch)
        rows = len(labels) if num_items_in_batch is None else num_items_in_batch / labels.shape[1]
        found_NK, taught_NK = (each - each.mean(-1, keepdim=True) for each in (outputs.logits.float(), labels[:, 1:]))
        known_N = labels[:, 0] >= 0
        known = SimpleNamespace(logits=outputs.logits[known_N])
        soft = mse_loss(found_NK, taught_NK, reduction="sum") / taught_NK.shape[1] / rows
        return soft + SHARE * self.hard(known, labels[known_N, 0].long(), rows)


class SentenceClassifier(nn.Module):
    """A sentence encoder with a head on the mean of its tokens."""

    def __init__(self, name: str, classes: int):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        self.config = self.encoder.config
        self.classifier = nn.Linear(self.config.hidden_size, classes)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        tokens_BLD = self.encoder(input_ids, attention_mask, **types).last_hidden_state
        mask_BL1 = attention_mask[..., None].to(tokens_BLD.dtype)
        logits = self.classifier((tokens_BLD * mask_BL1).sum(1) / mask_BL1.sum(1))
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def gather_texts(arguments: ModelArguments, data: TextData, columns: Sequence[str] | None, seed: int) -> Texts:
    """The training texts, the unlabelled ones, and a changed copy of each."""
    names = [name for name in ("text", "text_pair") if name in data.train.column_names]
    texts: Texts = list(zip(*(data.train[name] for name in names), strict=True))
    for file in tqdm(arguments.unlabelled or (), "Unlabelled texts", disable=None, leave=False):
        for rows in read_texts(file, text_columns=columns):
            if set(rows[0]) != set(names):
                raise ValueError(f"`unlabelled` {file!r} must have texts like the training rows, {names}.")
            texts += (tuple(row[name] for name in names) for row in rows if row["text"].strip())
    chooser = random.Random(seed)
    return texts + [tuple(change(part, chooser) for part in text) for text in texts]


def change(text: str, chooser: random.Random) -> str:
    """A text without some of its words, or with two neighbouring spans in each other's place."""
    words = text.split()
    if chooser.random() < 0.5:
        return " ".join(word for word in words if chooser.random() >= DROPPED) or text
    first, middle, last = sorted(chooser.choices(range(len(words) + 1), k=3))
    return " ".join([*words[:first], *words[middle:last], *words[first:middle], *words[last:]])


def ask_teacher(
    name: str, data: TextData, texts: Texts, arguments: RunArguments, folder: Path, encode: Encode
) -> Dataset:
    """The texts with labels (1 + K) for a `TeacherLoss`: their own, if any, and the teacher's logits."""
    decisive = json.dumps([name, data.fingerprint, arguments.seed])
    folder = folder / f"teacher-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_LENGTH)

    def make_trainer(model: Any, settings: RunArguments, rows: Dataset) -> WaveTrainer:
        return WaveTrainer(model, settings, DataCollatorWithPadding(tokenizer), rows, processing_class=tokenizer)

    labels_N1 = np.full((len(texts), 1), -1.0)
    labels_N1[: len(data.train), 0] = data.train["label"]
    columns = dict(zip(("text", "text_pair"), map(list, zip(*texts, strict=True)), strict=False))
    rows = Dataset.from_dict({**columns, "label": labels_N1[:, 0]})
    trial = set_quietly(arguments, {"train_sampling_strategy": "random"})  # the logits in the order of the texts
    trainer: WaveTrainer | None = None
    order: list[int] = []
    logits = []
    for start in tqdm(range(0, len(texts), SHARD), "Teacher's logits", disable=arguments.disable_tqdm, leave=False):
        digest = hashlib.sha256(json.dumps(texts[start : start + SHARD]).encode()).hexdigest()
        file = folder / f"{digest[:16]}.npy"
        if not file.exists():
            if trainer is None:
                model, order = load_teacher(name, data, arguments, folder, encode(data.train, tokenizer), make_trainer)
                trainer = make_trainer(model, trial, rows)
            shard = encode(rows.select(range(start, min(start + SHARD, len(texts)))), tokenizer)
            found = trainer.predict(shard.remove_columns("labels")).predictions
            with open_whole(file, "wb") as opened:
                np.save(opened, np.asarray(found)[:, order])
        logits.append(np.load(file))
    return Dataset.from_dict({**columns, "label": np.concatenate([labels_N1, np.concatenate(logits)], axis=1)})


def load_teacher(
    name: str, data: TextData, arguments: RunArguments, folder: Path, rows: Dataset, make_trainer: MakeTrainer
) -> tuple[nn.Module, list[int]]:
    """A classifier of the same classes, and where it has each of them; a sentence encoder becomes one first."""
    config, wanted = AutoConfig.from_pretrained(name, trust_remote_code=False), data.label_names
    if any(each.endswith("ForSequenceClassification") for each in config.architectures or ()):
        names = [str(config.id2label[index]) for index in range(config.num_labels)]
        if names == [f"LABEL_{index}" for index in range(len(wanted))]:
            names = wanted
        if sorted(names) != sorted(wanted):
            raise ValueError(f"`teacher` {name!r} must have the classes {wanted}, got {names}.")
        model = AutoModelForSequenceClassification.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        return model, [names.index(each) for each in wanted]
    torch.manual_seed(arguments.seed)
    student, weights = cast(Any, SentenceClassifier(name, len(wanted))), folder / "model.safetensors"
    if not weights.exists():
        print(f"The teacher {name} is fine-tuned on {len(rows):,} rows.", flush=True)
        vectors, labels = embed(student, rows, arguments, make_trainer), np.asarray(rows["labels"])
        Probe(vectors, labels, STRENGTHS[0], len(wanted)).put_into(student)
        settings: dict[str, Any] = {"learning_rate": RATE, "num_train_epochs": EPOCHS, "max_steps": -1}
        settings |= {"output_dir": str(folder), "save_strategy": "epoch", "save_total_limit": 1}
        settings |= {"per_device_train_batch_size": 16, "ema_decay": 0.0, "mixup_alpha": 0.0}
        settings |= {"disable_tqdm": arguments.disable_tqdm, "logging_strategy": "epoch"}
        last = find_last(folder)
        make_trainer(student, set_quietly(arguments, settings), rows).train(
            resume_from_checkpoint=str(last) if last else None
        )
        with open_whole(weights, "wb") as opened:
            save_model(student, opened.name)
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)
    load_model(student, weights)
    return student, list(range(len(wanted)))
