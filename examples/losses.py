"""Train with a loss of your own, into runs/robust: `python examples/losses.py reviews.csv`."""

import json
import sys

import torch

from wave_network.training.finetune import finetune
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments


def generalised_cross_entropy(outputs, labels, num_items_in_batch=None):
    """
    (1 - p^q) / q with q = 0.7: between cross-entropy (q to 0) and the absolute error (q = 1), so that a wrong label
    misleads less (Zhang and Sabuncu, 2018, arXiv 1805.07836).
    """
    p_N = outputs.logits.softmax(-1).gather(1, labels[:, None]).clamp(min=torch.finfo(torch.float32).tiny)
    losses_N = (1 - p_N**0.7) / 0.7
    # A mean over the whole step: its accumulated batches, and those of other processes, are counted by Trainer.
    return losses_N.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def main() -> None:
    dataset = sys.argv[1] if len(sys.argv) > 1 else "bbc_news"
    arguments = DataArguments(dataset), ModelArguments(), RunArguments("runs/robust")
    folder = finetune(*arguments, compute_loss_func=generalised_cross_entropy)
    results = json.loads((folder / "metrics.json").read_text())["results"]
    for split, result in results.items():
        print(f"{split}: accuracy {result['accuracy']:.1%}")


if __name__ == "__main__":
    main()
