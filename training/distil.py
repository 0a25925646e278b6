"""`wave-network distil`: a Wave Network learns the sentence vectors of another encoder, its teacher.

Four stages, each kept in a work folder under a hash of what decides it, so that a run that was stopped goes on: passages
and their tokens, the teacher's vectors of single tokens, its vectors of the passages, training.
"""

import hashlib
import json
import logging
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from huggingface_hub import snapshot_download
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainingArguments

from ..configuration import WaveConfig
from ..data.read import read_texts
from ..files import (
    describe_run,
    open_folder,
    open_whole,
    read_json,
    refuse_existing,
    write_json,
    write_table,
    write_text,
)
from ..modeling_wave import WaveModel
from ..tokenization import load_wave_tokenizer, spell, train_wave_tokenizer

logger = logging.getLogger(__name__)

# Passages in a file of vectors.
SHARD = 4096
# The standard deviation of a new table. Training is far worse from one of unit variance.
TABLE_SCALE = 0.3


@dataclass
class DistilArguments:
    """What a Wave Network learns from whom."""

    teacher: str = field(
        metadata={
            "help": "Encoder to learn from: a folder or name that sentence-transformers loads, or a Parquet file with "
            "the columns `text` and `vector`."
        }
    )
    output_dir: str = field(metadata={"help": "Folder for the encoder."})
    texts: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files with texts, as `predict` reads them. FILE:0.1 takes a tenth of its rows. Not with a Parquet "
            "file, which has them."
        },
    )
    licenses: list[str] = field(
        default_factory=list, metadata={"help": "Terms of each of these files, for the card, in their order."}
    )
    teacher_pooling: Literal["mean", "cls"] | None = field(
        default=None, metadata={"help": "How the vector of a text is made. Default: as the teacher says, else 'mean'."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Tokenizer: folder, name or file. Default: trained on the passages."}
    )
    vocab_size: int = field(default=20_000, metadata={"help": "Vocabulary of a tokenizer that is trained here."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the encoder."})
    config: dict | str | None = field(
        default=None, metadata={"help": "Other fields of WaveConfig as JSON, such as '{\"conv_kernel_size\": 5}'."}
    )
    min_words: int = field(default=5, metadata={"help": "Words of the shortest passage."})
    max_words: int = field(default=64, metadata={"help": "Words of the longest; a longer text is cut into several."})
    max_passages: int | None = field(default=None, metadata={"help": "Passages to learn from. Default: all."})
    max_length: int = field(default=128, metadata={"help": "Longest passage in tokens; the rest is cut off."})
    held_out: int = field(default=2000, metadata={"help": "Passages among them that are only measured on."})
    num_train_epochs: float = field(default=3, metadata={"help": "Passes over the passages."})
    batch_size: int = field(default=128, metadata={"help": "Passages in a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Highest learning rate of AdamW."})
    table_learning_rate: float = field(default=1e-3, metadata={"help": "The same of the embeddings of the tokens."})
    warmup_steps: int = field(default=200, metadata={"help": "Steps up to that rate, which then falls to zero."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout while it learns, and in its config.json."})
    contrast: float = field(
        default=0.1, metadata={"help": "Weight of the loss that tells the passages of a batch apart."}
    )
    temperature: float = field(default=0.05, metadata={"help": "Temperature of that loss."})
    eval_steps: int = field(default=500, metadata={"help": "Steps between measurements, at which it can go on."})
    early_stopping_patience: int = field(default=3, metadata={"help": "Stop after so many without a new best."})
    save_dtype: Literal["float32", "float16"] = field(default="float32", metadata={"help": "Precision of the file."})
    work_dir: str | None = field(default=None, metadata={"help": "Default: `work` in the output folder."})
    seed: int = field(default=0, metadata={"help": "Decides which texts, their order, and the start."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        self.config = json.loads(self.config) if isinstance(self.config, str) else self.config or {}
        least = {"min_words": 1, "max_words": self.min_words, "held_out": 1, "batch_size": 2, "max_length": 3}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(f"`{name}` must be at least {number}, got {getattr(self, name)}.")
        if bool(self.texts) == is_table(self.teacher):
            wrong = "given" if self.texts else "missing"
            raise ValueError(f"`texts` go with a teacher, and not with a Parquet file of vectors; they are {wrong}.")
        if self.licenses and len(self.licenses) != len(self.texts):
            raise ValueError(f"`licenses` must be one for each of {len(self.texts)} files, got {len(self.licenses)}.")


class Student(nn.Module):
    """A Wave Network and a linear map from the mean of its tokens to the teacher's vectors."""

    def __init__(self, wave: WaveModel, size: int, contrast: float, temperature: float):
        super().__init__()
        self.wave = wave
        self.project = nn.Linear(wave.config.hidden_size, size)
        self.contrast, self.temperature = contrast, temperature

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, vectors: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """
        The loss (1 - cos) / 2 + `contrast` * InfoNCE (van den Oord et al., 2018, arXiv 1807.03748, eq. 4) of B texts,
        and their vectors of length 1, (B, T), against those of the teacher, (B, T).
        """
        pooled_BD = self.wave(input_ids, attention_mask, pooling="mean").pooler_output
        found_BT = normalize(self.project(pooled_BD), dim=-1)
        loss = (1 - (found_BT * vectors).sum(-1).mean()) / 2
        own = torch.arange(len(vectors), device=vectors.device)
        loss = loss + self.contrast * cross_entropy(found_BT @ vectors.T / self.temperature, own)
        return {"loss": loss, "found": found_BT}


class Vectors:
    """The teacher's vectors in their files, read where they are needed; minus their mean, of length 1."""

    def __init__(self, folder: Path, count: int):
        self.shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]
        self.size = self.shards[0].shape[1]
        total, left = np.zeros(self.size), count
        for shard in self.shards[: math.ceil(count / SHARD)]:
            total, left = total + shard[:left].sum(0, dtype=np.float64), left - len(shard)
        self.mean = (total / count).astype(np.float32)

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        found = np.stack([self.shards[row // SHARD][row % SHARD] for row in rows]).astype(np.float32)
        return normalize(torch.from_numpy(found - self.mean), dim=-1)


def distil(arguments: DistilArguments, make_model: Callable[[WaveConfig], WaveModel] = WaveModel) -> Path:
    """
    Trains an encoder on the vectors of a teacher, and leaves a folder that `AutoModel`, `SentenceTransformer`, `finetune
    --model` and `export` read: model, tokenizer, modules.json, metrics.json and a card. The same call goes on with a
    run that was stopped.

    Args:
        make_model: Makes the model, for a study of other ones.

    Raises:
        FileExistsError: There is an encoder in the output folder.
        ValueError: A setting or a file is not as described; there are too few passages.
        OSError: There is no such teacher or file.
    """
    target = Path(arguments.output_dir)
    refuse_existing(target / "config.json")
    work = Path(arguments.work_dir or target / "work")
    work.mkdir(parents=True, exist_ok=True)
    teacher = None if is_table(arguments.teacher) else load_teacher(arguments)
    weights = hash_weights(arguments.teacher)
    passages = get_passages(arguments, work)
    count = min(arguments.max_passages or len(passages), len(passages))
    if count <= arguments.held_out:
        raise ValueError(f"`held_out` ({arguments.held_out}) must be less than the {count} passages.")
    tokenizer = get_tokenizer(arguments, work, passages, count)
    tokens = encode(passages, tokenizer, count, arguments.max_length, work)
    table = None if teacher is None else get_table(arguments, work, teacher, tokenizer, weights)
    vectors = Vectors(get_vectors(arguments, work, teacher, passages, count, weights), count)
    config = WaveConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden_size,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=arguments.dropout,
        **{"conv_kernel_size": 3, "position_embedding_type": "none"} | arguments.config,
    )
    torch.manual_seed(arguments.seed)
    student = Student(make_model(config), vectors.size, arguments.contrast, arguments.temperature)
    if table is not None:
        student.wave.get_input_embeddings().weight.data.copy_(torch.from_numpy(table))
    metrics = train(arguments, student, tokenizer, tokens, vectors, name_stage(work, "training", arguments, weights))
    metrics |= {"passages": count, "teacher": arguments.teacher, "teacher_sha256": weights, **describe_run()}
    save(arguments, student, tokenizer, metrics, target)
    return target


# --- Stages ----------------------------------------------------------------------------------------------------------


def name_stage(work: Path, name: str, *decided_by: Any) -> Path:
    settings = json.dumps([vars(each) if hasattr(each, "__dict__") else each for each in decided_by], sort_keys=True)
    return work / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def describe_passages(arguments: DistilArguments) -> list[Any]:
    """What decides which passages there are, and their order."""
    files = [split_share(each) for each in arguments.texts] or [(arguments.teacher, 1.0)]
    stamps = [[str(Path(path).resolve()), share, os.stat(path).st_mtime_ns] for path, share in files]
    return [stamps, arguments.min_words, arguments.max_words, arguments.seed]


def get_passages(arguments: DistilArguments, work: Path) -> Dataset:
    """All passages in random order, each once, in a file that is not read into memory."""
    folder = name_stage(work, "passages", *describe_passages(arguments))
    if not folder.exists():
        with open_folder(folder) as unfinished:
            if is_table(arguments.teacher):
                rows = Dataset.from_parquet(arguments.teacher, cache_dir=str(unfinished / "cache"))
                missing = {"text", "vector"} - set(rows.column_names)
                if missing:
                    raise ValueError(f"{arguments.teacher!r} must have the columns `text` and `vector`.")
                rows.select_columns(["text", "vector"]).shuffle(seed=arguments.seed).save_to_disk(unfinished)
                shutil.rmtree(unfinished / "cache")
            else:
                passages = list(dict.fromkeys(cut_passages(arguments)))
                random.Random(arguments.seed).shuffle(passages)
                Dataset.from_dict({"text": passages}).save_to_disk(unfinished)
    return load_from_disk(folder)


def cut_passages(arguments: DistilArguments) -> Iterator[str]:
    chooser = random.Random(arguments.seed)
    for each in tqdm(arguments.texts, "Passages", disable=arguments.disable_tqdm):
        path, share = split_share(each)
        for rows in read_texts(path):
            for row in rows:
                words = " ".join(row.values()).split()
                if share == 1 or chooser.random() < share:
                    for start in range(0, len(words), arguments.max_words):
                        passage = words[start : start + arguments.max_words]
                        if len(passage) >= arguments.min_words:
                            yield " ".join(passage)


def split_share(name: str) -> tuple[str, float]:
    """`FILE` or `FILE:SHARE`; a ValueError if the share is no number above 0 and up to 1."""
    path, colon, share = name.rpartition(":")
    if not colon or Path(name).exists():
        return name, 1.0
    try:
        if 0 < float(share) <= 1:
            return path, float(share)
    except ValueError:
        pass
    raise ValueError(f"`texts` must be FILE or FILE:SHARE, with a share above 0 and up to 1, got {name!r}.")


def get_tokenizer(arguments: DistilArguments, work: Path, passages: Dataset, count: int) -> PreTrainedTokenizerBase:
    if arguments.tokenizer is not None:
        return load_wave_tokenizer(arguments.tokenizer)
    folder = name_stage(work, "tokenizer", *describe_passages(arguments), count, arguments.vocab_size)
    if not folder.exists():
        texts = (text for rows in passages.select(range(count)).iter(1000) for text in rows["text"])
        tokenizer = train_wave_tokenizer(texts, arguments.vocab_size, show_progress=not arguments.disable_tqdm)
        with open_folder(folder) as unfinished:
            tokenizer.save_pretrained(unfinished)
    return load_wave_tokenizer(folder)


def encode(passages: Dataset, tokenizer: PreTrainedTokenizerBase, count: int, max_length: int, work: Path) -> Dataset:
    """The tokens of the first passages, their number and the row of each, in a file that is not read into memory."""

    def cut(rows: dict[str, list], indices: list[int]) -> dict[str, list]:
        ids = tokenizer(rows["text"], truncation=True, max_length=max_length)["input_ids"]
        return {"input_ids": ids, "length": [len(each) for each in ids], "row": indices}

    vocabulary = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    file = name_stage(work, "tokens", passages._fingerprint, vocabulary, count, max_length)
    return passages.select(range(count)).map(
        cut, with_indices=True, batched=True, remove_columns=passages.column_names, cache_file_name=f"{file}.arrow",
        desc="Tokens",
    )  # fmt: skip


def get_table(
    arguments: DistilArguments, work: Path, teacher: Any, tokenizer: PreTrainedTokenizerBase, weights: dict[str, str]
) -> np.ndarray:
    """What the teacher has for each token alone, (V, D): minus the mean, in the D directions in which they differ most."""
    file = name_stage(work, "table", weights, arguments.teacher_pooling, sorted(tokenizer.get_vocab().items()))
    file = file.with_suffix(f".{arguments.hidden_size}.npy")
    if not file.exists():
        spellings = spell(tokenizer)
        ids = range(len(tokenizer))
        words = [tokenizer.decode([index]).strip() for index in ids] if spellings is None else [s for s, _ in spellings]
        special = set(tokenizer.all_special_ids)
        known = [index for index in ids if words[index] and index not in special]
        bar = not arguments.disable_tqdm
        vectors = teacher.encode([words[index] for index in known], batch_size=64, show_progress_bar=bar)
        vectors = torch.from_numpy(np.asarray(vectors, np.float32))
        vectors = vectors - vectors.mean(0)
        directions = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, : arguments.hidden_size]
        table = torch.zeros(len(tokenizer), arguments.hidden_size)
        known_VD = vectors @ directions
        table[known, : known_VD.shape[1]] = known_VD * (TABLE_SCALE / known_VD.std())
        with open_whole(file, "wb") as opened:
            np.save(opened, table.numpy())
    return np.load(file)


def get_vectors(
    arguments: DistilArguments,
    work: Path,
    teacher: Any,
    passages: Dataset,
    count: int,
    weights: dict[str, str],
) -> Path:
    """The teacher's vectors of the first passages, in files of `SHARD` rows of fp16."""
    folder = name_stage(work, "vectors", *describe_passages(arguments), weights, arguments.teacher_pooling)
    folder.mkdir(exist_ok=True)
    for start in tqdm(range(0, count, SHARD), "Teacher's vectors", disable=arguments.disable_tqdm):
        file = folder / f"{start // SHARD:05d}.npy"
        if not file.exists():
            rows = passages[start : start + SHARD]
            vectors = rows["vector"] if teacher is None else teacher.encode(rows["text"], batch_size=16)
            with open_whole(file, "wb") as opened:
                np.save(opened, np.asarray(vectors, np.float16))
    return folder


def train(
    arguments: DistilArguments,
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Dataset,
    vectors: Vectors,
    folder: Path,
) -> dict[str, Any]:
    """Trains the student, and returns what is measured on the passages that were held out."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [torch.tensor(row["input_ids"]) for row in rows]
        return {
            "input_ids": pad_sequence(texts, batch_first=True, padding_value=tokenizer.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(text) for text in texts], batch_first=True),
            "vectors": vectors[[row["row"] for row in rows]],
        }

    def measure(evaluated: Any) -> dict[str, float]:
        found, wanted = torch.from_numpy(evaluated.predictions), torch.from_numpy(evaluated.label_ids)
        nearest = torch.cat([(part @ wanted.T).argmax(-1) for part in found.split(1024)])
        is_own = nearest == torch.arange(len(wanted))
        return {"cosine": (found * wanted).sum(-1).mean().item(), "found": is_own.float().mean().item()}

    table = student.wave.get_input_embeddings().weight
    rest = [parameter for parameter in student.parameters() if parameter is not table]
    groups = [
        {"params": [table], "lr": arguments.table_learning_rate, "weight_decay": 0.0},
        {"params": rest, "lr": arguments.learning_rate, "weight_decay": 0.01},
    ]
    trainer = Trainer(
        student,
        TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=arguments.num_train_epochs,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=256,
            warmup_steps=arguments.warmup_steps,
            train_sampling_strategy="group_by_length",
            eval_strategy="steps",
            eval_steps=arguments.eval_steps,
            save_steps=arguments.eval_steps,
            logging_steps=arguments.eval_steps,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="cosine",
            dataloader_drop_last=True,
            label_names=["vectors"],
            remove_unused_columns=False,
            report_to="none",
            seed=arguments.seed,
            disable_tqdm=arguments.disable_tqdm,
        ),
        data_collator=collate,
        train_dataset=tokens.select(range(arguments.held_out, len(tokens))),
        eval_dataset=tokens.select(range(arguments.held_out)),
        compute_metrics=measure,
        callbacks=[EarlyStoppingCallback(arguments.early_stopping_patience)],
        optimizers=(torch.optim.AdamW(groups, fused=True), None),
    )
    # Trainer writes this file of a checkpoint last: one without it was cut short.
    complete = folder.glob("checkpoint-*/trainer_state.json")
    last = max((path.parent for path in complete), key=lambda path: int(path.name.split("-")[1]), default=None)
    trainer.train(resume_from_checkpoint=last and str(last))
    measured = trainer.evaluate()
    return {name: round(measured[f"eval_{name}"], 4) for name in ("cosine", "found")} | {
        "steps": trainer.state.global_step
    }


# --- Teacher and result ----------------------------------------------------------------------------------------------


def is_table(teacher: str) -> bool:
    return teacher.endswith(".parquet")


def fetch_teacher(name: str) -> str:
    """The folder of a teacher; that of a name on the Hub is downloaded."""
    return name if Path(name).is_dir() else snapshot_download(name, ignore_patterns=["onnx/*", "openvino/*", "*.h5"])


def load_teacher(arguments: DistilArguments) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling
    except ImportError as error:
        raise ImportError(
            f'A teacher needs sentence-transformers: pip install "wave-network[sentence-transformers]" ({error})'
        ) from error
    folder = fetch_teacher(arguments.teacher)
    if arguments.teacher_pooling is None:
        return SentenceTransformer(folder)
    transformer = Transformer(folder)
    size = transformer.get_embedding_dimension()
    return SentenceTransformer(modules=[transformer, Pooling(size, pooling_mode=arguments.teacher_pooling)])


def hash_weights(teacher: str) -> dict[str, str]:
    """The sha256 of each file of weights of a teacher."""
    if is_table(teacher):
        files = [Path(teacher)]
    else:
        folder = Path(fetch_teacher(teacher))
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin"))
    return {path.name: hashlib.sha256(np.memmap(path, np.uint8, "r")).hexdigest() for path in files}


def save(
    arguments: DistilArguments,
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    metrics: dict[str, Any],
    target: Path,
) -> None:
    """Writes the encoder; config.json, by which a folder is a model, takes its name last."""
    finished = target / "finished"
    with open_folder(finished, overwrite=True) as folder:
        wave = student.wave.to(getattr(torch, arguments.save_dtype))
        wave.save_pretrained(folder)
        write_json(folder / "config.json", read_json(folder / "config.json") | {"dtype": "float32"})
        tokenizer.save_pretrained(folder)
        kinds = {"": "Transformer", "1_Pooling": "Pooling"}
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ]
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": wave.config.hidden_size, "pooling_mode_mean_tokens": True}
        write_json(folder / "1_Pooling" / "config.json", pooling)
        write_json(folder / "modules.json", modules)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": tokenizer.model_max_length})
        write_json(folder / "metrics.json", metrics)
        write_text(folder / "README.md", describe(arguments, wave, metrics))
    for path in sorted(finished.iterdir(), key=lambda path: path.name == "config.json"):
        shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)
    finished.rmdir()


def describe(arguments: DistilArguments, wave: WaveModel, metrics: dict[str, Any]) -> str:
    """The card of an encoder."""
    names = [split_share(each) for each in arguments.texts] or [(arguments.teacher, 1.0)]
    licenses = arguments.licenses or ["not stated"] * len(names)
    texts = [
        {"texts": Path(name).name, "share": f"{share:g}", "terms": terms}
        for (name, share), terms in zip(names, licenses, strict=True)
    ]
    hashes = [{"file": name, "sha256": value} for name, value in metrics["teacher_sha256"].items()]
    return CARD.format(
        teacher=Path(arguments.teacher).name if Path(arguments.teacher).exists() else arguments.teacher,
        texts=write_table(texts),
        hashes=write_table(hashes),
        parameters=f"{wave.num_parameters():,}",
        held_out=arguments.held_out,
        size=wave.config.hidden_size,
        **metrics,
    )


CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [wave-network, sentence-transformers]
---

# A Wave Network that learned from {teacher}

A [Wave Network](https://arxiv.org/abs/2411.02674) of {parameters} parameters. It gives a text the mean of its tokens,
{size} numbers, and learned in {steps:,} steps to point where the vectors of its teacher do. Their cosine on {held_out:,}
passages that it did not learn from is {cosine}; it finds {found:.1%} of them among the teacher's vectors of all.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER", trust_remote_code=True)
vectors = model.encode(["a text", "another"])
```

## What it read
{passages:,} passages. What the teacher read before is on the teacher's card.

{texts}
## Teacher
{teacher}

{hashes}"""
