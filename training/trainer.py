"""Transformers' Trainer with the losses, mixup, averaged weights, order of rows and packing that `finetune` has."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..files import name_failures, read_json
from .progress import CLASSIFIERS, Progress
from .settings import RunArguments

RAW_WEIGHTS = "raw_weights.safetensors"  # in a checkpoint, beside the average: the weights from which it goes on


def find_last(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder. Trainer writes its state last, so that in others it cannot be read."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        with suppress(OSError, ValueError):
            read_json(path / "trainer_state.json")
            return path
    return None


class SeededSampler(LengthGroupedSampler):
    """
    Rows grouped by length, in an order of the seed and the epoch alone. By the global generator the processes of
    `torchrun` would share out different orders, and a run that goes on would leave out other rows than it had seen.
    """

    def __init__(self, trainer: Trainer, batch_size: int, lengths: list[int]):
        super().__init__(batch_size, lengths=lengths)
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int(self.trainer.state.epoch or 0)
        self.generator = torch.Generator().manual_seed(self.trainer.args.seed + epoch)
        return super().__iter__()


@dataclass
class ClassificationLoss:
    """
    The loss of a task, cross-entropy ("single"), binary cross-entropy ("multi") or squared error ("number"), as the
    mean over the labels of a step, those of accumulated batches and other processes among them. Label smoothing and
    weights of classes (K,) are for "single".
    """

    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    task: str = "single"

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """`outputs.logits` (N, K), labels (N,) or (N, K), and how many a step has (None: these). For Trainer."""
        logits = outputs.logits.float()
        if self.task == "single":
            weights = None if self.class_weights is None else self.class_weights.to(labels.device)
            measure: nn.Module = nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=self.label_smoothing)
        else:
            measure = (nn.BCEWithLogitsLoss if self.task == "multi" else nn.MSELoss)(reduction="sum")
        total = measure(logits.view_as(labels) if self.task == "number" else logits, labels)
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def make_loss(arguments: RunArguments, labels: Sequence[Any], classes: int, task: str = "single") -> Any:
    """
    The loss that the settings ask for. None is the model's own, the mean of one batch. Balanced weights of classes are
    inverse to the frequencies and 1 on average over the rows; a class without rows counts as one row.
    """
    smoothing, weights = arguments.label_smoothing_factor, None
    if arguments.class_weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        weights = torch.tensor(len(labels) / (np.count_nonzero(counts) * counts.clip(min=1)), dtype=torch.float32)
    # Trainer takes the mean of the means of several batches, in which a row of a short batch counts more.
    is_one_batch = arguments.gradient_accumulation_steps == 1 and arguments.world_size == 1
    is_own = is_one_batch and weights is None and not (smoothing or arguments.mixup_alpha)
    return None if is_own else ClassificationLoss(smoothing, weights, task)


class DataCollatorWithPacking:
    """
    Batches of texts laid end to end, in place of `DataCollatorWithPadding`. The logits are the same, one row a text.

    From N texts without padding, with T tokens in all, it makes `input_ids` and `token_type_ids` (1, T), `cu_seq_lens`
    (N + 1,), between which the texts stand, and `labels`, first: Trainer counts the rows by the first tensor.
    """

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {}
        for name in ("labels", "input_ids", "token_type_ids"):
            if name in features[0]:
                values = [torch.tensor(each[name]) for each in features]
                batch[name] = torch.stack(values) if name == "labels" else torch.cat(values)[None]
        lengths_N = torch.tensor([len(each["input_ids"]) for each in features])
        return batch | {"cu_seq_lens": nn.functional.pad(lengths_N.cumsum(0), (1, 0))}


def find_classifier(model: nn.Module, name_of_user: str = "`mixup_alpha`") -> nn.Linear:
    """The last linear map of a classifier of texts. ValueError, which says for what, if there is none to be found."""
    for name in CLASSIFIERS:
        if isinstance(found := getattr(model, name, None), nn.Linear):
            return found
    wanted = f"an nn.Linear called {' or '.join(CLASSIFIERS)}"
    raise ValueError(f"{name_of_user} is for a model whose logits come from {wanted}; {type(model).__name__} has none.")


class WeightAveraging(TrainerCallback):
    """
    Keeps the average a of the weights w. After the first step it is w, and after a step before which there were t

        a <- d a + (1 - d) w,    d = min(ema_decay, (1 + t) / (10 + t))
    """

    average: AveragedModel | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        def update(averages: Any, weights: Any, count: Any) -> None:
            before = int(count)
            get_ema_multi_avg_fn(min(args.ema_decay, (1 + before) / (10 + before)))(averages, weights, count)

        self.average = AveragedModel(kwargs["model"], multi_avg_fn=update)
        self.average.n_averaged.fill_(state.global_step)
        if state.global_step:  # it goes on, and the model that Trainer has loaded is the average
            load_model(kwargs["model"], Path(args.output_dir, f"checkpoint-{state.global_step}", RAW_WEIGHTS))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        cast(AveragedModel, self.average).update_parameters(kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (args.load_best_model_at_end and state.best_model_checkpoint):  # which is an average already
            self.swap(kwargs["model"])
        self.average = None

    def swap(self, model: nn.Module) -> None:
        """Exchanges the weights of the model with their average, while it trains."""
        if self.average is not None:
            for weight, average in zip(model.parameters(), self.average.module.parameters(), strict=True):
                weight.data, average.data = average.data, weight.data


class WaveTrainer(Trainer):
    """
    Trainer that also has mixup, an average of the weights that is validated and saved in place of them, and an order of
    the rows that does not depend on the process. If two epochs tie in validation, the later one is kept.
    """

    args: RunArguments
    model: Any

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        for each in (PrinterCallback, ProgressCallback):
            self.remove_callback(each)
        self.add_callback(Progress())
        self.averaging = WeightAveraging()
        if self.args.ema_decay:
            self.add_callback(self.averaging)

    @contextmanager
    def average_in_place(self) -> Iterator[None]:
        self.averaging.swap(self.model)
        yield
        self.averaging.swap(self.model)

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        with self.average_in_place():
            return super().evaluate(*arguments, **settings)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        with name_failures(folder):
            if self.averaging.average is not None and self.args.should_save:
                # Before the state of Trainer, by which a checkpoint is known to be complete.
                folder.mkdir(parents=True, exist_ok=True)
                save_model(self.model, str(folder / RAW_WEIGHTS))
            with self.average_in_place():
                super()._save_checkpoint(model, trial)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        # Trainer keeps the first of two equal epochs, which has learned less.
        if metrics[f"eval_{self.args.metric_for_best_model}"] == self.state.best_metric:
            self.state.best_global_step, is_best = self.state.global_step, True
        # Also between two saves: Trainer would record this step and keep another.
        self.control.should_save |= bool(is_best and self.args.load_best_model_at_end)
        return is_best

    def compute_loss(self, model: nn.Module, inputs: Any, *arguments: Any, **settings: Any) -> Any:
        """
        With `mixup_alpha` (Guo, Mao and Zhang, 2019, arXiv 1905.08941, section 3.2) the vectors h before the classifier
        and the losses are mixed, with a permutation s of the batch and one c ~ Beta(alpha, alpha):

            h_n <- c h_n + (1 - c) h_s(n),    loss = c loss(y) + (1 - c) loss(y_s)
        """
        alpha, loss = self.args.mixup_alpha, cast(Any, self.compute_loss_func)
        if not (alpha and model.training):
            return super().compute_loss(model, inputs, *arguments, **settings)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        others_N = torch.randperm(len(inputs["labels"])).to(inputs["labels"].device)

        def mix(classifier: nn.Module, given: tuple[torch.Tensor]) -> torch.Tensor:
            return share * given[0] + (1 - share) * given[0][others_N]

        def mixed_loss(outputs: Any, labels: torch.Tensor, **count: Any) -> torch.Tensor:
            return share * loss(outputs, labels, **count) + (1 - share) * loss(outputs, labels[others_N], **count)

        self.compute_loss_func = mixed_loss
        with find_classifier(self.accelerator.unwrap_model(model)).register_forward_pre_hook(mix):
            found = super().compute_loss(model, inputs, *arguments, **settings)
        self.compute_loss_func = loss
        return found

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.seed_order(super()._get_train_sampler(train_dataset))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # Before transformers 5.16 every process has an order of its own: some rows count twice, others never.
        return self.seed_order(super()._get_eval_sampler(eval_dataset))

    def seed_order(self, sampler: Any) -> Any:
        is_grouped = isinstance(sampler, LengthGroupedSampler)
        return SeededSampler(self, sampler.batch_size, sampler.lengths) if is_grouped else sampler
