"""Two processes of torchrun, or of `accelerate launch`, train and measure as one does."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from small_runs import distance, finetune_small, make_rows, read_metrics, small_words, write_csv
from transformers import AutoTokenizer

from wave_network.data.load import load_text_data

# The training rows fill their batches, in one process and in two. The others do not.
ROWS = {"train": 96, "validation": 15, "test": 13}
SETTINGS = {
    "num_train_epochs": 2,
    "hidden_dropout_prob": 0,
    "train_sampling_strategy": "random",  # grouped by length, the batches of one process and of two differ
    "class_weights": "balanced",
    "subword_buckets": None,
}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


@pytest.mark.parametrize("launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.nightly)])
def test_two_processes_train_on_every_row_once_and_reach_what_one_does(launcher: list[str], tmp_path: Path):
    for seed, (split, count) in enumerate(ROWS.items()):
        write_csv(tmp_path / f"{split}.csv", make_rows(count, seed))
    one = finetune_small(tmp_path, tmp_path / "one", per_device_train_batch_size=8, **SETTINGS)
    two = tmp_path / "two"
    words = small_words(tmp_path, two, per_device_train_batch_size=4, **SETTINGS)
    script = str(Path(__file__).with_name("several_processes.py"))
    launch = [sys.executable, "-m", *launcher, script, *words]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Done in") == 1  # one process speaks

    assert distance(one, two) < 1e-5
    metrics, expected = read_metrics(two), read_metrics(one)
    assert metrics["results"] == expected["results"]
    assert metrics["settings"]["processes"] == 2
    assert metrics["best"]["value"] == pytest.approx(expected["best"]["value"])

    tokenizer, data = AutoTokenizer.from_pretrained(two), load_text_data(tmp_path)
    rows = [" ".join(map(str, tokenizer(text)["input_ids"])) for text in data.train["text"]]
    notes = [Path(f"{two}-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert [len(each) for each in notes] == [96, 96]  # half of the rows in each of two epochs
    for epoch in (0, 1):
        seen = [row for each in notes for row in each[48 * epoch : 48 * epoch + 48]]
        assert Counter(seen) == Counter(rows)
