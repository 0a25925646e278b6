"""`--ema_decay`: the exponential moving average of the weights, validated and saved in place of them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .settings import refuse_together

# In a checkpoint, beside the average: the weights from which the training goes on.
RAW_WEIGHTS = "raw_weights.safetensors"


class WeightAveraging(TrainerCallback):
    """
    Keeps the average a of the weights w. After the first step it is w, and after a step before which there were t:

        a <- d a + (1 - d) w,    d = min(ema_decay, (1 + t) / (10 + t))

    The smaller d of early steps forgets the weights of the start. Without an `ema_decay` there is no average.
    """

    def __init__(self) -> None:
        self.average: AveragedModel | None = None
        self.checkpoint: Path | None = None  # the one from which the training goes on

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        decay = args.ema_decay  # type: ignore[attr-defined]  # of RunArguments
        self.average = None
        if not decay:
            return

        def update(averages: PARAM_LIST, weights: PARAM_LIST, count: torch.Tensor | int) -> None:
            before = int(count)
            get_ema_multi_avg_fn(min(decay, (1 + before) / (10 + before)))(averages, weights, count)

        self.average = AveragedModel(kwargs["model"], multi_avg_fn=update)
        self.average.n_averaged.fill_(state.global_step)
        if self.checkpoint is not None:
            # The model that Trainer has loaded is the average.
            load_model(kwargs["model"], self.checkpoint / RAW_WEIGHTS)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.average is not None:
            self.average.update_parameters(kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (args.load_best_model_at_end and state.best_model_checkpoint):  # which is an average already
            self.swap(kwargs["model"])
        self.average = None

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside."""
        self.swap(model)
        try:
            yield
        finally:
            self.swap(model)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        if self.average is not None:
            for weight, average in zip(model.parameters(), self.average.module.parameters(), strict=True):
                raw = weight.clone()
                weight.copy_(average)
                average.copy_(raw)


class AveragingTrainer(Trainer):
    """Trainer that validates and saves the average of the weights if there is an `ema_decay`, and trains on without."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.averaging = WeightAveraging()
        self.add_callback(self.averaging)

    def train(self, resume_from_checkpoint: str | None = None, **settings: Any):  # type: ignore[override]  # no bool
        self.averaging.checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, **settings)

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        with self.averaging.in_place(cast(nn.Module, self.model)):
            return super().evaluate(*arguments, **settings)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.averaging.average is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            # Before the state of Trainer, by which a checkpoint is known to be complete.
            temporary = folder / f".{RAW_WEIGHTS}.tmp"
            save_model(cast(nn.Module, self.model), str(temporary))
            os.replace(temporary, folder / RAW_WEIGHTS)
        with self.averaging.in_place(cast(nn.Module, self.model)):
            super()._save_checkpoint(model, trial)


def refuse_unfit_averaging(arguments: Any) -> None:
    """A ValueError if `ema_decay` does not go with another setting of these `RunArguments`."""
    because = "which splits the weights over the processes"
    sparse = "which leaves most rows of the table alone, and the average none of them"
    refuse_together(arguments, "ema_decay", {"fsdp": because, "deepspeed": because, "sparse_embeddings": sparse})
