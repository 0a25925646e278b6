"""Requests a second and latency of the example server under load: `python benchmarks/serving.py EXPORTED_FOLDER`.

Starts examples/serve.py on 127.0.0.1 with the model of the folder and, beside it, with its rival: a BERT of two layers,
as BERT-tiny has, of equal core size, with the same tokenizer. Its weights are random; its time does not depend on them.
Clients in another process send real texts, one in a request. The servers take turns in rounds, and ratios are taken
within a round. `/health` shows what connection, server and clients cost without a model.

Nothing else should run on the machine. Needs "wave-network[onnx,serve]" and aiohttp, which datasets brings.
"""

import argparse
import contextlib
import datetime
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)
from transformers.utils.logging import disable_progress_bar

import wave_network  # noqa: F401  registers the model with the Auto classes
from wave_network.benchmarks.machine import ROOT, describe_machine, describe_run
from wave_network.benchmarks.models import count_parameters, find_bert_shape
from wave_network.benchmarks.timing import pair, quantile, summarise
from wave_network.training.data import load_text_data, read_texts

RESULTS = Path(__file__).parent / "results" / "serving.jsonl"
CLIENTS = Path(__file__).with_name("serving_clients.py")
OURS, RIVAL, NO_MODEL = "ours", "BERT of our core size", "/health, no model"
START_SECONDS, ADDRESS = 120, re.compile(r"running on (http://127\.0\.0\.1:\d+)")
# Longer texts are cut by the model, as `wave-network predict` cuts them, and not refused.
ANY_LENGTH = ["--max_tokens", "1000000", "--max_body", str(1 << 24)]


@dataclass(frozen=True)
class Case:
    name: str
    url: str
    path: str


def read_sample(file: Path | None, most: int = 2000) -> tuple[str, list[str]]:
    """Texts to send, and what they are. Their order is that of the data, mixed once and for all."""
    if file is None:
        name, texts = "BBC News, test split", list(load_text_data("bbc_news").test["text"])
    else:
        name, texts = file.name, [row["text"] for rows in read_texts(str(file), batch_size=4096) for row in rows]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:most]
    sample = [texts[index] for index in order]
    words = sum(len(text.split()) for text in sample) / len(sample)
    return f"{name}, {len(sample):,} texts of {words:.0f} words on average", sample


def count(folder: Path) -> dict[str, int]:
    with torch.device("meta"):
        return count_parameters(AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder)))


def save_rival(folder: Path, output: Path) -> Path:
    """The BERT whose core has nearly as many parameters as that of the model in `folder`, with its tokenizer."""
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    rival = BertForSequenceClassification(
        BertConfig(
            **find_bert_shape(count(folder)["core"]),
            vocab_size=config.vocab_size,
            id2label=config.id2label,
            label2id=config.label2id,
            max_position_embeddings=tokenizer.model_max_length,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    rival.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return output


def export(run: Path, output: Path) -> Path:
    command = [sys.executable, "-m", "wave_network.training.cli", "export", str(run), "--format", "onnx"]
    subprocess.run([*command, "--output_dir", str(output), "--report", "false"], check=True, stdout=sys.stderr)
    return output


@contextlib.contextmanager
def serve(folder: Path, settings: list[str]) -> Iterator[str]:
    """The address of a server on a free loopback port, which stops with the block."""
    command = [sys.executable, str(ROOT / "examples" / "serve.py"), str(folder), "--port", "0", *ANY_LENGTH, *settings]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        try:
            end = time.monotonic() + START_SECONDS
            while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", read_log(log))) or not alive(
                found[1]
            ):
                if server.poll() is not None or time.monotonic() > end:
                    sys.exit(f"The server on {folder} did not start:\n{read_log(log)}")
                time.sleep(0.05)
            yield found[1]
        finally:
            server.terminate()
            server.wait()


def alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def read_log(log) -> str:
    log.seek(0)
    return log.read()


def run_clients(case: Case, texts: list[str], connections: int, seconds: float) -> dict:
    asked = {"url": case.url, "path": case.path, "texts": texts, "connections": connections, "seconds": seconds}
    command = [sys.executable, str(CLIENTS)]
    process = subprocess.run(command, input=json.dumps(asked), check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(process.stdout)
    if not found["latencies_ms"]:
        sys.exit(f"{case.name} answered no request in {seconds} seconds; errors: {found['errors'] or 'none'}.")
    return found


def measure(cases: list[Case], texts: list[str], connections: int, seconds: float, rounds: int) -> list[dict]:
    """One line for each case: `seconds` of load in all, a part in each round."""
    found: dict[str, list[dict]] = {case.name: [] for case in cases}
    with tqdm(total=rounds * len(cases), desc=f"{connections} connections", unit="visit") as progress:
        for turn in range(rounds):
            # Each round begins where the one before may have ended, the same for all cases.
            start = turn * len(texts) // rounds
            mixed = texts[start:] + texts[:start]
            for case in cases:
                found[case.name].append(run_clients(case, mixed, connections, seconds / rounds))
                progress.update()
    return summarise_load(found, connections)


def summarise_load(found: dict[str, list[dict]], connections: int) -> list[dict]:
    """Lines from what the clients found in each round. Ratios are ours to the rival's, in the same round."""
    rates = {name: [len(part["latencies_ms"]) / part["seconds"] for part in parts] for name, parts in found.items()}
    middles = {name: [quantile(part["latencies_ms"], 0.5) for part in parts] for name, parts in found.items()}
    lines = []
    for name, parts in found.items():
        latencies = [latency for part in parts for latency in part["latencies_ms"]]
        errors = sum((Counter(part["errors"]) for part in parts), Counter())
        line = {
            "case": name,
            "connections": connections,
            "rounds": len(parts),
            "seconds": sum(part["seconds"] for part in parts),
            "requests": len(latencies),
            "errors": dict(errors),
            "requests_per_second": summarise(rates[name]),
            "p50_ms": quantile(latencies, 0.5),
            "p99_ms": quantile(latencies, 0.99),
        }
        if name == OURS:
            line["ratio_to_rival"] = {
                "requests_per_second": summarise(pair(rates[OURS], rates[RIVAL])),
                "p50": summarise(pair(middles[OURS], middles[RIVAL])),
            }
        lines.append(line)
    return lines


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model: a folder from `wave-network export RUN --format onnx`")
    parser.add_argument("--rival", type=Path, help="another such folder (default: a BERT made for this run)")
    parser.add_argument("--texts", type=Path, help="file of texts to send (default: the test split of BBC News)")
    parser.add_argument("--seconds", type=float, default=20, help="of load for each case (default: %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16], help="clients at a time")
    parser.add_argument("--rounds", type=int, default=5, help="parts that the seconds are cut into (%(default)s)")
    parser.add_argument("--settings", default="", help='further settings of the servers: --settings="--threads 1"')
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that lines are appended to")
    arguments = parser.parse_args(words)
    if arguments.seconds <= 0 or arguments.rounds < 1 or min(arguments.connections) < 1:
        parser.error("`seconds` must be more than 0, `rounds` and `connections` at least 1.")
    disable_progress_bar()

    settings = shlex.split(arguments.settings)
    name, texts = read_sample(arguments.texts)
    with contextlib.ExitStack() as stack:
        rival = arguments.rival
        if rival is None:
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rival = export(save_rival(arguments.folder, temporary / "rival"), temporary / "rival-onnx")
        url, rival_url = (stack.enter_context(serve(folder, settings)) for folder in (arguments.folder, rival))
        cases = [Case(OURS, url, "/classify"), Case(RIVAL, rival_url, "/classify"), Case(NO_MODEL, url, "/health")]
        machine = describe_machine()
        del machine["threads"]  # those of this process, not of the servers
        machine["versions"] |= {
            package: version(package) for package in ("onnxruntime", "fastapi", "uvicorn", "aiohttp")
        }
        shared = {
            "run": datetime.datetime.now().isoformat(timespec="seconds"),
            "settings": arguments.settings,
            "texts": name,
            **machine,
            **describe_run(),
        }
        parameters = {OURS: count(arguments.folder), RIVAL: count(rival)}
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        for connections in arguments.connections:
            for line in measure(cases, texts, connections, arguments.seconds, arguments.rounds):
                line |= {"parameters": parameters.get(line["case"]), **shared}
                with arguments.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(describe(line))


def describe(line: dict) -> str:
    ratio = line.get("ratio_to_rival")
    beside = f", {ratio['requests_per_second']['median']:.2f} times the rival's" if ratio else ""
    return (
        f"{line['connections']:>3} connections, {line['case']}: {line['requests_per_second']['median']:.0f} requests/s"
        f"{beside}; p50 {line['p50_ms']:.1f} ms, p99 {line['p99_ms']:.1f} ms; errors {line['errors'] or 'none'}"
    )


if __name__ == "__main__":
    main()
