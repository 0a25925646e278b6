"""Speed, memory and numerical error beside other models: `python -m research.bench`.

What is timed is the processor time of one thread, which other work on the machine hardly changes. The cases of a group
take turns, A B C A B C, in one process, and what counts is the ratio within a round. Peak memory is measured in a
process of its own. The lines of a run, after about ten minutes, are appended to results/bench.jsonl together.
"""

import argparse
import gc
import itertools
import math
import random
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Timer
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.data.load import load_text_data
from wave_network.files import append_line

from .errors import measure_errors
from .polar import make_polar
from .runs import RESULTS, describe_measurement

VOCABULARY, LABELS, WIDTH = 30522, 4, 768
ROUNDS, SECONDS_A_VISIT = 3, 0.5
BATCHES = 4  # which a case takes in turn
CORE_SIZE = {"hidden_size": 304, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * 304}
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """
    One thing to measure.

    Attributes:
        model: A name in MODELS, or "matrix products".
        mode: "inference" or "training".
        fill: The share of the tokens of a batch that is text; the rest is padding.
        is_packed: Whether texts are laid end to end, without padding.
    """

    model: str
    mode: str = "inference"
    batch: int = 32
    length: int = 128
    fill: float = 1.0
    is_packed: bool = False


def cross(models: Sequence[str], mode: str) -> list[Case]:
    return [Case(model, mode) for model in models]


RIVALS = ["BERT of our core size", "BERT-base"]
# The cases of a group are timed in turns.
TIMED: dict[str, list[Case]] = {
    "models": [
        *cross(["ours", "ours, readable", "ours, compiled", "polar form", "matrix products", *RIVALS], "inference"),
        *cross(["ours", "ours, readable", "polar form", *RIVALS], "training"),
    ],
    "length": [Case("ours", batch=32768 // length, length=length) for length in (512, 2048, 8192, 32768)],
    "fill": [
        Case("ours", mode, fill=fill, is_packed=is_packed)
        for mode in ("inference", "training")
        for fill in (0.25, 0.5)
        for is_packed in (False, True)
    ],
}
WEIGHED = {
    "memory": cross(["ours", "ours, readable", "polar form", *RIVALS], "training"),
    # Of two and of eight chunks.
    "document": [Case("ours", batch=1, length=length) for length in (65536, 262144)],
}


def make_wave(**settings: Any) -> WaveForSequenceClassification:
    return WaveForSequenceClassification(
        WaveConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_labels=LABELS, **settings)
    )


def make_bert(**settings: Any) -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, num_labels=LABELS, **settings))


MODELS: dict[str, Callable[[], Any]] = {
    "ours": make_wave,
    "ours, readable": lambda: make_wave(wave_implementation="eager"),
    "ours, compiled": lambda: torch.compile(make_wave()),
    "polar form": lambda: make_polar(make_wave()),
    "BERT of our core size": lambda: make_bert(**CORE_SIZE),
    "BERT-base": make_bert,
    "tiny BERT": lambda: make_bert(**TINY),
}


def read_stream() -> torch.Tensor:
    """The token ids of BBC News, end to end, shape (tokens,)."""
    texts = list(load_text_data("bbc_news").train["text"])
    tokenizer = train_wave_tokenizer(texts, show_progress=False)
    return torch.tensor([token for ids in tokenizer(texts, verbose=False)["input_ids"] for token in ids[1:-1]])


def make_batches(case: Case, stream: torch.Tensor) -> list[Batch]:
    """Batches of real text: which ids they hold decides what the table costs."""
    tokens, batches = case.batch * case.length, []
    stream = stream.repeat(math.ceil(tokens / len(stream)))
    for number in range(min(BATCHES, len(stream) // tokens)):
        ids_BL = stream[number * tokens : (number + 1) * tokens].view(case.batch, case.length)
        batch = {"input_ids": ids_BL, "labels": torch.arange(case.batch) % LABELS}
        if case.fill < 1:
            lengths_B = torch.tensor(draw_lengths(case, seed=number))
            mask_BL = torch.arange(case.length) < lengths_B[:, None]
            if case.is_packed:
                offsets_N1 = nn.functional.pad(lengths_B.cumsum(dim=0), (1, 0))
                batch |= {"input_ids": ids_BL[mask_BL][None], "cu_seq_lens": offsets_N1}
            else:
                batch |= {"input_ids": ids_BL.masked_fill(~mask_BL, 0), "attention_mask": mask_BL.long()}
        batches.append(batch)
    return batches


def draw_lengths(case: Case, seed: int) -> list[int]:
    """Lengths from 1 to `case.length`, which is among them, in random order: together about `case.fill` of a batch."""
    power = 1 / case.fill - 1  # the mean of u^p over 0 ... 1 is 1 / (p + 1)
    shares = [((place + 0.5) / case.batch) ** power for place in range(case.batch - 1)] + [1.0]
    random.Random(seed).shuffle(shares)
    return [max(1, round(case.length * share)) for share in shares]


def make_step(case: Case, batches: list[Batch]) -> tuple[Callable[[], object], nn.Module | None]:
    """What is timed, and its model. A training step has forward, loss, backward, clipping, AdamW and zero_grad."""
    torch.manual_seed(0)
    if case.model == "matrix products":
        return multiply(case), None
    model, turns = MODELS[case.model](), itertools.cycle(batches)
    model.train(case.mode == "training")
    if case.mode == "inference":

        def infer() -> object:
            with torch.inference_mode():
                return model(**{name: tensor for name, tensor in next(turns).items() if name != "labels"})

        return infer, model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def train() -> None:
        model(**next(turns)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return train, model


def multiply(case: Case) -> Callable[[], object]:
    """The floor of our inference: the two matrix products of the layer, and nothing else."""
    x_TD = torch.randn(case.batch * case.length, WIDTH)
    variants, restore = torch.randn(WIDTH, 2 * WIDTH), torch.randn(2 * WIDTH, WIDTH)
    return lambda: (x_TD @ variants) @ restore


def time_group(cases: list[Case], stream: torch.Tensor) -> list[dict[str, Any]]:
    """The milliseconds of processor time that a step takes in each round."""
    made = [make_step(case, make_batches(case, stream)) for case in cases]
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(ROUNDS):
        for place, (step, _) in enumerate(tqdm(made, disable=None)):
            timer = Timer("step()", globals={"step": step}, timer=time.process_time, num_threads=1)
            # It begins with a call that does not count.
            times[place].append(1000 * timer.blocked_autorange(min_run_time=SECONDS_A_VISIT).median)
    return [
        {**asdict(case), "ms": rounds, **count_parameters(model)}
        for case, rounds, (_, model) in zip(cases, times, made, strict=True)
    ]


def count_parameters(model: Any) -> dict[str, int]:
    """All parameters, and the core: those outside the embedding tables."""
    if model is None:
        return {}
    total, core = model.num_parameters(), model.num_parameters(exclude_embeddings=True)
    return {"parameters": total, "core_parameters": core}


def weigh(case: Case, batches: list[Batch]) -> float:
    """The peak memory in MiB of two steps: what the process needs above what it has after a step of a tiny model."""
    set_up()
    small = Case("tiny BERT", case.mode, batch=2, length=8)
    make_step(small, make_batches(small, batches[0]["input_ids"].flatten()))[0]()
    gc.collect()
    before = read_memory("VmRSS")
    step, _ = make_step(case, batches)
    step()
    step()
    return read_memory("VmHWM") - before


def read_memory(field: str) -> float:
    """`VmRSS`, the resident memory of this process, or `VmHWM`, its peak, in MiB. OSError where there is no /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def weigh_apart(case: Case, stream: torch.Tensor) -> dict[str, Any]:
    """`weigh` in a fresh process: the peak of a process never falls."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        made = pool.submit(weigh, case, make_batches(case, stream)[:2])
        return {**asdict(case), "mib": round(made.result(), 1)}


def set_up() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as in training


def measure(groups: Sequence[str]) -> list[dict[str, Any]]:
    """All lines of one run."""
    stream, lines = read_stream(), []
    for group in groups:
        if group in TIMED:
            made = time_group(TIMED[group], stream)
        elif group in WEIGHED:
            made = [weigh_apart(case, stream) for case in tqdm(WEIGHED[group], disable=None)]
        else:
            made = list(measure_errors())
        lines += [{"group": group, **line} for line in made]
        gc.collect()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = [*TIMED, *WEIGHED, "errors"]
    parser.add_argument("--only", nargs="+", choices=groups, default=groups, help="groups of cases (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS / "bench.jsonl", help="file of result lines")
    arguments = parser.parse_args()
    set_up()
    where = {"run": uuid.uuid4().hex[:8], **describe_measurement()}
    for line in measure(arguments.only):
        append_line(arguments.results, where | line)


if __name__ == "__main__":
    main()
