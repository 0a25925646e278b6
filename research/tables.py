"""Writes the tables of README.md and docs/ from the result files: `python -m research.tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. `--check` writes nothing, and fails if one of
them is not what the result files say.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from scipy.stats import ttest_ind

from wave_network.files import write_table, write_text

from .bars import compare_times, describe_bars, find
from .compare import BARE, SVM
from .recipes import ABLATIONS, DATA_SETS, FINAL_ROWS, RECIPES, RIVALS
from .reproduce import describe_settings
from .runs import RESULTS, ROOT, read_results

Rows = list[dict[str, Any]]
PLACE = re.compile(r"<!-- table: (?P<name>.*?) -->.*?<!-- end of table -->", flags=re.DOTALL)
FEW_TITLES = {
    "ag": "AG News",
    "imdb": "IMDB",
    "sst2": "SST-2",
    "trec": "TREC-6",
    "20ng": "20 Newsgroups",
    "banking77": "Banking77",
    "emotion": "Emotion",
}
FEW_MODELS = {"wave": "the English encoder", "teacher": "its teacher", "static": "static model of the same teacher"}
FEW_CASES = {
    "wave": "`wave-network finetune`",
    "svm": "TF-IDF, linear SVM",
    "logistic": "TF-IDF, logistic regression",
    "fasttext": "fastText",
    "static": "static model, logistic regression",
    "static, fine-tuned": "static model, fine-tuned",
    "teacher": "teacher, logistic regression",
}
TITLES = {name: DATA_SETS[name].title for name in FINAL_ROWS}


def show(accuracies: Iterable[float]) -> str:
    """Mean and standard deviation in per cent."""
    values = 100 * pd.Series(list(accuracies), dtype=float)
    if values.empty:
        return "-"
    return f"{values.mean():.2f}" + (f" ± {values.std():.2f}" if len(values) > 1 else "")


def describe_device(lines: Rows) -> str:
    """Where some lines were measured."""
    devices = sorted({f"{line['device']}, {line['threads']} thread{'s' * (line['threads'] > 1)}" for line in lines})
    versions = sorted({f"torch {line['versions']['torch'].partition('+')[0]}" for line in lines})
    dates = sorted({line["date"] for line in lines})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"\n{'; '.join(devices)}; {', '.join(versions)}; {when}.\n"


# --- Accuracies -------------------------------------------------------------------------------------------------------


def read_current() -> dict[str, Rows]:
    """The lines of each recipe with the settings that it has now, by its name."""
    found: dict[str, Rows] = {}
    for line in read_results(RESULTS / "reproduction.jsonl"):
        recipe = RECIPES.get(line["recipe"])
        if recipe is not None and line["settings"] == describe_settings(recipe):
            found.setdefault(line["recipe"], []).append(line)
    return found


def list_accuracies(lines: Rows) -> list[float]:
    return [line["accuracy"] for line in lines]


def make_recipes() -> str:
    """Our models on each data set, beside the SVM and the bar."""
    current, rows = read_current(), []
    for data, title in TITLES.items():
        svm = current.get(f"{data}-svm", [])
        for size in ("small", "medium"):
            lines, claim = current.get(f"{data}-{size}", []), RECIPES[f"{data}-{size}"].claim
            mean = sum(list_accuracies(lines)) / len(lines) if lines else math.nan
            rows.append(
                {
                    "data": title,
                    "our model": size,
                    "test accuracy, %": show(list_accuracies(lines)),
                    "runs": len(lines),
                    "parameters": f"{lines[0]['parameters']:,}" if lines else "-",
                    "SVM, %": show(list_accuracies(svm)),
                    "bar, %": f"≥ {100 * claim.accuracy:.1f}",
                    "reached": "yes" if mean >= claim.accuracy else "**no**",
                }
            )
    return write_table(rows)


def make_claims() -> str:
    """
    The numbers of the paper beside ours. A claim holds if it is within two standard errors of our mean, those of the
    seeds and of the test rows together: `se^2 = sd^2 / n + p (1 - p) / rows`.
    """
    rows = []
    for name, lines in read_current().items():
        claim = RECIPES[name].claim
        if claim is None or claim.at_least:
            continue
        values = pd.Series(list_accuracies(lines))
        mean, deviation = values.mean(), values.std() if len(values) > 1 else 0.0
        error = math.sqrt(deviation**2 / len(values) + mean * (1 - mean) / lines[0]["rows"]["test"])
        rows.append(
            {
                "recipe": f"`{name}`",
                "the paper, %": f"{100 * claim.accuracy:.2f}",
                "measured, %": show(values),
                "standard error": f"{100 * error:.2f}",
                "runs": len(lines),
                "rows to train": f"{lines[0]['rows']['train']:,}",
                "holds": "yes" if abs(mean - claim.accuracy) <= 2 * error else "**no**",
            }
        )
    return write_table(rows)


def list_kinds() -> dict[str, str]:
    """What is compared on every data set, by the end of a recipe's name, and what it is."""
    kinds = {"small": "our small model", "medium": "our medium model", "linear": "ours with the other way back"}
    kinds |= {name: ABLATIONS[name][-1] for name in ("no-phase", "no-context", "bag")}
    kinds |= {name: RECIPES[f"trec6-{name}"].about for name in ("svm", "fasttext")}
    return kinds | {name: rival.about for name, rival in RIVALS.items()}


def pick(current: dict[str, Rows], data: str, kind: str) -> Rows:
    """The lines of a kind on a data set. The other way back is linear or by magnitude: what our small model has not."""
    return current.get(f"{data}-{kind}") or (current.get(f"{data}-abs", []) if kind == "linear" else [])


def make_comparison() -> str:
    """The test accuracy of every model on every data set."""
    current = read_current()
    return write_table(
        {"model": about} | {title: show(list_accuracies(pick(current, data, kind))) for data, title in TITLES.items()}
        for kind, about in list_kinds().items()
    )


def make_distances() -> str:
    """By how many points our small model is ahead of each other one, with the 95 % interval by Welch's t."""
    current = read_current()
    return write_table(
        {"our small model, less": about}
        | {
            title: show_distance(pick(current, data, "small"), pick(current, data, kind))
            for data, title in TITLES.items()
        }
        for kind, about in list_kinds().items()
        if kind not in ("small", "medium", "svm", "cnn")
    )


def show_distance(ours: Rows, others: Rows) -> str:
    samples = [[100 * accuracy for accuracy in list_accuracies(lines)] for lines in (ours, others)]
    if not all(samples):
        return "-"
    distance = f"{pd.Series(samples[0]).mean() - pd.Series(samples[1]).mean():+.2f}"
    if min(map(len, samples)) < 2:
        return distance
    low, high = ttest_ind(*samples, equal_var=False).confidence_interval()
    return f"{distance} ({low:+.1f} to {high:+.1f})"


def make_readings() -> str:
    """The settings that were measured on the test rows and are not kept."""
    current, groups = read_current(), {}
    for line in read_results(RESULTS / "reproduction.jsonl"):
        if line not in current.get(line["recipe"], []):
            groups.setdefault((line["recipe"], repr(line["settings"])), []).append(line)
    rows = []
    for (name, _), lines in groups.items():
        # One that is the small model today has no recipe of its own.
        kept = name if name in RECIPES else f"{lines[0]['data']}-small"
        recipe, settings = RECIPES[kept], lines[0]["settings"]
        now = {**recipe.model, **recipe.training}
        changes = {
            key: value
            for key, value in (dict.fromkeys(now) | settings["model"] | settings["training"]).items()
            if value != now.get(key) and key != "load_best_model_at_end"
        }
        shown = ", ".join(f"{key} {'unset' if value is None else value}" for key, value in changes.items())
        rows.append(
            {
                "recipe": f"`{name}`",
                "instead of the settings kept": shown or "fewer training rows",
                "test, %": show(list_accuracies(lines)),
                "kept: test, %": show(list_accuracies(current.get(kept, []))),
                "runs": len(lines),
            }
        )
    return write_table(rows)


# --- Settings of finetune ---------------------------------------------------------------------------------------------


def show_case(case: str | dict[str, Any], shared: Iterable[str] = ()) -> str:
    if case == SVM:
        return "TF-IDF, linear SVM"
    return " ".join(f"`--{name} {value}`" for name, value in case.items() if name not in shared) or "the defaults"


def make_pivot(experiment: str, value: str, shared: Iterable[str] = ()) -> str:
    """The mean of each case on each data set, and over them."""
    lines = read_results(RESULTS / f"{experiment}.jsonl")
    if not lines:
        return "Not measured.\n"
    frame = pd.DataFrame(
        {
            "training rows": line["training_rows"],
            "setting": show_case(line["case"], shared),
            "data": DATA_SETS[line["data"]].title,
            "accuracy": 100 * line[value],
        }
        for line in lines
    )
    cases = dict.fromkeys(zip(frame["training rows"], frame["setting"], strict=True))
    order = sorted(cases, key=lambda case: case[0])
    means = frame.groupby(["training rows", "setting", "data"])["accuracy"].mean().unstack().reindex(order)
    means = means[[title for title in TITLES.values() if title in means]]
    if len(means.columns) > 1:
        means["mean"] = means.mean(axis=1)
    counts = frame.groupby(["training rows", "setting", "data"]).size().unstack().min(axis=1)
    return write_table(
        {"training rows": f"{rows:,}", "setting": setting, **means.loc[rows, setting].map("{:.1f}".format).to_dict()}
        | {"seeds": int(counts[rows, setting])}
        for rows, setting in order
    )


def describe_commits(lines: Rows) -> str:
    dates, commits = (", ".join(dict.fromkeys(line[name] for line in lines)) for name in ("date", "commit"))
    return f"\n{lines[0]['device']}, one thread; {dates}; commits {commits}.\n"


def make_few() -> str:
    """`finetune` beside its rivals on the same few rows."""
    lines = read_results(RESULTS / "few.jsonl")
    if not lines:
        return "Not measured.\n"
    cells = dict.fromkeys((line["task"], line["rows"]) for line in lines)
    table = write_table(
        {"data": FEW_TITLES[task], "training rows": f"{rows:,}"}
        | {
            title: show(
                line["accuracy"] for line in lines if (line["task"], line["rows"], line["case"]) == (task, rows, case)
            )
            for case, title in FEW_CASES.items()
        }
        | {"draws": len({line["draw"] for line in lines if (line["task"], line["rows"]) == (task, rows)})}
        for task, rows in sorted(cells)
    )
    return table + describe_commits(lines)


def make_forms() -> str:
    """Forms of the encoder: how near they come to the teacher, and what each one's best learning rate brings."""
    lines = read_results(RESULTS / "knowledge.jsonl")
    rows = []
    groups: dict[tuple[str, int, int], Rows] = {}
    for line in lines:
        groups.setdefault((line["form"], line.get("teachers", 1), line["passages"]), []).append(line)
    for (form, teachers, passages), own in groups.items():
        cosines = [f"{line['cosine']:.3f}" for line in own if line["task"] == "distil"]
        row = {"form": form, "teachers": str(teachers), "passages": f"{passages:,}", "cosine": ", ".join(cosines)}
        for count in (64, 1000):
            for task in ("ag", "sst2", "trec", "emotion"):
                cells = [line for line in own if (line["task"], line.get("rows")) == (task, count)]
                rates = {key for line in cells for key in line if key.startswith("0.")}
                best = (
                    max((pd.Series([line[rate] for line in cells]).mean(), rate) for rate in rates)[1] if rates else ""
                )
                row[f"{FEW_TITLES[task]}, {count:,}"] = show(line[best] / 100 for line in cells)
        rows.append(row)
    return write_table(rows) + describe_commits(lines)


def make_sentences() -> str:
    """The English encoder as a sentence encoder, beside its teacher and a static model."""
    lines = read_results(RESULTS / "sentences.jsonl")
    speeds = ("encoder_tokens_per_second", "tokenizer_tokens_per_second")
    rows = [
        {"model": FEW_MODELS[line["case"]], "STS-B test, Spearman": f"{100 * line['stsb_test']:.1f}"}
        | {name.replace("_", " ").replace(" per", " a"): f"{line[name]:,.0f}" for name in speeds}
        for line in lines
    ]
    return write_table(rows) + describe_device(lines)


def make_classification() -> str:
    """The defaults of finetune beside the SVM."""
    groups: dict[tuple[str, str], Rows] = {}
    for line in read_results(RESULTS / "classification.jsonl"):
        words = "" if line["case"] == SVM else "".join(f" --{name} {value}" for name, value in line["case"].items())
        case = show_case(SVM) if line["case"] == SVM else f"`wave-network finetune{words}`"
        groups.setdefault((line["data"], case), []).append(line)
    return write_table(
        {
            "data (train + validation / test rows)": "{} ({train:,} + {validation:,} / {test:,})".format(
                DATA_SETS[data].title, **lines[0]["rows"]
            ),
            "model": case,
            "test accuracy, %": show(list_accuracies(lines)),
            "runs": len(lines),
            "parameters": f"{lines[0]['parameters']:,}",
            "seconds": f"{pd.Series([line['seconds'] for line in lines]).mean():.0f}",
        }
        for (data, case), lines in groups.items()
    )


def make_dropout() -> str:
    """The same settings at two commits."""
    frame = pd.DataFrame(read_results(RESULTS / "dropout.jsonl"))
    if frame.empty:
        return "Not measured.\n"
    return write_table(
        {
            "data": DATA_SETS[data].title,
            "commit": commit,
            "test accuracy, %": show(group["accuracy"]),
            "runs": len(group),
        }
        for (data, commit), group in frame.groupby(["data", "commit"], sort=False)
    )


# --- Speed and memory -------------------------------------------------------------------------------------------------


def read_bench() -> Rows:
    return read_results(RESULTS / "bench.jsonl")


def read_last_run(*groups: str) -> Rows:
    """The lines of each group in the last run that measured it."""
    lines = read_bench()
    last = {line["group"]: line["run"] for line in lines}
    return [line for line in lines if line["group"] in groups and line["run"] == last[line["group"]]]


def show_digits(value: float | None) -> str:
    """Three figures."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show_time(line: dict[str, Any] | None) -> str:
    return "-" if line is None else show_digits(pd.Series(line["ms"]).median())


def make_models() -> str:
    """Time and memory of every model, beside ours."""
    lines, rows = read_last_run("models", "memory"), []
    for name in dict.fromkeys(line["model"] for line in lines if line["group"] == "models"):
        row = {"model": name}
        for mode in ("inference", "training"):
            line, ours = (find(lines, group="models", mode=mode, model=each) for each in (name, "ours"))
            row[f"{mode}, ms"], row[f"{mode}, times ours"] = show_time(line), show_digits(compare_times(line, ours))
        weight, ours = (find(lines, group="memory", model=each) for each in (name, "ours"))
        row["peak memory, MiB"] = show_digits(weight and weight["mib"])
        row["memory, times ours"] = show_digits(weight and ours and weight["mib"] / ours["mib"])
        known = find(lines, group="models", model=name)
        row["parameters (core)"] = (
            f"{known['parameters']:,} ({known['core_parameters']:,})" if "parameters" in known else "-"
        )
        rows.append(row)
    return write_table(rows) + (describe_device(lines) if lines else "")


def make_lengths() -> str:
    lines = read_last_run("length")
    base = find(lines, length=512)
    return write_table(
        {
            "texts x tokens": f"{line['batch']} x {line['length']:,}",
            "inference, ms": show_time(line),
            "microseconds a token": show_digits(1000 * pd.Series(line["ms"]).median() / line["batch"] / line["length"]),
            "times that of length 512": show_digits(compare_times(line, base)),
        }
        for line in lines
    )


def make_fill() -> str:
    lines, rows = read_last_run("fill"), []
    for line in lines:
        if not line["is_packed"]:
            shared = {"mode": line["mode"], "fill": line["fill"]}
            packed = find(lines, **shared, is_packed=True)
            rows.append(
                {"share of text": f"{line['fill']:.0%}", "mode": line["mode"], "padded, ms": show_time(line)}
                | {"packed, ms": show_time(packed), "padded / packed": show_digits(compare_times(line, packed))}
            )
    return write_table(rows)


def make_documents() -> str:
    return write_table(
        {"tokens of the text": f"{line['length']:,}", "peak memory with the model, MiB": show_digits(line["mib"])}
        for line in read_last_run("document")
    )


def make_errors() -> str:
    """The largest relative error of c and of its gradient, for each form and text."""
    lines = read_last_run("errors")
    forms = list(dict.fromkeys(line["case"] for line in lines))

    def show_error(error: float | None) -> str:
        return "NaN" if error is None else "0" if error == 0 else f"{error:.1e}"

    return write_table(
        {"text": text}
        | {
            form: " / ".join(show_error(line[name]) for name in ("error_of_c", "error_of_gradient"))
            for form in forms
            if (line := find(lines, case=form, text=text))
        }
        for text in dict.fromkeys(line["text"] for line in lines)
    )


TABLES: dict[str, Callable[[], str]] = {
    "recipes": make_recipes,
    "claims": make_claims,
    "comparison": make_comparison,
    "distances": make_distances,
    "readings": make_readings,
    "classification": make_classification,
    "defaults": lambda: make_pivot("defaults", "validation_accuracy", shared=["model", "packing"]),
    "choices": lambda: make_pivot("choices", "accuracy", shared=[*BARE, "num_train_epochs"]),
    "few rows": lambda: make_pivot("few-rows", "accuracy", shared=["model"]),
    "few": make_few,
    "forms": make_forms,
    "sentences": make_sentences,
    "dropout": make_dropout,
    "bars": lambda: write_table(describe_bars(read_bench())),
    "models": make_models,
    "lengths": make_lengths,
    "fill": make_fill,
    "documents": make_documents,
    "errors": make_errors,
}


def fill_in(text: str) -> str:
    """The text with every table of TABLES made anew."""

    def make(place: re.Match) -> str:
        name = place["name"]
        if name not in TABLES:
            return place[0]
        return f"<!-- table: {name} -->\n{TABLES[name]().strip()}\n<!-- end of table -->"

    return PLACE.sub(make, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a table is out of date, and write nothing")
    check, stale = parser.parse_args().check, []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        if (made := fill_in(text)) != text:
            stale.append(path.name)
            if not check:
                write_text(path, made)
    if check and stale:
        sys.exit(f"Not what the result files say: {', '.join(stale)}. Run: python -m research.tables")


if __name__ == "__main__":
    main()
