"""`wave-network distil`: a Wave Network learns the sentence vectors of other encoders, its teachers.

Each stage is kept in a work folder under a hash of what decides it, so that a stopped run goes on: passages, tokenizer,
tokens, the teachers' vectors of single tokens, their vectors of the passages, training.
"""

import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn.functional import cross_entropy, normalize, pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainingArguments

from ..configuration import WaveConfig
from ..data.load import read_texts
from ..files import (
    check_source,
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
from .trainer import find_last

# Passages in a file of vectors.
SHARD = 4096
# The standard deviation of a new table: training is far worse from one of unit variance. A token that is the share p of
# all tokens is shortened by r / (r + p), as it says little (Arora et al., 2017, "A simple but tough-to-beat baseline").
TABLE_SCALE, RARE = 0.3, 1e-3
# Of a teacher: other files than safetensors may hold code.
SAFE = {"use_safetensors": True}
# Settings that do not change what is learned.
INDECISIVE = ("output_dir", "work_dir", "licenses", "save_dtype", "disable_tqdm")


@dataclass
class DistilArguments:
    """What a Wave Network learns from whom."""

    teacher: list[str] = field(
        metadata={"help": "Sentence encoders (folder, name), or a Parquet file (columns text, vector)."}
    )
    output_dir: str = field(metadata={"help": "Folder for the encoder."})
    texts: list[str] = field(default_factory=list, metadata={"help": "Files with texts; FILE:0.1 is a tenth of one."})
    licenses: list[str] = field(default_factory=list, metadata={"help": "Terms of each of these files, for the card."})
    teacher_pooling: Literal["mean", "cls"] | None = field(
        default=None,
        metadata={"help": "How the teacher makes one vector of a text. Default: as it says itself, or mean."},
    )
    teacher_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={"help": "Precision it computes in. bfloat16 is faster on a processor made for it."},
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder, name or file. Default: trained on the texts."}
    )
    vocab_size: int = field(default=20_000, metadata={"help": "Vocabulary of a tokenizer that is trained here."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the encoder."})
    model_config: dict | str | None = field(default=None, metadata={"help": "Other fields of WaveConfig, as JSON."})
    min_words: int = field(default=5, metadata={"help": "Words of the shortest passage."})
    max_words: int = field(default=64, metadata={"help": "Words of the longest; a longer text becomes several."})
    max_passages: int | None = field(default=None, metadata={"help": "Passages to learn from. Default: all."})
    max_length: int = field(default=128, metadata={"help": "Tokens of the longest passage; the rest is cut off."})
    held_out: int = field(default=2000, metadata={"help": "Passages among them that are only measured on."})
    num_train_epochs: float = field(default=3, metadata={"help": "Passes over the passages."})
    batch_size: int = field(default=128, metadata={"help": "Passages in a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Highest learning rate of AdamW."})
    table_learning_rate: float = field(default=1e-3, metadata={"help": "The same for the embeddings of the tokens."})
    warmup_steps: int = field(default=200, metadata={"help": "Steps up to that rate, which then falls to zero."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout while it learns."})
    contrast: float = field(default=0.1, metadata={"help": "Weight of the loss that tells the passages apart."})
    temperature: float = field(default=0.05, metadata={"help": "Temperature of that loss."})
    eval_steps: int = field(default=500, metadata={"help": "Steps from one measurement to the next."})
    early_stopping_patience: int = field(default=3, metadata={"help": "Stop after so many without a new best."})
    save_dtype: Literal["float32", "float16"] = field(default="float32", metadata={"help": "Precision of the file."})
    work_dir: str | None = field(default=None, metadata={"help": "Where stages are kept. Default: OUTPUT_DIR/work."})
    seed: int = field(default=0, metadata={"help": "Decides which texts are taken, their order, and the start."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self) -> None:
        self.teacher = [self.teacher] if isinstance(self.teacher, str) else self.teacher
        self.fields: dict[str, Any] = (
            json.loads(self.model_config) if isinstance(self.model_config, str) else self.model_config or {}
        )
        least = {"min_words": 1, "max_words": self.min_words, "held_out": 1, "batch_size": 2, "max_length": 3}
        least |= dict.fromkeys(("vocab_size", "max_passages", "eval_steps", "early_stopping_patience"), 1)
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not least.get(name, 0) <= value < math.inf:
                raise ValueError(f"`{name}` must be a finite number of at least {least.get(name, 0)}, got {value}.")
        for name in ("num_train_epochs", "temperature"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must be greater than 0, got 0.")
        self.make_config()
        if bool(self.texts) == self.has_vectors:
            raise ValueError(f"`texts` go with a teacher, and not with a Parquet file of vectors; got {self.texts}.")
        if self.has_vectors and len(self.teacher) > 1:
            raise ValueError(f"`teacher` must be encoders, or one Parquet file alone; got {self.teacher}.")
        if self.licenses and len(self.licenses) != len(self.texts):
            raise ValueError(f"`licenses` must be one for each of {len(self.texts)} files, got {len(self.licenses)}.")
        for each in self.teacher:
            check_source("teacher", each, [".parquet"])
        check_source("tokenizer", self.tokenizer)

    def make_config(self, **settings: Any) -> WaveConfig:
        fields: dict[str, Any] = {
            "conv_kernel_size": 3,
            "position_embedding_type": "none",
            "hidden_dropout_prob": self.dropout,
        }
        try:
            return WaveConfig(**fields | {"hidden_size": self.hidden_size} | self.fields | settings)
        except (StrictDataclassError, TypeError) as error:
            raise ValueError(
                f"`model_config` ({self.model_config}) does not fit: {error.__cause__ or error}"
            ) from error

    @property
    def has_vectors(self) -> bool:
        """Whether the teacher is a file of vectors."""
        return any(each.endswith(".parquet") for each in self.teacher)


class Student(nn.Module):
    """
    A Wave Network, and a linear map from the mean of a text's tokens to where the teachers point. With the map, a token
    may hold what the teachers do not say; a classifier learns more from it.
    """

    def __init__(self, wave: WaveModel, contrast: float, temperature: float):
        super().__init__()
        self.wave = wave
        self.project = nn.Linear(wave.config.hidden_size, wave.config.hidden_size)
        self.contrast, self.temperature = contrast, temperature

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, vectors: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """
        The loss (1 - cos) / 2 + `contrast` * InfoNCE (van den Oord et al., 2018, arXiv 1807.03748, eq. 4) of B texts,
        and their vectors of length 1, (B, D), against those of the teachers, (B, D).
        """
        pooled_BD = self.wave(input_ids, attention_mask, pooling="mean").pooler_output
        found_BD = normalize(self.project(pooled_BD), dim=-1)
        loss = (1 - (found_BD * vectors).sum(-1).mean()) / 2
        own = torch.arange(len(vectors), device=vectors.device)
        loss = loss + self.contrast * cross_entropy(found_BD @ vectors.T / self.temperature, own)
        return {"loss": loss, "found": found_BD}


class Vectors:
    """
    What N passages are to get, read where it is needed: the teachers' vectors side by side, each minus its mean and of
    length 1, in the D directions in which they differ most (of fewer, the rest are 0), of length 1.
    """

    def __init__(self, folders: list[Path], count: int, size: int):
        self.shards = [[np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))] for folder in folders]
        self.means = [np.zeros(shards[0].shape[1], np.float32) for shards in self.shards]
        starts = range(0, count, SHARD)
        for shards, mean in zip(self.shards, self.means, strict=True):
            sums = [shards[start // SHARD][: count - start].sum(0, dtype=np.float64) for start in starts]
            mean += sum(sums) / count
        parts = (self.join(range(start, min(start + SHARD, count))) for start in starts)
        values, directions = torch.linalg.eigh(sum((part.T @ part for part in parts), torch.zeros(())))
        self.directions = pad(directions.flip(1)[:, :size], (0, max(0, size - len(directions))))
        self.kept = (values.flip(0)[:size].sum() / values.sum()).item()

    def join(self, rows: Sequence[int]) -> torch.Tensor:
        parts = []
        for shards, mean in zip(self.shards, self.means, strict=True):
            found = np.stack([shards[row // SHARD][row % SHARD] for row in rows]).astype(np.float32)
            parts.append(normalize(torch.from_numpy(found - mean), dim=-1))
        return torch.cat(parts, dim=-1)

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        return normalize(self.join(rows) @ self.directions, dim=-1)


def distil(arguments: DistilArguments, make_model: Callable[[WaveConfig], WaveModel] = WaveModel) -> Path:
    """
    Trains an encoder on the vectors of its teachers. It leaves a folder that `AutoModel`, `SentenceTransformer`,
    `finetune --model` and `export` read: model, tokenizer, modules.json, metrics.json and a card. The same call goes on
    with a run that was stopped.

    Args:
        make_model: Makes the model, for a study of other ones.

    Raises:
        FileExistsError: There is an encoder in the output folder.
        ValueError: A setting or a file is not as described, or there are too few passages.
        OSError: There is no such teacher or file.
    """
    target = Path(arguments.output_dir)
    refuse_existing(target / "config.json")
    stages = Stages(arguments)
    tokenizer = stages.get_tokenizer()
    tokens = stages.get_tokens(tokenizer)
    table = None if arguments.has_vectors else stages.get_table(tokenizer, tokens)
    vectors = Vectors(stages.get_vectors(), stages.count, arguments.hidden_size)
    torch.manual_seed(arguments.seed)
    config = arguments.make_config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    student = Student(make_model(config), arguments.contrast, arguments.temperature)
    if table is not None:
        student.wave.embeddings.word_embeddings.weight.data.copy_(table)
    decisive = {name: value for name, value in vars(arguments).items() if name not in INDECISIVE}
    folder = target / "work" / stages.name("training", stages.weights, decisive).name
    metrics = train(arguments, student, tokens, vectors, folder)
    metrics |= {"kept": round(vectors.kept, 4), "passages": stages.count, "teachers": stages.weights}
    metrics |= describe_run()
    save(arguments, student.wave, tokenizer, metrics)
    shutil.rmtree(folder)  # checkpoints, which are large; the other stages may serve again
    return target


class Stages:
    """What is made once for a run and kept in its work folder. A name holds the hash of what decides its content."""

    def __init__(self, arguments: DistilArguments):
        self.arguments = arguments
        self.work = Path(arguments.work_dir or Path(arguments.output_dir, "work"))
        self.teachers = [fetch_teacher(each, arguments) for each in arguments.teacher]
        self.weights = [row for _, rows in self.teachers for row in rows]
        files = [split_share(each) for each in arguments.texts] or [(arguments.teacher[0], 1.0)]
        stamps = [[str(Path(path).resolve()), share, os.stat(path).st_mtime_ns] for path, share in files]
        self.texts = [stamps, arguments.min_words, arguments.max_words, arguments.seed]
        self.work.mkdir(parents=True, exist_ok=True)
        self.passages = self.get_passages()
        self.count = min(arguments.max_passages or len(self.passages), len(self.passages))
        if self.count <= arguments.held_out:
            raise ValueError(f"`held_out` ({arguments.held_out}) must be less than the {self.count} passages.")

    def name(self, stage: str, *decided_by: Any) -> Path:
        settings = json.dumps([self.texts, *decided_by], sort_keys=True)
        return self.work / f"{stage}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def get_passages(self) -> Dataset:
        """All passages in random order, each once, in a file that is not read into memory."""
        arguments, folder = self.arguments, self.name("passages")
        if not folder.exists():
            with open_folder(folder) as unfinished:
                if arguments.has_vectors:
                    rows = Dataset.from_parquet(arguments.teacher[0], cache_dir=str(unfinished / "cache"))
                    if not {"text", "vector"} <= set(rows.column_names):
                        raise ValueError(f"{arguments.teacher[0]!r} must have the columns `text` and `vector`.")
                    rows = rows.select_columns(["text", "vector"]).shuffle(seed=arguments.seed)
                else:
                    passages = list(dict.fromkeys(cut_passages(arguments)))
                    random.Random(arguments.seed).shuffle(passages)
                    rows = Dataset.from_dict({"text": passages})
                rows.save_to_disk(unfinished)
                shutil.rmtree(unfinished / "cache", ignore_errors=True)
        return load_from_disk(folder)

    def get_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.arguments.tokenizer is not None:
            return load_wave_tokenizer(self.arguments.tokenizer)
        folder = self.name("tokenizer", self.count, self.arguments.vocab_size)
        if not folder.exists():
            texts = (text for rows in self.passages.select(range(self.count)).iter(1000) for text in rows["text"])
            bar = not self.arguments.disable_tqdm
            tokenizer = train_wave_tokenizer(texts, self.arguments.vocab_size, show_progress=bar)
            with open_folder(folder) as unfinished:
                tokenizer.save_pretrained(unfinished)
        return load_wave_tokenizer(folder)

    def get_tokens(self, tokenizer: PreTrainedTokenizerBase) -> Dataset:
        """The tokens of the passages, their number and the row of each, in a file that is not read into memory."""
        arguments = self.arguments

        def cut(rows: dict[str, list], indices: list[int]) -> dict[str, list]:
            ids = tokenizer(rows["text"], truncation=True, max_length=arguments.max_length)["input_ids"]
            return {"input_ids": ids, "length": [len(each) for each in ids], "row": indices}

        file = self.name("tokens", tokenizer.backend_tokenizer.to_str(), self.count, arguments.max_length)
        return self.passages.select(range(self.count)).map(
            cut, True, batched=True, remove_columns=self.passages.column_names, cache_file_name=f"{file}.arrow"
        )

    def get_table(self, tokenizer: PreTrainedTokenizerBase, tokens: Dataset) -> torch.Tensor:
        """
        The teachers' vectors of each token alone, side by side, in the D directions in which they differ most; those of
        frequent tokens are shorter.
        """
        size, arguments = self.arguments.hidden_size, self.arguments
        spelling = tokenizer.backend_tokenizer.to_str()
        decided_by = [self.weights, arguments.teacher_pooling, arguments.teacher_dtype, size, spelling]
        file = self.name("table", *decided_by).with_suffix(".npy")
        if not file.exists():
            words = [word for word, _ in spell(tokenizer) or ()] or [
                str(tokenizer.decode([index], skip_special_tokens=True)).strip() for index in range(len(tokenizer))
            ]
            known = [index for index, word in enumerate(words) if word]
            parts = []
            for encoder, _ in self.teachers:
                asked = [words[index] for index in known]
                found = encoder.encode(asked, batch_size=64, show_progress_bar=not arguments.disable_tqdm)
                part = torch.from_numpy(np.asarray(found, np.float32))
                part = part - part.mean(0)
                parts.append(part / part.std())
            vectors = torch.cat(parts, dim=-1)
            vectors = vectors @ torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :size]
            table = torch.zeros(len(tokenizer), size)
            table[known, : vectors.shape[1]] = vectors
            with open_whole(file, "wb") as opened:
                np.save(opened, table.numpy())
        counts = np.ones(len(tokenizer))
        for rows in tokens.iter(10_000):
            counts += np.bincount(np.concatenate(rows["input_ids"]), minlength=len(tokenizer))
        shares = torch.from_numpy(counts / counts.sum()).float()
        table = torch.from_numpy(np.load(file)) * (RARE / (RARE + shares))[:, None]
        return table * (TABLE_SCALE / table.std())

    def get_vectors(self) -> list[Path]:
        """For each teacher a folder with its vectors of the passages, in files of `SHARD` rows of fp16."""
        arguments, folders = self.arguments, []
        for encoder, weights in self.teachers:
            folders.append(self.name("vectors", weights, arguments.teacher_pooling, arguments.teacher_dtype))
            folders[-1].mkdir(exist_ok=True)
            bar = f"Vectors of {weights[0]['teacher']}"
            for start in tqdm(range(0, self.count, SHARD), bar, disable=arguments.disable_tqdm):
                file = folders[-1] / f"{start // SHARD:05d}.npy"
                if not file.exists():
                    rows = self.passages[start : start + SHARD]
                    vectors = rows["vector"] if encoder is None else encoder.encode(rows["text"], batch_size=16)
                    with open_whole(file, "wb") as opened:
                        np.save(opened, np.asarray(vectors, np.float16))
        return folders


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


def fetch_teacher(name: str, arguments: DistilArguments) -> tuple[Any, list[dict[str, str]]]:
    """A teacher, or None for a file of vectors, and a row with the sha256 of each file that holds what it knows."""
    encoder, files = None, [Path(name)]
    if not arguments.has_vectors:
        try:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.base.modules import Transformer
            from sentence_transformers.sentence_transformer.modules import Pooling
        except ImportError as error:
            raise ImportError(
                f"A teacher needs sentence-transformers: pip install sentence-transformers ({error})"
            ) from error
        unused = ["onnx/*", "openvino/*", "*.h5"]
        folder = name if Path(name).is_dir() else snapshot_download(name, ignore_patterns=unused)
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".safetensors", ".bin"))
        settings = {**SAFE, "dtype": arguments.teacher_dtype}
        if arguments.teacher_pooling is None:
            encoder = SentenceTransformer(folder, model_kwargs=settings)
        else:
            transformer = Transformer(folder, model_kwargs=settings)
            pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=arguments.teacher_pooling)
            encoder = SentenceTransformer(modules=[transformer, pooling])
    if not files:
        raise FileNotFoundError(f"`teacher` has no weights (*.safetensors, *.bin): {name!r}.")
    hashes = {path.name: hashlib.sha256(np.memmap(path, np.uint8, "r").data).hexdigest() for path in files}
    shown = Path(name).absolute().name if Path(name).exists() else name
    return encoder, [{"teacher": shown, "file": file, "sha256": value} for file, value in hashes.items()]


class DistilTrainer(Trainer):
    """Trainer with an order of its own: batches of like length, the same in a run that goes on."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return ByLength([*cast(Dataset, self.train_dataset)["length"]], self)


class ByLength(Sampler[int]):
    def __init__(self, lengths: list[int], trainer: Trainer):
        self.lengths, self.trainer = lengths, trainer

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chooser = random.Random(self.trainer.args.seed + int(self.trainer.state.epoch or 0))
        order, size, batches = list(range(len(self))), self.trainer.args.train_batch_size, []
        chooser.shuffle(order)
        for start in range(0, len(order), 50 * size):
            near = sorted(order[start : start + 50 * size], key=self.lengths.__getitem__)
            batches += [near[first : first + size] for first in range(0, len(near), size)]
        chooser.shuffle(batches)
        return chain(*sorted(batches, key=len, reverse=True))  # the one that is not full comes last


def train(
    arguments: DistilArguments, student: Student, tokens: Dataset, vectors: Vectors, folder: Path
) -> dict[str, Any]:
    """Trains the student, and returns what is measured on the passages that were held out."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [torch.tensor(row["input_ids"]) for row in rows]
        return {
            "input_ids": pad_sequence(texts, batch_first=True, padding_value=student.wave.config.pad_token_id or 0),
            "attention_mask": pad_sequence([torch.ones_like(text) for text in texts], batch_first=True),
            "vectors": vectors[[row["row"] for row in rows]],
        }

    def measure(evaluated: Any) -> dict[str, float]:
        found, wanted = torch.from_numpy(evaluated.predictions), torch.from_numpy(evaluated.label_ids)
        is_own = (found @ wanted.T).argmax(-1) == torch.arange(len(wanted))
        return {"cosine": (found * wanted).sum(-1).mean().item(), "found": is_own.float().mean().item()}

    table = student.wave.get_input_embeddings().weight
    rest = [parameter for parameter in student.parameters() if parameter is not table]
    groups = [
        {"params": [table], "lr": arguments.table_learning_rate, "weight_decay": 0.0},
        {"params": rest, "lr": arguments.learning_rate, "weight_decay": 0.01},
    ]
    trainer = DistilTrainer(
        student,
        TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=arguments.num_train_epochs,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=256,
            warmup_steps=arguments.warmup_steps,
            eval_strategy="steps",
            eval_steps=arguments.eval_steps,
            save_steps=arguments.eval_steps,
            logging_steps=arguments.eval_steps,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="cosine",
            label_names=["vectors"],
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
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
    last = find_last(folder)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    measured = {name: round(trainer.evaluate()[f"eval_{name}"], 4) for name in ("cosine", "found")}
    return measured | {"steps": trainer.state.global_step}


def save(arguments: DistilArguments, wave: WaveModel, tokenizer: PreTrainedTokenizerBase, metrics: dict) -> None:
    """Writes the encoder; config.json, by which a folder is a model, takes its name last."""
    target, size = Path(arguments.output_dir), wave.config.hidden_size
    finished = target / "finished"
    with open_folder(finished, overwrite=True) as folder:
        wave.to(getattr(torch, arguments.save_dtype)).save_pretrained(folder)
        write_json(folder / "config.json", read_json(folder / "config.json") | {"dtype": "float32"})
        tokenizer.backend_tokenizer.no_truncation()  # at `max_length` of the passages, which is none of the encoder's
        tokenizer.save_pretrained(folder)
        kinds = enumerate({"": "Transformer", "1_Pooling": "Pooling"}.items())
        types = ((index, path, f"sentence_transformers.models.{kind}") for index, (path, kind) in kinds)
        modules = [{"idx": index, "name": str(index), "path": path, "type": kind} for index, path, kind in types]
        write_json(folder / "modules.json", modules)
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": size, "pooling_mode_mean_tokens": True}
        write_json(folder / "1_Pooling" / "config.json", pooling)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": tokenizer.model_max_length})
        write_json(folder / "metrics.json", metrics)
        write_text(folder / "README.md", describe(arguments, wave, metrics))
    for path in sorted(finished.iterdir(), key=lambda path: path.name == "config.json"):
        shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)
    finished.rmdir()


def describe(arguments: DistilArguments, wave: WaveModel, metrics: dict[str, Any]) -> str:
    """The card of an encoder."""
    names = [split_share(each) for each in arguments.texts] or [(arguments.teacher[0], 1.0)]
    terms = arguments.licenses or ["not stated"] * len(names)
    texts = [
        {"texts": Path(name).name, "share": f"{share:g}", "terms": each}
        for (name, share), each in zip(names, terms, strict=True)
    ]
    teacher = " and ".join(dict.fromkeys(row["teacher"] for row in metrics["teachers"]))
    said = vars(arguments) | metrics | {"texts": write_table(texts), "hashes": write_table(metrics["teachers"])}
    said |= {"teacher": teacher, "parameters": f"{wave.num_parameters():,}"}
    return CARD.format(**said, size=wave.config.hidden_size)


CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [wave-network, sentence-transformers]
---

# A Wave Network that learned from {teacher}

A [Wave Network](https://arxiv.org/abs/2411.02674) of {parameters} parameters. It gives a text the mean of its tokens,
{size} numbers. In {steps:,} steps it learned to point, through a linear map that is not kept, where the vectors of its
teachers do, reduced to as many numbers, which hold {kept:.1%} of their variance. On {held_out:,} passages that it did
not learn from the cosine is {cosine}, and {found:.1%} of them lie nearest to what the teachers say of the same passage.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER", trust_remote_code=True)
vectors = model.encode(["a text", "another"])
```

## What it read
{passages:,} passages. What a teacher read before is on the teacher's card.

{texts}
## Teachers
{hashes}"""
