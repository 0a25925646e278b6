"""Run by torchrun in test_distributed.py: `finetune`, and a note of the texts that each process trains on."""

import os
import sys
from typing import Any

from wave_network.cli import main
from wave_network.training.trainer import WaveTrainer

step = WaveTrainer.training_step


def step_and_note(trainer: Any, model: Any, inputs: dict[str, Any], *arguments: Any) -> Any:
    with open(f"{trainer.args.output_dir}-{os.environ['RANK']}.txt", "a") as file:
        for ids in inputs["input_ids"].tolist():
            print(*filter(None, ids), file=file)
    return step(trainer, model, inputs, *arguments)


WaveTrainer.training_step = step_and_note  # type: ignore[method-assign]
main(sys.argv[1:])
