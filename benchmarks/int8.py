"""What 8-bit integers save, and what they cost in accuracy: `python benchmarks/int8.py`. Needs torchao.

Accuracy: for each seed a model of D 256 is trained on 20,000 rows of AG News for two epochs, saved, loaded with its
linear maps, its word table or both in int8 (training/int8.py), saved, loaded again, and compared with the float32 model
on 10,000 validation rows: accuracy, changed labels, logits, size of the weights' file. The test set is not read.

Time: inference on batches of 32 texts of 128 tokens at D 256 and 768, as it is and under torch.compile, and beside them
float32 with its first layer folded into the table. All cases take turns in one process, and ratios are taken within a
round. Nothing else should run on the machine.

Lines are appended to benchmarks/results/int8.jsonl as they are measured, and what is there already is not measured
again, so the command can be stopped and repeated.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup, set_seed
from transformers.utils.logging import disable_progress_bar

from wave_network import WaveConfig, WaveForSequenceClassification, load_wave_tokenizer
from wave_network.benchmarks.choices import BATCH, LEARNING_RATE, read_rows, to_batches
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.benchmarks.sparse_table import describe_processes, find_data
from wave_network.benchmarks.timing import choose_calls, pair, summarise, time_in_rounds, warm_up
from wave_network.training.int8 import int8_config

RESULTS = Path(__file__).parent / "results" / "int8.jsonl"
HIDDEN_SIZE, EPOCHS = 256, 2
TIMED_SIZES, TEXTS, LENGTH, TIMED_BATCHES, ROUNDS = (256, 768), 32, 128, 8, 30
# What is in int8, if anything.
CASES = {
    "float32": None,
    "linear maps": {"linear_maps": True, "word_table": False},
    "word table": {"linear_maps": False, "word_table": True},
    "both": {"linear_maps": True, "word_table": True},
}


# Of float32, the other way to a faster model.
FOLDED = "float32, folded"


def make_case(folder: Path, case: str) -> WaveForSequenceClassification:
    """The float32 model of a folder as the case wants it."""
    if case == FOLDED:
        return AutoModelForSequenceClassification.from_pretrained(folder).eval().fold_()
    settings = CASES[case]
    quantization = {} if settings is None else {"quantization_config": int8_config(**settings)}
    return AutoModelForSequenceClassification.from_pretrained(folder, **quantization).eval()


# ---- Accuracy


def measure_accuracy(data: Path, seed: int, quick: bool) -> list[dict]:
    """One line for each case of one trained model."""
    set_seed(seed)
    tokenizer = load_wave_tokenizer(data / "bert_vocab" / "vocab.txt")
    train, validation = (rows[:640] if quick else rows for rows in read_rows(data))
    with tempfile.TemporaryDirectory() as temporary:
        train_model(tokenizer, train, seed).save_pretrained(Path(temporary, "trained"))
        batches = to_batches(tokenizer, validation)
        labels = torch.cat([torch.tensor(batch["labels"]) for batch in batches])
        expected, lines = torch.empty(0), []
        for case in CASES:
            folder = Path(temporary, case)
            make_case(Path(temporary, "trained"), case).save_pretrained(folder)
            logits = classify(AutoModelForSequenceClassification.from_pretrained(folder), batches)
            expected = logits if case == "float32" else expected
            lines.append(
                {
                    "case": case,
                    "hidden_size": HIDDEN_SIZE,
                    "epochs": EPOCHS,
                    "rows": {"train": len(train), "validation": len(labels)},
                    "accuracy": float((logits.argmax(-1) == labels).double().mean()),
                    "changed_labels": int((logits.argmax(-1) != expected.argmax(-1)).sum()),
                    "largest_logit": float(expected.abs().max()),
                    "largest_logit_difference": float((logits - expected).abs().max()),
                    "file_bytes": Path(folder, "model.safetensors").stat().st_size,
                }
            )
    return lines


def train_model(tokenizer, rows, seed: int) -> WaveForSequenceClassification:
    model = WaveForSequenceClassification(WaveConfig(hidden_size=HIDDEN_SIZE, num_labels=4)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    steps = EPOCHS * -(-len(rows) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    generator = torch.Generator().manual_seed(seed)
    with tqdm(total=steps, desc=f"training, seed {seed}", leave=False) as progress:
        for _ in range(EPOCHS):
            for batch in to_batches(tokenizer, rows, generator):
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
                model(**inputs, labels=torch.tensor(batch["labels"])).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress.update()
    return model


@torch.inference_mode()
def classify(model: WaveForSequenceClassification, batches: list[dict]) -> torch.Tensor:
    model.eval()
    logits = [
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for batch in tqdm(batches, desc="classifying", leave=False)
    ]
    return torch.cat(logits)


# ---- Time


@torch.inference_mode()
def measure_time(data: Path, hidden_size: int, quick: bool) -> list[dict]:
    """One line for each case, as it is and compiled. Time does not depend on what a model has learned."""
    set_seed(0)
    # The compiler keeps eight forms of a function. With `fullgraph`, what it will not compile is an error.
    torch.compiler.reset()
    batches = make_batches(data)
    with tempfile.TemporaryDirectory() as temporary:
        config = WaveConfig(hidden_size=hidden_size, num_labels=4)
        WaveForSequenceClassification(config).save_pretrained(temporary)
        models = {
            (case, compiled): make_case(Path(temporary), case)
            for compiled in (False, True)
            for case in (*CASES, FOLDED)
        }

    steps: dict[str, Callable[[int], object]] = {}
    for (case, compiled), model in models.items():
        called = torch.compile(model, fullgraph=True) if compiled else model
        steps[f"{case}, {compiled}"] = lambda turn, called=called: called(input_ids=batches[turn % len(batches)])
    seconds = {
        name: warm_up(step, "cpu") for name, step in tqdm(steps.items(), desc="warming up and compiling", leave=False)
    }
    calls = {name: choose_calls(value) for name, value in seconds.items()}
    rounds = 3 if quick else ROUNDS
    times = time_in_rounds(steps, calls, dict.fromkeys(steps, 1), rounds, "cpu", f"D {hidden_size}")
    return [
        {
            "case": case,
            "compiled": compiled,
            "shape": [TEXTS, LENGTH],
            "rounds": rounds,
            "milliseconds": summarise(times[f"{case}, {compiled}"]),
            # Within a round: of the float32 model as it is, and of the float32 model in the same mode.
            "ratio": summarise(pair(times[f"{case}, {compiled}"], times["float32, False"])),
            "ratio_in_mode": summarise(pair(times[f"{case}, {compiled}"], times[f"float32, {compiled}"])),
        }
        for case, compiled in models
    ]


def make_batches(data: Path) -> torch.Tensor:
    """Real text, end to end: ids of the shape (TIMED_BATCHES, TEXTS, LENGTH)."""
    tokenizer = load_wave_tokenizer(data / "bert_vocab" / "vocab.txt")
    _, rows = read_rows(data)
    ids = tokenizer(rows.text.tolist(), add_special_tokens=False)["input_ids"]
    stream = torch.tensor([token for row in ids for token in row])
    return stream[: TIMED_BATCHES * TEXTS * LENGTH].view(TIMED_BATCHES, TEXTS, LENGTH)


# ---- What is to be measured, and what is known already


def list_measurements(
    data: Path, seeds: int, threads: int, quick: bool
) -> Iterator[tuple[dict, Callable[[], list[dict]]]]:
    """What names a measurement, and what measures it."""
    machine = describe_processes(threads)
    for seed in range(seeds):
        known = {"kind": "accuracy", "seed": seed, **machine}
        yield known, lambda seed=seed: measure_accuracy(data, seed, quick)
    for hidden_size in TIMED_SIZES:
        known = {"kind": "time", "hidden_size": hidden_size, **machine}
        yield known, lambda hidden_size=hidden_size: measure_time(data, hidden_size, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with ag_news and bert_vocab")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the accuracy (default: 3)")
    parser.add_argument("--only", choices=("accuracy", "time"), help="measure this alone (default: both)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (default: all cores)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append to")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds, to see that it runs; keeps nothing")
    arguments = parser.parse_args()
    find_data(arguments.data)
    try:
        int8_config()
    except ImportError as error:
        sys.exit(str(error))
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    disable_progress_bar()

    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    text = arguments.results.read_text(encoding="utf-8") if arguments.results.exists() else ""
    lines = [] if arguments.quick else [json.loads(line) for line in text.splitlines()]
    measurements = list_measurements(arguments.data, arguments.seeds, arguments.threads, arguments.quick)
    chosen = [each for each in measurements if arguments.only in (None, each[0]["kind"])]
    for known, measure in tqdm(chosen, desc="measurements"):
        if any(known.items() <= line.items() for line in lines):
            continue
        versions = describe_machine()["versions"] | {"torchao": version("torchao")}
        found = [{**known, **result, "versions": versions, **describe_run()} for result in measure()]
        for line in found:
            tqdm.write(report(line))
        if not arguments.quick:
            with arguments.results.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in found)


def report(line: dict) -> str:
    if line["kind"] == "accuracy":
        return (
            f"seed {line['seed']}, {line['case']}: accuracy {line['accuracy']:.2%}, {line['changed_labels']} "
            f"labels changed, logits off by {line['largest_logit_difference']:.3f} at most (largest "
            f"{line['largest_logit']:.1f}), {line['file_bytes'] / 1e6:.1f} MB"
        )
    mode = "compiled" if line["compiled"] else "as it is"
    return (
        f"D {line['hidden_size']}, {mode}, {line['case']}: {line['milliseconds']['median']:.1f} ms, "
        f"{line['ratio']['median']:.2f} of float32 as it is, {line['ratio_in_mode']['median']:.2f} of float32 {mode}"
    )


if __name__ == "__main__":
    main()
