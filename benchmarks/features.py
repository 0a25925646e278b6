"""What features alone are worth: a linear SVM on what our models see of a text, and on more, by validation accuracy.

    python benchmarks/features.py ag-news trec6 --data ../shared/data

An SVM has one optimum and no wave. What it reaches on the tokens of our tokenizer and on hashed pairs of them, a model
that sees the same can hope for; what it gains by more pairs, or by spelling, are features that ours lack. It learns
from the training rows of a recipe without those of its validation, and no test row is read. Appended to
benchmarks/results/features.jsonl, case by case; those that are there already are not measured again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.svm import LinearSVC
from tqdm import tqdm

from wave_network import train_wave_tokenizer
from wave_network.benchmarks.machine import describe_machine, describe_run
from wave_network.benchmarks.search import leave_out_test_rows
from wave_network.modeling_wave.embeddings_wave import WaveTokens, hash_ngrams
from wave_network.training.data import TextData, load_text_data
from wave_network.training.recipes import DATA_SETS

RESULTS = Path(__file__).parent / "results" / "features.jsonl"
VOCABULARY, PAIRS, MANY_PAIRS = 30_000, 18_000, 500_000  # those of our small models, and more than they can hold

# By name, what one feature is; more of them are joined.
TOKENS = f"tokens of our tokenizer ({VOCABULARY:,})"
CASES = [
    [TOKENS],
    [TOKENS, f"pairs in {PAIRS:,} buckets"],
    [TOKENS, f"pairs in {MANY_PAIRS:,} buckets"],
    [TOKENS, "spelling"],
    [TOKENS, f"pairs in {PAIRS:,} buckets", "spelling"],
    [TOKENS, f"pairs in {MANY_PAIRS:,} buckets", "spelling"],
]


def count_features(data: TextData) -> dict[str, tuple[csr_matrix, csr_matrix]]:
    """How often each feature stands in each training and validation text, by the kind of the feature."""
    texts = [list(split["text"]) for split in (data.train, data.validation)]
    tokenizer = train_wave_tokenizer(texts[0], VOCABULARY, show_progress=False)
    ids = [tokenizer(split, truncation=False)["input_ids"] for split in texts]
    # Of words: those of the training texts alone can be learned from.
    spelling = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=2)
    return {
        TOKENS: tuple(count(split, len(tokenizer)) for split in ids),
        **{
            f"pairs in {rows:,} buckets": tuple(count([pair(each, rows) for each in split], rows) for split in ids)
            for rows in (PAIRS, MANY_PAIRS)
        },
        "spelling": (spelling.fit_transform(texts[0]), spelling.transform(texts[1])),
    }


def pair(ids: Sequence[int], rows: int) -> list[int]:
    """The rows of the pairs of a text, as the model finds them."""
    return hash_ngrams(WaveTokens.check(torch.tensor([ids])), size=2, rows=rows)[0, :, 0].tolist()


def count(texts: Sequence[Sequence[int]], columns: int) -> csr_matrix:
    places = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in texts])
    starts = np.cumsum([0, *map(len, texts)])
    counts = csr_matrix((np.ones(len(places)), places, starts), shape=(len(texts), columns))
    counts.sum_duplicates()
    return counts


def measure(data: TextData, counted: dict[str, tuple[csr_matrix, csr_matrix]], case: list[str]) -> dict:
    start = time.perf_counter()
    train, validation = [], []
    for name in case:
        weights = TfidfTransformer(sublinear_tf=True).fit(counted[name][0])
        train.append(weights.transform(counted[name][0]))
        validation.append(weights.transform(counted[name][1]))
    model = LinearSVC(random_state=0).fit(hstack(train).tocsr(), data.train["label"])
    right = model.predict(hstack(validation).tocsr()) == np.array(data.validation["label"])
    return {
        "features": case,
        "count": int(sum(each.shape[1] for each in train)),
        "validation_accuracy": float(right.mean()),
        "rows": {"train": len(data.train), "validation": len(data.validation)},
        "seconds": round(time.perf_counter() - start, 1),
        **describe_machine(),
        **describe_run(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="data", help=f"of {', '.join(DATA_SETS)} (default: all)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the data sets")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in DATA_SETS:
            parser.error(f"data must be of {', '.join(DATA_SETS)}, got {name!r}")
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(row["data"], *row["features"]) for row in rows}
    for name in arguments.names or [name for name in DATA_SETS if (arguments.data / DATA_SETS[name].folder).is_dir()]:
        missing = [case for case in CASES if (name, *case) not in done]
        if not missing:
            continue
        with leave_out_test_rows(DATA_SETS[name], arguments.data) as settings:
            data = load_text_data(**settings)
        counted = count_features(data)
        for case in tqdm(missing, desc=name, unit=" cases"):
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"data": name, **measure(data, counted, case)}) + "\n")


if __name__ == "__main__":
    main()
