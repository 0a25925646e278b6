"""Search for settings, then train and test with the best of them: `python examples/sweep.py reviews.csv 20`."""

import sys

from wave_network.training.cli import main as wave_network
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments
from wave_network.training.sweep import SweepArguments, sweep


def main() -> None:
    dataset = sys.argv[1] if len(sys.argv) > 1 else "bbc_news"
    trials = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    # Depth and width stay as they are; the learning rate and others are searched, by validation alone.
    folder = sweep(
        SweepArguments(trials=trials),
        DataArguments(dataset),
        ModelArguments(hidden_size=64),
        RunArguments(use_cpu=True, early_stopping_patience=3),
    )
    wave_network(["finetune", "--config", f"{folder}/best.yaml", "--output_dir", f"{folder}_best"])


if __name__ == "__main__":
    main()
