"""Speed, memory and numerical error beside other models: `make bench`, or `python benchmarks/bench.py`.

The cases are data, in cases.py. Those of a group take turns in rounds, in one process, so that they compare; a case
whose parity check fails is not timed, and the command ends with an error that names it. When a group has ended, its
lines are appended to benchmarks/results/bench.jsonl. A group that this machine has measured at this commit is not
repeated, so the command can be stopped and started again. Tables and figures are made from the file alone:

    python benchmarks/tables.py                      # README.md and docs/benchmarks.md
    python -m wave_network.analysis.curves           # docs/figures/

Denormal numbers are flushed to zero, as in training. Nothing else should run on the machine.
"""

import argparse
import copy
import datetime
import gc
import json
import statistics
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from wave_network.benchmarks import models, parity
from wave_network.benchmarks.bandwidth import measure_bandwidth
from wave_network.benchmarks.cases import CONTENDERS, GROUPS, OURS, SLOW, Case, Setting, select
from wave_network.benchmarks.machine import ROOT, describe_machine
from wave_network.benchmarks.memory import measure_apart
from wave_network.benchmarks.texts import Corpus, load_corpus
from wave_network.benchmarks.timing import choose_calls, pair, summarise, time_in_rounds, warm_up
from wave_network.training.record import read_commit

RESULTS = ROOT / "benchmarks" / "results" / "bench.jsonl"

# A text's result does not depend on the others of its batch, so the first texts are enough for a check.
TOKENS_OF_A_CHECK, TOKENS_OF_A_SLOW_CHECK = 8192, 256

# What every line has; a field that says nothing about a case is null.
LINE: dict[str, Any] = {
    "run": None,  # the same for all lines of one run of a group
    "group": None,
    "case": None,
    "mode": None,
    "setting": None,
    "failed": None,  # why the case was not measured
    "median_ms": None,
    "p20_ms": None,
    "p80_ms": None,
    "rounds_ms": None,  # one number a round, null in a round that left the case out
    "calls_a_round": None,
    "ratio_to_ours": None,  # median, p20 and p80 of the ratios within each round
    "peak_memory_mib": None,
    "parity": None,  # the worst relative differences from the reference, and what was allowed
    "parameters": None,
    "core_parameters": None,
    "distinct_ids": None,  # different ids in a batch, the mean over the batches
    "fill": None,  # which part of a batch is text, measured
    "input": None,
    "error_of_c": None,
    "error_of_gradient": None,
    "finite": None,
    "bytes": None,
    "gb_per_second": None,
    "share_of_copy": None,
    "text": None,
    "quick": None,
    "device": None,
    "threads": None,
    "versions": None,
    "commit": None,
    "date": None,
}


def make_line(**known: Any) -> dict:
    unknown = known.keys() - LINE.keys()
    if unknown:
        raise KeyError(f"A line has no field {sorted(unknown)}; it has {sorted(LINE)}.")
    return LINE | known


def is_done(lines: Sequence[dict], group: str, machine: dict, commit: str) -> bool:
    """Whether the last run of a group was on this machine, of this commit, and without a failure."""
    runs = [line["run"] for line in lines if line["group"] == group]
    last = [line for line in lines if runs and line["run"] == runs[-1]]
    same = all(line["commit"] == commit and all(line[key] == machine[key] for key in machine) for line in last)
    return (
        bool(last) and same and not any(line["failed"] for line in last) and not commit.endswith(("dirty", "unknown"))
    )


# --- The groups -------------------------------------------------------------------------------------------------------


@dataclass
class Ready:
    """A case that passed its parity check."""

    case: Case
    model: Any
    optimizer: Any
    batches: list
    parity: dict
    parameters: dict


class Bench:
    """The groups of one command, and what they share: the text and how to measure."""

    def __init__(self, corpus: Corpus, *, device: str, rounds: int, quick: bool):
        self.corpus, self.device, self.rounds, self.quick = corpus, device, rounds, quick
        self.forget()

    def forget(self) -> None:
        """Between groups: models of one group would fill the memory of the next."""
        self.built: dict[tuple, tuple] = {}
        self.batches: dict[Setting, list] = {}
        self.expected: tuple[tuple | None, dict | None] = (None, None)
        torch.compiler.reset()

    def run(self, group: str) -> list[dict]:
        self.forget()
        kinds = {
            "timing": self.time,
            "timing and memory": self.time_and_weigh,
            "memory": self.weigh,
            "accuracy": self.measure_errors,
            "bandwidth": self.measure_bandwidth,
        }
        lines = kinds[GROUPS[group].kind](group)
        self.forget()
        return lines

    def time(self, group: str) -> list[dict]:

        cases = select(group, device=self.device, quick=self.quick)
        positions = max(case.setting.length for case in cases)
        failed: dict[str, str] = {}
        ready: dict[str, Ready] = {}
        # All checks come first: a training step changes the weights that the next setting's check would meet.
        for case in tqdm(cases, desc=f"{group}: parity", disable=None):
            try:
                ready[case.name] = self.check(case, positions)
            except Exception as error:  # one broken contender must not cost the measurements of the others
                failed[case.name] = f"{type(error).__name__}: {error}"
        # transformers lists the living models, and code is compiled anew when that list changes: no model may be
        # collected in the middle of a round.
        self.expected = (None, None)
        gc.collect()
        steps, calls = {}, {}
        for name, found in tqdm(ready.items(), desc=f"{group}: warm-up", disable=None):
            try:
                steps[name], calls[name] = self.warm_up(found)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
        every = {name: ready[name].case.every for name in steps}
        times = time_in_rounds(steps, calls, every, self.rounds, self.device, f"{group}: {self.rounds} rounds")

        ours = {
            (ready[name].case.mode, ready[name].case.setting): name
            for name in steps
            if ready[name].case.contender == OURS
        }
        lines = []
        for case in cases:
            line = describe_case(group, case)
            if case.name in failed:
                lines.append(line | {"failed": failed[case.name]})
                continue
            found, rounds = ready[case.name], times[case.name]
            middle = summarise(rounds)
            against = ours.get((case.mode, case.setting))
            lines.append(
                line
                | {f"{name}_ms": value for name, value in middle.items()}
                | {
                    "rounds_ms": rounds,
                    "calls_a_round": calls[case.name],
                    "ratio_to_ours": summarise(pair(rounds, times[against])) if against else None,
                    "parity": found.parity,
                    "parameters": found.parameters["total"] or None,
                    "core_parameters": found.parameters["core"] or None,
                    **self.describe_batches(case),
                }
            )
        return lines

    def warm_up(self, ready: Ready) -> tuple[models.Step, int]:
        """The step that is timed, and how often a round calls it."""
        contender, case = CONTENDERS[ready.case.contender], ready.case

        def make(batches: list) -> models.Step:
            return models.make_step(contender, ready.model, case.mode, case.setting, batches, ready.optimizer)

        step = make(ready.batches)
        if case.contender not in SLOW:
            return step, choose_calls(warm_up(step, self.device))
        # A few texts are enough to create the optimizer's state, and a whole batch takes up to half a minute.
        few = [batch.take(TOKENS_OF_A_SLOW_CHECK // case.setting.length) for batch in ready.batches]
        share = len(few[0].ids) / case.setting.batch
        return step, choose_calls(warm_up(make(few), self.device) / share)

    def check(self, case: Case, positions: int) -> Ready:
        """Builds a case and holds it against the reference; raises what is wrong with it."""
        contender, batches = CONTENDERS[case.contender], self.draw(case.setting)
        model, optimizer, parameters = self.build(case, positions)
        expected = self.expect(case, positions) if contender.tolerance is not None else None
        tolerance = contender.tolerance
        if expected is not None and case.setting.dtype != "float32":
            tolerance = parity.BFLOAT16_TOLERANCE
        if contender.family == "products":
            # Its own products, in float64: there is nothing of ours to compare with.
            expected = copy.deepcopy(model).double().compute(case.mode)
        batch = batches[0].take((TOKENS_OF_A_CHECK if expected else TOKENS_OF_A_SLOW_CHECK) // case.setting.length)
        found = parity.compute_outputs(contender, model, case.mode, case.setting, batch)
        result = parity.check_parity(case.name, found, expected, tolerance)
        return Ready(case, model, optimizer, batches, result, parameters)

    def build(self, case: Case, positions: int) -> tuple:
        """A model in its form, its optimizer and its parameters; one for all settings that the same weights serve."""

        contender, setting = CONTENDERS[case.contender], case.setting
        # The products are of one shape, and a CUDA graph is recorded for one.
        shape = setting if contender.family == "products" or contender.form == "graphed" else None
        key = (case.contender, case.mode, setting.hidden_size, setting.dtype, shape)
        if key not in self.built:
            with torch.device(self.device):
                model = models.build(contender, setting, **self.sizes(positions))
            parameters = models.count_parameters(model)
            optimizer = models.make_optimizer(contender, model) if case.mode == "training" else None
            self.built[key] = (models.prepare(contender, model, case.mode), optimizer, parameters)
        return self.built[key]

    def expect(self, case: Case, positions: int) -> dict:
        """What the readable operations give in float64. Kept for one setting: those of a setting follow each other."""

        setting = replace(case.setting, dtype="float32")
        key = (case.mode, setting)
        if self.expected[0] != key:
            readable = CONTENDERS["ours, readable"]
            with torch.device(self.device):
                model = models.build(readable, setting, **self.sizes(positions)).double()
            batch = self.draw(setting)[0].take(TOKENS_OF_A_CHECK // setting.length)
            self.expected = (key, parity.compute_outputs(readable, model, case.mode, setting, batch))
        return self.expected[1]

    def sizes(self, positions: int) -> dict:
        shared = {"vocab_size": self.corpus.vocab_size, "num_labels": self.corpus.num_labels}
        return shared | {"positions": positions, "quick": self.quick}

    def draw(self, setting: Setting) -> list:
        if setting not in self.batches:
            self.batches[setting] = [batch.to(self.device) for batch in self.corpus.batches(setting)]
        return self.batches[setting]

    def describe_batches(self, case: Case) -> dict:
        batches = self.draw(case.setting)
        fills = [1.0 if batch.mask is None else batch.mask.double().mean().item() for batch in batches]
        distinct = statistics.mean(len(batch.ids.unique()) for batch in batches)
        return {"text": self.corpus.name, "distinct_ids": round(distinct), "fill": round(statistics.mean(fills), 4)}

    def weigh(self, group: str) -> list[dict]:
        cases = select(group, device=self.device, quick=self.quick)
        return self.add_memory([describe_case(group, case) for case in cases], group)

    def time_and_weigh(self, group: str) -> list[dict]:
        lines = self.time(group)
        self.forget()
        return self.add_memory(lines, group)

    def add_memory(self, lines: list[dict], group: str) -> list[dict]:

        cases = select(group, device=self.device, quick=self.quick)
        shared = {"vocab_size": self.corpus.vocab_size, "num_labels": self.corpus.num_labels, "quick": self.quick}
        for case, line in zip(tqdm(cases, desc=f"{group}: memory", disable=None), lines, strict=True):
            if line["failed"]:
                continue
            batches = self.corpus.batches(case.setting)
            settings = {"device": self.device, "threads": torch.get_num_threads()}
            try:
                line["peak_memory_mib"] = measure_apart(case, batches, **shared, **settings)
                line |= self.describe_batches(case)
            except (OSError, RuntimeError) as error:
                line["failed"] = f"{type(error).__name__}: {error}"
        return lines

    def measure_errors(self, group: str) -> list[dict]:
        return [make_line(group=group, **found) for found in parity.measure_errors(self.device)]

    def measure_bandwidth(self, group: str) -> list[dict]:
        lines = []
        for setting in dict.fromkeys(case.setting for case in select(group, device=self.device, quick=self.quick)):
            found = measure_bandwidth(setting, self.rounds, self.device)
            copied = found["copy"]
            for name, result in found.items():
                middle = summarise(result["rounds_ms"])
                # The share compares bytes a second: the forward moves as many bytes as the copy, the backward more.
                shares = [x * result["bytes"] / copied["bytes"] for x in pair(copied["rounds_ms"], result["rounds_ms"])]
                lines.append(
                    make_line(
                        group=group,
                        case=name if name == "copy" else f"superpose, {name}",
                        mode=name,
                        setting=asdict(setting),
                        rounds_ms=result["rounds_ms"],
                        calls_a_round=result["calls"],
                        bytes=result["bytes"],
                        gb_per_second=result["bytes"] / middle["median"] / 1e6,
                        share_of_copy=summarise(shares),
                        **{f"{key}_ms": value for key, value in middle.items()},
                    )
                )
        return lines


def describe_case(group: str, case: Case) -> dict:
    return make_line(group=group, case=case.contender, mode=case.mode, setting=asdict(case.setting))


# --- The command ------------------------------------------------------------------------------------------------------


def list_groups() -> str:
    lines = []
    for name, group in GROUPS.items():
        lines.append(f"{name}: {group.about} ({len(group.cases) or 'its own'} cases, {group.device})")
        lines += [f"    {case.name}" for case in group.cases]
        lines += [f"    left out: {group.left_out}"] if group.left_out else []
    lines.append("contenders:")
    lines += [f"    {name}: {contender.about}" for name, contender in CONTENDERS.items()]
    return "\n".join(lines)


def report(line: dict) -> str:
    setting = line["setting"] or {}
    where = ", ".join(str(value) for value in (*setting.values(), line["input"]) if value is not None)
    parts = [f"{line['case']}, {line['mode'] or 'error'} ({where})"]
    if line["failed"]:
        return f"{parts[0]}: FAILED, {line['failed']}"
    if line["median_ms"] is not None:
        parts.append(f"{line['median_ms']:.2f} ms ({line['p20_ms']:.2f} to {line['p80_ms']:.2f})")
    if line["ratio_to_ours"] is not None:
        parts.append(f"{line['ratio_to_ours']['median']:.2f} times ours")
    if line["peak_memory_mib"] is not None:
        parts.append(f"{line['peak_memory_mib']:.0f} MiB")
    if line["share_of_copy"] is not None:
        parts.append(f"{line['gb_per_second']:.0f} GB/s, {line['share_of_copy']['median']:.0%} of the copy")
    if line["finite"] is not None:
        parts += [f"{name} {line[name]}" for name in ("error_of_c", "error_of_gradient")]
    return "; ".join(parts)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--list", action="store_true", help="name the groups and their cases, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="a smoke run of small cases, into a temporary file")
    parser.add_argument("--again", action="store_true", help="measure what this machine has measured at this commit")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    parser.add_argument("--rounds", type=int, help="rounds of each group (default: 5; 20 on a GPU; 2 with --quick)")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with ag_news and bert_vocab"
    )
    parser.add_argument("--results", type=Path, help=f"file to append to (default: {RESULTS.relative_to(ROOT)})")
    parser.add_argument("--commit", help="what the lines say where git cannot be asked")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(words)
    if arguments.list:
        print(list_groups())
        return
    for name in ("rounds", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"argument --{name}: must be at least 1, got {value}")

    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda was asked for, and PyTorch finds no CUDA device; allowed here: cpu")
    groups = arguments.only or [name for name, group in GROUPS.items() if group.device == device]
    for name in groups:
        if GROUPS[name].device == "cuda" and device == "cpu" and not arguments.quick:
            parser.error(f"argument --only: {name} needs --device cuda")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    # Falling back to eager would be timed as compiled.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = 64

    machine, commit = describe_machine(device), arguments.commit or read_commit() or "unknown"
    path = arguments.results or RESULTS
    if arguments.quick and arguments.results is None:
        path = Path(tempfile.mkdtemp(prefix="wave-bench-")) / "bench.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    rounds = arguments.rounds or (2 if arguments.quick else 20 if device == "cuda" else 5)
    bench = None
    failed = []
    for group in groups:
        if not arguments.again and is_done(lines, group, machine, commit):
            print(f"{group}: measured at {commit} already; --again measures it again")
            continue
        bench = bench or Bench(load_corpus(arguments.data), device=device, rounds=rounds, quick=arguments.quick)
        shared = {"run": uuid.uuid4().hex[:12], "quick": arguments.quick, **machine, "commit": commit}
        shared["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        found = [line | shared for line in bench.run(group)]
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in found)
        print(f"--- {group}", *map(report, found), sep="\n")
        failed += [report(line) for line in found if line["failed"]]
    print(f"Results: {path}")
    if failed:
        sys.exit("\n".join(["These cases were not measured:", *failed]))


if __name__ == "__main__":
    main()
