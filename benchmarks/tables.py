"""Writes the tables of README.md and docs/ from the result files: `python benchmarks/tables.py`.

A table stands wherever one of the files has its two markers, `<!-- table: NAME -->` and `<!-- end of table -->`.
`--check` writes nothing and fails if a table is not what the result files say; the tests run it.
"""

import argparse
import functools
import itertools
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> list[dict]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def classification_table() -> str:
    """Mean and standard deviation over the seeds of benchmarks/classification.py."""
    groups = defaultdict(list)
    for row in read("classification.jsonl"):
        groups[row["dataset"], row["rows"]["train"], row["rows"]["validation"], row["model"]].append(row)
    lines = [
        "| data (train + validation / test) | model | test accuracy, % | runs | parameters (core) | seconds | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for (dataset, train, validation, model), rows in sorted(groups.items(), key=lambda item: item[0][0::3]):
        accuracies = [100 * row["accuracy"] for row in rows]
        spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        core = f" ({rows[0]['core_parameters']:,})" if "core_parameters" in rows[0] else ""
        seconds = f"{mean(row['seconds'] for row in rows):.0f}"
        data = f"{dataset} ({train:,} + {validation:,} / {rows[0]['rows']['test']:,})"
        lines.append(
            f"| {data} | {model} | {mean(accuracies):.2f}{spread} | {len(rows)} | {rows[0]['parameters']:,}{core} "
            f"| {seconds} | {max(row['date'] for row in rows)} |"
        )
    return "\n".join(lines)


def choices_table() -> str:
    """Best epoch and last epoch of benchmarks/choices.py, mean over the seeds."""
    groups = defaultdict(list)
    for row in read("choices.jsonl"):
        groups[row["case"]["hidden_size"], row["name"]].append(row)
    lines = [
        "| hidden size | case | best epoch, % | last epoch, % | epochs | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for (hidden_size, name), rows in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "base")):
        best = [100 * max(row["validation_accuracy_by_epoch"]) for row in rows]
        last = [100 * row["validation_accuracy_by_epoch"][-1] for row in rows]
        spread = f" ± {stdev(best):.2f}" if len(best) > 1 else ""
        lines.append(
            f"| {hidden_size} | {name} | {mean(best):.2f}{spread} | {mean(last):.2f} | {rows[0]['case']['epochs']} "
            f"| {len(rows)} |"
        )
    return "\n".join(lines)


# --- benchmarks/bench.py ----------------------------------------------------------------------------------------------

NOT_MEASURED = "not measured yet"


def order_table() -> str:
    """benchmarks/order.py: the cases in their order there, mean over the seeds."""
    groups = defaultdict(list)
    for row in read("order.jsonl"):
        groups[row["name"]].append(row)
    lines = ["| before the layer | words named, % | cross-entropy | parameters | seeds |", "|---|---|---|---|---|"]
    for name, rows in groups.items():
        named = [100 * row["accuracy"] for row in rows]
        spread = f" ± {stdev(named):.2f}" if len(named) > 1 else ""
        loss = mean(row["loss"] for row in rows)
        lines.append(f"| {name} | {mean(named):.2f}{spread} | {loss:.3f} | {rows[0]['parameters']:,} | {len(rows)} |")
    return "\n".join(lines)


def last_run(group: str) -> list[dict]:
    """The lines of the last run of a group that was not a smoke run, without the cases that failed."""
    lines = [line for line in read("bench.jsonl") if line["group"] == group and not line["quick"]]
    return [line for line in lines if line["run"] == lines[-1]["run"] and not line["failed"]]


def find_line(lines: list[dict], case: str, mode: str, **setting) -> dict | None:
    """The line of a case whose setting has these values."""
    for line in lines:
        if (line["case"], line["mode"]) == (case, mode) and setting.items() <= line["setting"].items():
            return line
    return None


def paired_ratio(line: dict | None, other: dict | None) -> float | None:
    """The median over the rounds in which both ran of the ratio of their times."""
    if line is None or other is None:
        return None
    both = [
        x / y for x, y in zip(line["rounds_ms"], other["rounds_ms"], strict=True) if x is not None and y is not None
    ]
    return median(both) if both else None


def describe_run(lines: list[dict]) -> str:
    if not lines:
        return f"_{NOT_MEASURED.capitalize()}._"
    first = lines[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    text = next((f"; {line['text']}" for line in lines if line["text"]), "")
    where = f"{first['device']}, {first['threads']} threads, {versions}"
    return f"{where}, commit {first['commit']}, {first['date'][:10]}{text}."


def with_spread(line: dict | None) -> str:
    if line is None or line["median_ms"] is None:
        return "-"
    return f"{digits(line['median_ms'])} ({digits(line['p20_ms'])} to {digits(line['p80_ms'])})"


def digits(value: float) -> str:
    """Three figures, and no more of them than a measurement has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def headline_table() -> str:
    """Every model at B 32 x L 128: time of inference and of a training step, and its peak memory, beside ours."""
    lines, memory = last_run("headline"), last_run("memory")
    rows = [
        "| model | parameters (core) | inference, ms | times ours | training step, ms | times ours "
        "| peak memory of a step, MiB | times ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = find_line(memory, "ours", "training")
    for case in dict.fromkeys(line["case"] for line in lines):
        found = [find_line(lines, case, mode) for mode in ("inference", "training")]
        known = next(line for line in found if line is not None)
        parameters = f"{known['parameters']:,} ({known['core_parameters']:,})" if known["parameters"] else "-"
        cells = [case, parameters]
        for line in found:
            ratio = line and line["ratio_to_ours"]
            cells += [with_spread(line), digits(ratio["median"]) if ratio else "-"]
        weight = find_line(memory, case, "training")
        cells += [f"{weight['peak_memory_mib']:,.0f}" if weight else "-"]
        cells += [digits(weight["peak_memory_mib"] / ours["peak_memory_mib"]) if weight and ours else "-"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*(rows if lines else []), "", describe_run(lines)]).lstrip()


def sweep_table(group: str, key: str, name: str) -> str:
    """A sweep as numbers: the median, and in brackets how many times ours, for each value of the key."""
    lines = last_run(group)
    rows = []
    for mode in ("inference", "training"):
        here = [line for line in lines if line["mode"] == mode]
        values = sorted({line["setting"][key] for line in here})
        if not values:
            continue
        rows += ["", f"| {mode}, ms; {name} | {' | '.join(f'{value:,g}' for value in values)} |"]
        rows.append("|---" * (len(values) + 1) + "|")
        for case in dict.fromkeys(line["case"] for line in here):
            cells = []
            for value in values:
                line = find_line(here, case, mode, **{key: value})
                ratio = line and line["ratio_to_ours"]
                times = f" ({digits(ratio['median'])})" if ratio and case != "ours" else ""
                cells.append(f"{digits(line['median_ms'])}{times}" if line else "-")
            rows.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join([describe_run(lines), *rows])


def accuracy_table() -> str:
    """The largest relative errors of c and of its gradient in float32, for each form and input."""
    lines = last_run("accuracy")
    forms = list(dict.fromkeys(line["case"] for line in lines))
    rows = [f"| input | {' | '.join(forms)} |", "|---" * (len(forms) + 1) + "|"]
    for kind in dict.fromkeys(line["input"] for line in lines):
        cells = []
        for form in forms:
            line = next(line for line in lines if (line["case"], line["input"]) == (form, kind))
            cells.append(" / ".join(show_error(line[name]) for name in ("error_of_c", "error_of_gradient")))
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*(rows if lines else []), "", describe_run(lines)]).lstrip()


def show_error(error: float | None) -> str:
    return "NaN" if error is None else "0" if error == 0 else f"{error:.1e}"


def gpu_table() -> str:
    """The shape of the paper's Table 2: time of a step and peak allocated memory, beside BERT-base."""
    lines = last_run("gpu_table2")
    rows = [
        "| model | mode | dtype | ms | of BERT-base's time | peak memory, MiB | of BERT-base's memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        bert = find_line(lines, "BERT-base", line["mode"], dtype=line["setting"]["dtype"])
        ratio = paired_ratio(line, bert)
        memory, of_bert = line["peak_memory_mib"], bert and bert["peak_memory_mib"]
        cells = [line["case"], line["mode"], line["setting"]["dtype"], with_spread(line)]
        cells += [f"{ratio:.1%}" if ratio else "-", f"{memory:,.0f}" if memory else "-"]
        rows.append(f"| {' | '.join(cells)} | {f'{memory / of_bert:.1%}' if memory and of_bert else '-'} |")
    return "\n".join([*(rows if lines else []), "", describe_run(lines)]).lstrip()


def bandwidth_table() -> str:
    """Bytes a second of the fused operation, and the share of what a copy reaches in the same run."""
    lines = last_run("gpu_bandwidth")
    rows = ["| operation | B x L x 2D | dtype | ms | GB/s | of the copy |", "|---|---|---|---|---|---|"]
    for line in lines:
        setting, share = line["setting"], line["share_of_copy"]["median"]
        shape = f"{setting['batch']} x {setting['length']} x {2 * setting['hidden_size']}"
        cells = [line["case"], shape, setting["dtype"], with_spread(line), f"{line['gb_per_second']:,.0f}"]
        rows.append(f"| {' | '.join(cells)} | {share:.0%} |")
    return "\n".join([*(rows if lines else []), "", describe_run(lines)]).lstrip()


def headline_ratio(case: str, other: str, mode: str) -> float | None:
    lines = last_run("headline")
    return paired_ratio(find_line(lines, case, mode), find_line(lines, other, mode))


def memory_ratio(case: str, other: str) -> float | None:
    lines = [find_line(last_run("memory"), name, "training") for name in (case, other)]
    return lines[0]["peak_memory_mib"] / lines[1]["peak_memory_mib"] if None not in lines else None


def worst_error(field: str) -> float | None:
    """Of our operations, fused and readable. Infinite if there is a NaN."""
    lines = [line for line in last_run("accuracy") if line["case"].startswith("ours")]
    errors = [float("inf") if line[field] is None or not line["finite"] else line[field] for line in lines]
    return max(errors) if errors else None


def unevenness() -> float | None:
    """How far the time of 32,768 tokens, cut into texts of 512 to 32,768, strays from that of texts of 512."""
    lines = [line for line in last_run("long") if (line["case"], line["mode"]) == ("ours", "inference")]
    base = find_line(lines, "ours", "inference", length=512)
    ratios = [paired_ratio(line, base) for line in lines]
    return max(abs(ratio - 1) for ratio in ratios if ratio) if base else None


def packing_gain() -> float | None:
    lines = last_run("fill")
    return paired_ratio(*(find_line(lines, case, "inference", fill=0.25) for case in ("ours", "ours, packed")))


def gpu_saving(what: str) -> float | None:
    """Of the worse of float32 and bfloat16, our training step against BERT-base: 0.85 is 85 % less."""
    lines, savings = last_run("gpu_table2"), []
    for dtype in ("float32", "bfloat16"):
        bert = find_line(lines, "BERT-base", "training", dtype=dtype)
        ours = find_line(lines, "ours", "training", dtype=dtype)
        if not bert or not ours:
            continue
        by_memory = what == "memory"
        ratio = ours["peak_memory_mib"] / bert["peak_memory_mib"] if by_memory else paired_ratio(ours, bert)
        savings.append(1 - ratio)
    return min(savings) if savings else None


def worst_share(mode: str) -> float | None:
    shares = [line["share_of_copy"]["median"] for line in last_run("gpu_bandwidth") if line["mode"] == mode]
    return min(shares) if shares else None


def sparse_gain() -> float | None:
    """Of a first step, with denormal numbers flushed, as `finetune` does."""
    rows = [row for row in read("sparse_table.jsonl") if row["kind"] == "step" and row["flush_denormal"]]
    first = min((row["steps_before"] for row in rows), default=0)
    return median(row["ratio"]["median"] for row in rows if row["steps_before"] == first) if rows else None


# What the project set out to reach: what, at least or at most, the bar, how it is read, how it is written.
BARS: list[tuple[str, str, float, Callable[[], float | None], Callable[[float], str]]] = [
    ("inference, BERT-base / ours", "≥", 30, lambda: headline_ratio("BERT-base", "ours", "inference"), digits),
    (
        "inference, BERT-base / ours folded",
        "≥",
        50,
        lambda: headline_ratio("BERT-base", "ours, folded", "inference"),
        digits,
    ),
    (
        "inference, ours compiled / its bare matrix products",
        "≤",
        1.15,
        lambda: headline_ratio("ours, compiled", "matrix products", "inference"),
        digits,
    ),
    ("training step, BERT-base / ours", "≥", 45, lambda: headline_ratio("BERT-base", "ours", "training"), digits),
    ("training step, polar form / ours", "≥", 2, lambda: headline_ratio("polar form", "ours", "training"), digits),
    ("peak memory of a training step, BERT-base / ours", "≥", 7, lambda: memory_ratio("BERT-base", "ours"), digits),
    ("training step, D 128, 16 x 32, dense / sparse table", "≥", 2.5, sparse_gain, digits),
    ("largest relative error of c, float32", "≤", 5e-7, lambda: worst_error("error_of_c"), "{:.1e}".format),
    ("the same of its gradient, always finite", "≤", 1e-6, lambda: worst_error("error_of_gradient"), "{:.1e}".format),
    ("time per token, length 512 to 32,768, deviation", "≤", 0.1, unevenness, "{:.1%}".format),
    ("inference at 25 % fill, padded / packed", "≥", 2.5, packing_gain, digits),
    (
        "GPU: peak memory of a training step, less than BERT-base by",
        "≥",
        0.85,
        lambda: gpu_saving("memory"),
        "{:.1%}".format,
    ),
    ("GPU: time of a training step, less than BERT-base by", "≥", 0.95, lambda: gpu_saving("time"), "{:.1%}".format),
    ("GPU: fused forward, of copy bandwidth", "≥", 0.8, lambda: worst_share("forward"), "{:.0%}".format),
    ("GPU: fused backward, of copy bandwidth", "≥", 0.8, lambda: worst_share("backward"), "{:.0%}".format),
]


def bars_table() -> str:
    """What was to be reached, and what was measured."""
    rows = ["| bar | to reach | measured | met |", "|---|---|---|---|"]
    for what, sign, bar, read_value, show in BARS:
        value = read_value()
        met = "-" if value is None else "yes" if (value >= bar if sign == "≥" else value <= bar) else "**no**"
        rows.append(f"| {what} | {sign} {show(bar)} | {NOT_MEASURED if value is None else show(value)} | {met} |")
    return "\n".join(rows)


def sparse_steps_table() -> str:
    """Steps of benchmarks/sparse_table.py, the median of the seeds."""
    groups = defaultdict(list)
    for row in read("sparse_table.jsonl"):
        if row["kind"] == "step":
            groups[row["device"], row["threads"], not row["flush_denormal"], row["steps_before"]].append(row)
    lines = [
        "| device | threads | denormals | steps before | dense, ms | sparse, ms | dense / sparse | denormal moments "
        "| date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (device, threads, kept, before), rows in sorted(groups.items()):
        cells = []
        for name in ("dense_ms", "sparse_ms", "ratio"):
            middle, low, high = (median(row[name][cut] for row in rows) for cut in ("median", "p20", "p80"))
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        share = mean(row["denormal_share"]["dense"] for row in rows)
        how = f"{device} | {threads} | {'kept' if kept else 'flushed'} | {before:,}"
        lines.append(f"| {how} | {' | '.join(cells)} | {share:.1%} | {max(row['date'] for row in rows)} |")
    return "\n".join(lines)


def sparse_accuracy_table() -> str:
    """Best and last epoch of benchmarks/sparse_table.py --accuracy, mean over the seeds."""
    groups = defaultdict(list)
    for row in read("sparse_table.jsonl"):
        if row["kind"] == "accuracy":
            groups[row["batch"], row["learning_rate"], row["sparse_embeddings"]].append(row)
    lines = [
        "| batch | learning rate | table | best epoch, % | last epoch, % | seconds | seeds | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (batch, learning_rate, sparse), rows in sorted(groups.items()):
        cells = []
        for choose in (max, lambda accuracies: accuracies[-1]):
            values = [100 * choose(row["validation_accuracy_by_epoch"]) for row in rows]
            cells.append(f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""))
        lines.append(
            f"| {batch} | {learning_rate:g} | {'sparse' if sparse else 'dense'} | {' | '.join(cells)} "
            f"| {mean(row['seconds'] for row in rows):.0f} | {len(rows)} | {max(row['date'] for row in rows)} |"
        )
    return "\n".join(lines)


def int8_accuracy_table() -> str:
    """Of the same models in float32 and in int8, over the seeds."""
    groups = defaultdict(list)
    for row in read("int8.jsonl"):
        if row["kind"] == "accuracy":
            groups[row["case"]].append(row)
    lines = [
        "| in int8 | accuracy, % | labels changed, of 10,000 | largest change of a logit (largest logit) | file, MB "
        "| seeds |",
        "|---|---|---|---|---|---|",
    ]
    for case, rows in groups.items():
        accuracies = [100 * row["accuracy"] for row in rows]
        spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        changed = mean(10_000 * row["changed_labels"] / row["rows"]["validation"] for row in rows)
        logits = [max(row[name] for row in rows) for name in ("largest_logit_difference", "largest_logit")]
        lines.append(
            f"| {'nothing' if case == 'float32' else case} | {mean(accuracies):.2f}{spread} | {changed:.1f} "
            f"| {logits[0]:.3f} ({logits[1]:.1f}) | {rows[0]['file_bytes'] / 1e6:.1f} | {len(rows)} |"
        )
    return "\n".join(lines) if groups else f"_{NOT_MEASURED.capitalize()}._"


def int8_time_table() -> str:
    """Of float32 and of int8, as it is and compiled."""
    rows = [row for row in read("int8.jsonl") if row["kind"] == "time"]
    if not rows:
        return f"_{NOT_MEASURED.capitalize()}._"
    lines = ["| D | in int8 | as it is, ms | ratio | compiled, ms | ratio |", "|---|---|---|---|---|---|"]
    pairs: dict[tuple[int, str], dict[bool, dict]] = defaultdict(dict)
    for row in rows:
        pairs[row["hidden_size"], row["case"]][row["compiled"]] = row
    for (hidden_size, case), modes in pairs.items():
        cells = [f"{hidden_size}", case.replace("float32", "nothing")]
        for compiled in (False, True):
            times, ratio = modes[compiled]["milliseconds"], modes[compiled]["ratio"]["median"]
            spread = f"({digits(times['p20'])} to {digits(times['p80'])})"
            cells += [f"{digits(times['median'])} {spread}", f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    where = f"{first['device']}, {first['threads']} threads, {versions}"
    lines += ["", f"{where}, commit {first['commit']}, {first['date']}."]
    return "\n".join(lines)


def documents_table() -> str:
    """The last measurement of benchmarks/documents.py for each length."""
    rows = {row["length"]: row for row in read("documents.jsonl")}
    lines = [
        "| tokens | peak of the process, MiB | above the time before, MiB | microseconds a token "
        "| logits against one pass |",
        "|---|---|---|---|---|",
    ]
    for length, row in sorted(rows.items()):
        peak, before, difference = (
            row[name] for name in ("peak_resident_mib", "resident_before_mib", "difference_from_one_pass")
        )
        lines.append(
            f"| {length:,} | {peak:,.0f} | {peak - before:,.0f} | {1e6 * row['seconds'] / length:.0f} "
            f"| {'-' if difference is None else f'{difference:.1e}'} |"
        )
    return "\n".join(lines)


def allocator_table() -> str:
    """benchmarks/allocator.py: medians over the rounds, and the median of the ratios within them."""
    measured, groups = read("allocator.jsonl"), defaultdict(dict)
    if not measured:
        return f"_{NOT_MEASURED.capitalize()}._"
    for row in measured:
        groups[row["hidden_size"], row["freed_memory"]][row["round"]] = row
    lines = [
        "| hidden size | training step as it is, ms | freed memory kept, ms | ratio | peak of the process, MiB "
        "| freed memory kept, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for size in sorted({size for size, _ in groups}):
        plain, kept = groups[size, "as it is"], groups[size, "kept"]
        ratios = [plain[turn]["step_ms"] / kept[turn]["step_ms"] for turn in plain]
        times = [digits(median(row["step_ms"] for row in rows.values())) for rows in (plain, kept)]
        peaks = [f"{median(row['peak_memory_mib'] for row in rows.values()):,.0f}" for rows in (plain, kept)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {size} | {' | '.join([*times, ratio, *peaks])} |")
    last = measured[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    where = f"{last['device']}, {last['threads']} threads, {versions}, commit {last['commit']}, {last['date']}"
    return "\n".join([*lines, "", f"{where}; {len(plain)} rounds, the ratio with its range."])


def profiles_table() -> str:
    """The last profile of each case of benchmarks/profiles.py."""
    cases = {row["case"]: row for row in read("profiles.jsonl")}
    lines = ["| step | ms in operators (calls) | the largest, ms |", "|---|---|---|"]
    for case, row in cases.items():
        largest = ", ".join(f"{each['operator'].split('::')[-1]} {each['ms']:.2f}" for each in row["operators"])
        lines.append(f"| {case} | {row['step_ms']:.1f} ({row['calls']:,}) | {largest} |")
    return "\n".join(lines)


def serving_table() -> str:
    """The last run of benchmarks/serving.py."""
    rows = read("serving.jsonl")
    rows = [row for row in rows if row["run"] == rows[-1]["run"]]
    if not rows:
        return f"_{NOT_MEASURED.capitalize()}._"
    lines = [
        "| clients | behind the server | requests/s | times the rival | p50, ms | times the rival | p99, ms | errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate, ratio = row["requests_per_second"], row.get("ratio_to_rival")
        rates = f"{digits(rate['median'])} ({digits(rate['p20'])} to {digits(rate['p80'])})"
        times = [f"{ratio[name]['median']:.2f}" if ratio else "-" for name in ("requests_per_second", "p50")]
        errors = f"{sum(row['errors'].values())} of {row['requests'] + sum(row['errors'].values()):,}"
        cells = [str(row["connections"]), row["case"], rates, times[0]]
        lines.append(f"| {' | '.join([*cells, digits(row['p50_ms']), times[1], digits(row['p99_ms']), errors])} |")
    first = rows[0]
    cores = [f"{row['case']} {row['parameters']['core']:,}" for row in rows[:3] if row["parameters"]]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    settings = f" Settings: {first['settings']}." if first["settings"] else ""
    lines += ["", f"{first['texts']}. Parameters of the core: {', '.join(cores)}.{settings}"]
    return "\n".join([*lines, f"{first['device']}, {versions}, commit {first['commit']}, {first['date']}."])


def export_table() -> str:
    """The last run of benchmarks/export.py."""
    rows = read("export.jsonl")
    rows = [row for row in rows if row["run"] == rows[-1]["run"]]
    if not rows:
        return f"_{NOT_MEASURED.capitalize()}._"
    lines = [
        "| format | file, MB | of the safetensors | largest difference of a logit | equal labels, % | accuracy, % "
        "| texts/s, one at a time | times torch | texts/s, 32 at a time | times torch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["format"], f"{row['file_bytes'] / 1e6:.2f}", f"{row['ratio_to_safetensors']:.3f}"]
        cells.append(show_error(row["largest_difference"]))
        cells += [f"{100 * row[name]:.2f}" for name in ("agreement", "accuracy")]
        for batch, rate in row["texts_per_second"].items():
            cells.append(f"{digits(rate['median'])} ({digits(rate['p20'])} to {digits(rate['p80'])})")
            cells.append(f"{row['ratio_to_torch'][batch]['median']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    texts = f"{first['texts']:,} test texts of {first['dataset']}, largest logit {first['largest_logit']:.1f}"
    where = f"{first['device']}, {first['threads']} threads, {versions}, commit {first['commit']}, {first['date']}"
    return "\n".join([*lines, "", f"{texts}. {where}."])


# --- wave-network reproduce -------------------------------------------------------------------------------------------

REPRODUCED = {
    "ag-news": "AG News",
    "imdb": "IMDB",
    "sst2": "SST-2",
    "trec6": "TREC-6",
    "20-newsgroups": "20 Newsgroups",
}
SMALL_MODEL = 2_400_000  # parameters, tables included


def read_reproduced() -> dict[str, dict]:
    """The newest aggregate of each recipe; those from the Hub and from a local folder are not told apart."""
    return {row["recipe"]: row for row in read("reproduction.jsonl")}


def mark_former(row: dict) -> str:
    """What is added to the name of a recipe that was measured with other settings than it has now."""
    from wave_network.training.recipes import RECIPES

    recipe, measured = RECIPES.get(row["recipe"]), row["settings"]
    is_current = recipe is not None and (
        # The tokenizer may have been a file, and the rows have settings of the data set as well.
        dict(recipe.model) | {"tokenizer": None} == measured["model"] | {"tokenizer": None}
        and recipe.training == measured["training"]
        and recipe.rows.items() <= measured["rows"].items()
    )
    return "" if is_current else " (former settings)"


def claims_table() -> str:
    """Every recipe that is compared with a number, in the order of the result file."""
    rows = [row for row in read_reproduced().values() if row["claim"] is not None]
    lines = [
        "| claim, % | source | command | measured, % | 95 % interval | test set's own error | held | hardware | date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        claim, verdict = row["claim"], row["verdict"]
        shown = f"{'≥ ' if claim['at_least'] else ''}{100 * claim['accuracy']:.2f}"
        cells = [shown, claim["source"], f"`{row['command']}`{mark_former(row)}", *show_accuracy(row)]
        cells.append(f"± {100 * sampling_error(row):.2f}")
        cells += ["yes" if verdict["held"] else "**no**", row["device"], row["date"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if rows else f"_{NOT_MEASURED.capitalize()}._"


def recipes_table() -> str:
    """Our models of each data set, the SVM on the same rows, and the bar."""
    measured = read_reproduced()
    lines = [
        "| data | our model | test accuracy, % | runs | parameters | SVM, % | bar, % | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, title), size in itertools.product(REPRODUCED.items(), ("small", "medium")):
        ours, svm = (measured.get(f"{data}-{kind}") for kind in (size, "svm"))
        if ours is not None:
            cells = [title, size + mark_former(ours), show_accuracy(ours)[0], str(ours["runs"])]
            cells.append(f"{ours['parameters']:,}")
            cells += [show_accuracy(svm)[0] if svm else "-", f"≥ {100 * ours['claim']['accuracy']:.2f}"]
            lines.append(f"| {' | '.join([*cells, 'yes' if ours['verdict']['held'] else '**no**'])} |")
    return "\n".join(lines) if len(lines) > 2 else f"_{NOT_MEASURED.capitalize()}._"


def readings_table() -> str:
    """Recipes that were measured on the test rows and are not kept, beside the one that is."""
    kept = read_reproduced()
    lines = [
        "| recipe | instead of what is kept | validation, % | of rows | test, % | runs | kept: test, % | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in read("readings.jsonl"):
        now = kept.get(row["recipe"], kept[f"{row['data']}-small"])
        was, settings = (list_settings(each) for each in (row, now))
        shown = show_case(was, settings).replace("base", "the training rows of the search alone")
        cells = [f"`{row['recipe']}`", shown, f"{100 * row['validation_accuracy']['mean']:.2f}"]
        cells.append(f"{row['rows']['validation']:,}")
        cells += [show_accuracy(row)[0], str(row["runs"]), show_accuracy(now)[0], ", ".join(row["commits"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else f"_{NOT_MEASURED.capitalize()}._"


def list_settings(row: dict) -> dict:
    """Those of model and training; which epoch is kept goes with the validation rows."""
    settings = {**row["settings"]["model"], **row["settings"]["training"]}
    return {name: value for name, value in settings.items() if value is not None and name != "load_best_model_at_end"}


def sampling_error(row: dict) -> float:
    """The standard error that so many test rows leave."""
    mean_accuracy = row["accuracy"]["mean"]
    return (mean_accuracy * (1 - mean_accuracy) / row["rows"]["test"]) ** 0.5


def show_accuracy(row: dict) -> list[str]:
    accuracy = row["accuracy"]
    if accuracy["sd"] is None:
        return [f"{100 * accuracy['mean']:.2f}", "-"]
    interval = f"{100 * accuracy['low']:.2f} to {100 * accuracy['high']:.2f}"
    return [f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['sd']:.2f}", interval]


def reproduced_table(data: str) -> str:
    """All recipes of a data set, the best first, with their distance from our small model."""
    found = [row for row in read_reproduced().values() if row["data"] == data]
    if not found:
        return f"_{NOT_MEASURED.capitalize()}._"
    ours = next((row for row in found if row["recipe"] == f"{data}-small"), None)
    lines = [
        "| recipe | what it is | test accuracy, % | 95 % interval | less than our small model by | runs "
        "| parameters (core) | ECE, % | seconds | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: -row["accuracy"]["mean"]):
        core, memory, seconds = row["core_parameters"], row["peak_memory_mib"], row["seconds"]
        cells = [f"`{row['recipe']}`{mark_former(row)}", row["about"], *show_accuracy(row), show_distance(ours, row)]
        cells.append(str(row["runs"]))
        cells.append(f"{row['parameters']:,}" + (f" ({core:,})" if core is not None else ""))
        cells.append(show_calibration(row["calibration"]))
        cells += [f"{value:,.0f}" if value is not None else "-" for value in (seconds, memory)]
        lines.append(f"| {' | '.join(cells)} |")
    usual = describe_rows(ours or found[0])
    others = [f"`{row['recipe']}`: {facts}" for row in found if (facts := describe_rows(row)) != usual]
    return "\n".join([*lines, "", " ".join(f"{facts}." for facts in (usual, *others))])


def describe_rows(row: dict) -> str:
    """Which rows a recipe had, and on what device it ran."""
    rows = " + ".join(f"{row['rows'][split]:,}" for split in ("train", "validation"))
    where = "from the Hub" if row["is_on_hub"] else "from a local folder"
    return f"{rows} rows to train and validate, {row['rows']['test']:,} to test, {where}; {row['device']}"


def show_distance(ours: dict | None, row: dict) -> str:
    """With its 95 % interval by Welch's t, where both have several runs."""
    if ours is None or ours is row:
        return "-"
    distance = 100 * (ours["accuracy"]["mean"] - row["accuracy"]["mean"])
    if ours["accuracy"]["sd"] is None or row["accuracy"]["sd"] is None:
        return f"{distance:.2f}"
    from scipy.stats import ttest_ind

    samples = [[100 * value for value in each["accuracy"]["by_seed"].values()] for each in (ours, row)]
    low, high = ttest_ind(*samples, equal_var=False).confidence_interval()
    return f"{distance:.2f} ({low:.2f} to {high:.2f})"


def show_calibration(calibration: dict | None) -> str:
    """The expected calibration error, and in an arrow what it is with the temperature."""
    if calibration is None:
        return "-"
    after = f" → {100 * calibration['ece']:.1f}" if calibration["ece"] is not None else ""
    return f"{100 * calibration['ece_before']:.1f}{after}"


# --- benchmarks/search.py ---------------------------------------------------------------------------------------------


def search_table(data: str) -> str:
    """Best and last epoch of each case on the validation rows, mean over the seeds; the base of the data set first."""
    groups = defaultdict(list)
    for row in read("search.jsonl"):
        if row["data"] == data:
            groups[json.dumps(row["settings"], sort_keys=True)].append(row)
    if not groups:
        return f"_{NOT_MEASURED.capitalize()}._"
    # The base was moved when something had won: that of the newest line counts for all.
    base = next(rows for rows in reversed(groups.values()) if not rows[0]["case"])
    settings = base[0]["settings"]
    lines = [
        "| case | best epoch, % | against the base | last epoch, % | NLL | epochs | parameters | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reached = mean_of_best(base)
    for rows in sorted(groups.values(), key=lambda rows: (rows is not base, -mean_of_best(rows))):
        last = mean(row["validation_accuracy_by_epoch"][-1] for row in rows)
        nll = mean(row["validation_nll"] for row in rows)
        distance = f"{100 * (mean_of_best(rows) - reached):+.2f}" if rows is not base else "-"
        epochs = len(rows[0]["validation_accuracy_by_epoch"])
        lines.append(
            f"| {show_case(rows[0]['settings'], settings)} | {100 * mean_of_best(rows):.2f} | {distance} "
            f"| {100 * last:.2f} | {nll:.3f} | {epochs} | {rows[0]['parameters']:,} | {len(rows)} |"
        )
    words = " ".join(f"--{name} {value}" for name, value in settings.items())
    counts = "{train:,} rows to train, {validation:,} to validate".format(**base[0]["rows"])
    return "\n".join([*lines, "", f"{counts}. Base: `{words}`; {base[0]['device']}."])


def folds_table() -> str:
    """The last epoch over the folds, and how far each case is from the first, with the error of a mean over folds."""
    lines = ["| data | case | last epoch, % | against the first | folds |", "|---|---|---|---|---|"]
    for data, title in REPRODUCED.items():
        cases = defaultdict(dict)
        for row in read("folds.jsonl"):
            if row["data"] == data:
                key = json.dumps(row["settings"], sort_keys=True)
                cases[key][row["seed"]] = 100 * row["validation_accuracy_by_epoch"][-1]
        settings = [json.loads(key) for key in cases]
        first = next(iter(cases.values()), {})
        for place, found in enumerate(cases.values()):
            distances = [accuracy - first[fold] for fold, accuracy in found.items()]
            error = stdev(distances) / len(distances) ** 0.5 if len(distances) > 1 else math.nan
            distance = f"{mean(distances):+.2f} ± {error:.2f}" if place else "-"
            shown = show_case(settings[place], settings[0] if place else settings[-1])
            lines.append(f"| {title} | {shown} | {mean(found.values()):.2f} | {distance} | {len(found)} |")
    return "\n".join(lines) if len(lines) > 2 else f"_{NOT_MEASURED.capitalize()}._"


def rivals_table() -> str:
    """The best epoch of each stock model on validation rows, by learning rate; the best one of a row in bold."""
    found: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    rows = {}
    for row in read("rivals.jsonl"):
        found[row["data"], row["kind"]][row["learning_rate"]] = 100 * row["validation_accuracy"]
        rows[row["data"]] = row["rows"]
    if not found:
        return f"_{NOT_MEASURED.capitalize()}._"
    rates = sorted({rate for accuracies in found.values() for rate in accuracies})
    lines = [
        f"| data | model | {' | '.join(f'{rate:g}' for rate in rates)} | rows to train, to validate |",
        f"|---|---|{'---|' * len(rates)}---|",
    ]
    for (data, kind), accuracies in sorted(found.items()):
        best = max(accuracies.values())
        cells = [f"{accuracies[rate]:.2f}" if rate in accuracies else "-" for rate in rates]
        cells = [
            f"**{cell}**" if accuracies.get(rate) == best else cell for rate, cell in zip(rates, cells, strict=True)
        ]
        counts = f"{rows[data]['train']:,}, {rows[data]['validation']:,}"
        lines.append(f"| {REPRODUCED[data]} | {kind} | {' | '.join(cells)} | {counts} |")
    return "\n".join(lines)


def defaults_table() -> str:
    """Best epoch and NLL of what might become a default of `finetune`, on each data set and in the mean over them."""
    cases = defaultdict(lambda: defaultdict(list))
    for row in read("defaults.jsonl"):
        cases[show_case(row["case"], {})][row["data"]].append(row)
    # What is not measured with all cases yet waits.
    titles = {data: title for data, title in REPRODUCED.items() if all(data in found for found in cases.values())}
    if not cases or not titles:
        return f"_{NOT_MEASURED.capitalize()}._"
    lines = [
        f"| beside the former defaults | {' | '.join(titles.values())} | mean | mean NLL | seeds |",
        "|---" * (len(titles) + 4) + "|",
    ]
    for case, found in cases.items():
        groups = [found[data] for data in titles]
        accuracies = [100 * mean_of_best(rows) for rows in groups]
        nll = mean(mean(row["validation_nll"] for row in rows) for rows in groups)
        cells = [f"{accuracy:.2f}" for accuracy in [*accuracies, mean(accuracies)]]
        seeds = min(len(rows) for rows in groups)
        lines.append(f"| {' | '.join([case.replace('base', 'nothing'), *cells, f'{nll:.3f}', str(seeds)])} |")
    words = " ".join(f"--{name} {value}" for name, value in cases["base"][next(iter(titles))][0]["settings"].items())
    rows = ", ".join(f"{found[data][0]['rows']['train']:,}" for data in titles)
    return "\n".join([*lines, "", f"Rows to train: {rows}. Nothing: `{words}`."])


def few_rows_table() -> str:
    """Accuracy of each case of benchmarks/few_rows.py on rows that were not trained on, the mean over the seeds."""
    groups = defaultdict(list)
    for row in read("few_rows.jsonl"):
        groups[row["training_rows"], row["case"], row["data"]].append(row)
    if not groups:
        return f"_{NOT_MEASURED.capitalize()}._"
    titles = {data: title for data, title in REPRODUCED.items() if any(data == other for *_, other in groups)}
    lines = [f"| rows | | {' | '.join(titles.values())} | mean | seeds |", "|---" * (len(titles) + 4) + "|"]
    for rows, case in dict.fromkeys((rows, case) for rows, case, _ in sorted(groups, key=lambda key: key[0])):
        found = [groups.get((rows, case, data), []) for data in titles]
        accuracies = [100 * mean(row["accuracy"] for row in each) if each else math.nan for each in found]
        cells = ["-" if math.isnan(accuracy) else f"{accuracy:.1f}" for accuracy in [*accuracies, mean(accuracies)]]
        seeds = min(len(each) for each in found if each)
        name = f"`{case}`" if case.startswith("--") else case
        lines.append(f"| {rows:,} | {name} | {' | '.join(cells)} | {seeds} |")
    runs = list(itertools.chain(*groups.values()))
    return "\n".join([*lines, "", f"{runs[-1]['device']}, {max(row['date'] for row in runs)}."])


def mean_of_best(rows: list[dict]) -> float:
    return mean(max(row["validation_accuracy_by_epoch"]) for row in rows)


def show_case(settings: dict, base: dict) -> str:
    """In what some settings differ from others. A model that is gone on from has an architecture of its own."""
    changed = [f"`{name}` {value}" for name, value in settings.items() if base.get(name) != value]
    missing = [] if "model" in settings else [f"no `{name}`" for name in base if name not in settings]
    return ", ".join(changed + missing) or "base"


def features_table() -> str:
    """The validation accuracy of an SVM on each set of features, and the best of our small models in the search."""
    measured = {(row["data"], " + ".join(row["features"])): row for row in read("features.jsonl")}
    if not measured:
        return f"_{NOT_MEASURED.capitalize()}._"
    chosen = [data for data in REPRODUCED if any(data == name for name, _ in measured)]
    lines = [f"| | {' | '.join(REPRODUCED[data] for data in chosen)} |", "|---" * (len(chosen) + 1) + "|"]
    for features in dict.fromkeys(features for _, features in measured):
        cells = [measured.get((data, features)) for data in chosen]
        shown = [f"{100 * row['validation_accuracy']:.2f}" if row else "-" for row in cells]
        lines.append(f"| SVM on {features} | {' | '.join(shown)} |")
    best = [
        max(
            max(row["validation_accuracy_by_epoch"])
            for row in read("search.jsonl")
            if row["data"] == data and row["parameters"] <= SMALL_MODEL
        )
        for data in chosen
    ]
    lines.append(f"| the best of our small models, best epoch | {' | '.join(f'{100 * each:.2f}' for each in best)} |")
    where = "; ".join(sorted({f"{row['device']}, {row['date']}" for row in measured.values()}))
    return "\n".join([*lines, "", f"Validation accuracy, %; one run each; {where}."])


# --- wave-network analyze ---------------------------------------------------------------------------------------------


# A table with more rows than fit on a screen or two stands in a file of its own.
MOST_ROWS = 40


def study_table(folder: Path) -> str:
    """What a study found, in words and as a table, as `make docs` wrote it; a long table as a link."""
    findings, table = ((folder / name).read_text(encoding="utf-8").strip() for name in ("findings.md", "table.md"))
    rows = len(table.splitlines()) - 2
    if rows > MOST_ROWS:
        table = f"All {rows} rows: [table.md](../benchmarks/results/analysis/{folder.name}/table.md)."
    return f"{findings}\n\n{table}"


TABLES: dict[str, Callable[[], str]] = {
    "classification": classification_table,
    "choices": choices_table,
    "order": order_table,
    "headline": headline_table,
    "bars": bars_table,
    "length": lambda: sweep_table("length", "length", "length"),
    "long": lambda: sweep_table("long", "length", "length"),
    "batch": lambda: sweep_table("batch", "batch", "batch"),
    "hidden": lambda: sweep_table("hidden", "hidden_size", "hidden size"),
    "fill": lambda: sweep_table("fill", "fill", "part that is text"),
    "accuracy": accuracy_table,
    "gpu": gpu_table,
    "bandwidth": bandwidth_table,
    "sparse_steps": sparse_steps_table,
    "sparse_accuracy": sparse_accuracy_table,
    "documents": documents_table,
    "allocator": allocator_table,
    "profiles": profiles_table,
    "int8_accuracy": int8_accuracy_table,
    "int8_time": int8_time_table,
    "export": export_table,
    "serving": serving_table,
    "claims": claims_table,
    "readings": readings_table,
    "recipes": recipes_table,
    **{f"reproduced {title}": functools.partial(reproduced_table, data) for data, title in REPRODUCED.items()},
    "features": features_table,
    **{f"search {title}": functools.partial(search_table, data) for data, title in REPRODUCED.items()},
    "folds": folds_table,
    "rivals": rivals_table,
    "defaults": defaults_table,
    "few_rows": few_rows_table,
    **{f"study {folder.name}": functools.partial(study_table, folder) for folder in (RESULTS / "analysis").glob("*")},
}
FILES = (
    "README.md",
    "docs/analysis.md",
    "docs/choices.md",
    "docs/heads.md",
    "docs/benchmarks.md",
    "docs/sparse.md",
    "docs/int8.md",
    "docs/serving.md",
    "docs/export.md",
    "docs/reproduction.md",
)
PLACE = re.compile(r"<!-- table: (?P<name>.*?) -->.*?<!-- end of table -->", flags=re.DOTALL)


def fill_in(text: str, file: str) -> str:
    """The text with every table that has a place in it made anew."""

    def make(place: re.Match) -> str:
        name = place["name"]
        if name not in TABLES:
            sys.exit(f"{file} has a place for the table {name!r}, which nothing makes; known: {', '.join(TABLES)}")
        return f"<!-- table: {name} -->\n{TABLES[name]()}\n<!-- end of table -->"

    return PLACE.sub(make, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a table is out of date, and write nothing")
    check = parser.parse_args().check
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in FILES}
    places = {place["name"] for text in texts.values() for place in PLACE.finditer(text)}
    if TABLES.keys() - places:
        sys.exit(f"No file has a place for the tables {sorted(TABLES.keys() - places)}; looked in {', '.join(FILES)}")
    made = {file: fill_in(text, file) for file, text in texts.items()}
    stale = [file for file in FILES if made[file] != texts[file]]
    if check and stale:
        sys.exit(f"Not what the result files say: {', '.join(stale)}. Run: python benchmarks/tables.py")
    for file in stale:
        (ROOT / file).write_text(made[file], encoding="utf-8")


if __name__ == "__main__":
    main()
