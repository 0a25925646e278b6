"""Transformers' Trainer with the losses, mixup, the averaged weights and the order of rows that `finetune` has."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

# In a checkpoint, beside the average: the weights from which the training goes on.
RAW_WEIGHTS = "raw_weights.safetensors"


def find_last(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if read_state(path) is not None]
    return max(checkpoints, key=lambda path: int(path.name.split("-")[1]), default=None)


def read_state(checkpoint: Path) -> dict[str, Any] | None:
    """The state of Trainer, which it writes last: none in a checkpoint that was cut short."""
    try:
        return read_json(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return None


class SeededSampler(LengthGroupedSampler):
    """
    Rows grouped by length, in an order that depends on the seed and the epoch alone.

    The base class draws from the global generator, which dropout advances differently in each process: the processes of
    `torchrun` would share out different orders, with some rows in both and some in none. And a run that goes on from
    the middle of an epoch would leave out other rows than it had seen.
    """

    def __init__(self, trainer: Trainer, batch_size: int, lengths: list[int]):
        super().__init__(batch_size, lengths=lengths)
        self.trainer = trainer

    def __iter__(self):
        arguments = self.trainer.args
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        self.generator = torch.Generator().manual_seed(seed + int(self.trainer.state.epoch or 0))
        return super().__iter__()


class ClassificationLoss:
    """
    The loss of a task, cross-entropy, binary cross-entropy or squared error, as the mean over the labels of a step:
    also those of accumulated batches and other processes, so that four batches of four rows make the step that one of
    sixteen makes.

    Args:
        label_smoothing: The share of a label that all classes get alike. This and the weights are for "single".
        class_weights: Of shape (K,). None: all are 1.
        task: "single", "multi" or "number".
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None, task: str = "single"):
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.task = task

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        """`outputs.logits` (N, K), labels (N,) or (N, K), and how many a step has (None: these). For Trainer."""
        logits = outputs.logits.float()
        if self.task == "single":
            weights = None if self.class_weights is None else self.class_weights.to(labels.device)
            total = nn.functional.cross_entropy(
                logits, labels, weights, reduction="sum", label_smoothing=self.label_smoothing
            )
        elif self.task == "multi":
            total = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        else:
            total = nn.functional.mse_loss(logits.view_as(labels), labels, reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def make_loss(
    arguments: RunArguments, labels: Sequence[Any], num_labels: int, task: str = "single"
) -> ClassificationLoss | None:
    """The loss that the settings ask for. None is the model's own, the mean of one batch."""
    is_balanced = arguments.class_weights == "balanced"
    # Trainer takes the mean of the means of several batches, in which a row of a short batch counts more.
    is_one_batch = arguments.gradient_accumulation_steps == 1 and arguments.world_size == 1
    if is_one_batch and not (is_balanced or arguments.label_smoothing_factor or arguments.mixup_alpha):
        return None
    weights = balance(labels, num_labels) if is_balanced else None
    return ClassificationLoss(arguments.label_smoothing_factor, weights, task)


def balance(labels: Sequence[int], num_labels: int) -> torch.Tensor:
    """Class weights, inverse to the frequencies and 1 on average over the rows. A class without rows counts as one."""
    counts = np.bincount(labels, minlength=num_labels)
    return torch.tensor(counts.sum() / (np.count_nonzero(counts) * counts.clip(min=1)), dtype=torch.float32)


def find_classifier(model: nn.Module, name_of_user: str = "`mixup_alpha`") -> nn.Linear:
    """The last linear map of a classifier of texts. ValueError, which says for what, if there is none to be found."""
    for name in CLASSIFIERS:
        classifier = getattr(model, name, None)
        if isinstance(classifier, nn.Linear):
            return classifier
    raise ValueError(
        f"{name_of_user} is for a model whose logits come from an nn.Linear called {' or '.join(CLASSIFIERS)}; "
        f"{type(model).__name__} has none."
    )


class WeightAveraging(TrainerCallback):
    """
    Keeps the average a of the weights w. After the first step it is w, and after a step before which there were t:

        a <- d a + (1 - d) w,    d = min(ema_decay, (1 + t) / (10 + t))

    The smaller d of early steps forgets the weights of the start.
    """

    def __init__(self) -> None:
        self.average: AveragedModel | None = None
        self.checkpoint: str | None = None  # the one from which the training goes on

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        def update(averages: Any, weights: Any, count: Any) -> None:
            before = int(count)
            get_ema_multi_avg_fn(min(args.ema_decay, (1 + before) / (10 + before)))(averages, weights, count)

        self.average = AveragedModel(kwargs["model"], multi_avg_fn=update)
        self.average.n_averaged.fill_(state.global_step)
        if self.checkpoint is not None:
            # The model that Trainer has loaded is the average.
            load_model(kwargs["model"], Path(self.checkpoint, RAW_WEIGHTS))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        cast(AveragedModel, self.average).update_parameters(kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (args.load_best_model_at_end and state.best_model_checkpoint):  # which is an average already
            self.swap(kwargs["model"])
        self.average = None

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchanges the weights of the model with their average, while it trains."""
        if self.average is not None:
            for weight, average in zip(model.parameters(), self.average.module.parameters(), strict=True):
                raw = weight.clone()
                weight.copy_(average)
                average.copy_(raw)


class WaveTrainer(Trainer):
    """
    Trainer that also has mixup, an average of the weights that is validated and saved in place of them, and an order of
    the rows that does not depend on the process. If two epochs tie in validation, the later one is kept.
    """

    args: RunArguments

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        for each in (PrinterCallback, ProgressCallback):
            self.remove_callback(each)
        self.add_callback(Progress())
        self.averaging = WeightAveraging()
        if self.args.ema_decay:
            self.add_callback(self.averaging)

    def train(self, resume_from_checkpoint: Any = None, *arguments: Any, **settings: Any) -> Any:
        self.averaging.checkpoint = resume_from_checkpoint
        return super().train(resume_from_checkpoint, *arguments, **settings)

    @contextmanager
    def average_in_place(self) -> Iterator[None]:
        self.averaging.swap(cast(nn.Module, self.model))
        try:
            yield
        finally:
            self.averaging.swap(cast(nn.Module, self.model))

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        with self.average_in_place():
            return super().evaluate(*arguments, **settings)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        with name_failures(folder):
            if self.averaging.average is not None and self.args.should_save:
                # Before the state of Trainer, by which a checkpoint is known to be complete.
                folder.mkdir(parents=True, exist_ok=True)
                save_model(cast(nn.Module, self.model), str(folder / RAW_WEIGHTS))
            with self.average_in_place():
                super()._save_checkpoint(model, trial)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        # Trainer keeps the first of two equal epochs, which has learned less.
        if not is_best and metrics[f"eval_{self.args.metric_for_best_model}"] == self.state.best_metric:
            self.state.best_global_step = self.state.global_step
            is_best = True
        # Also between two saves: Trainer would record this step and keep another.
        self.control.should_save |= bool(is_best and self.args.load_best_model_at_end)
        return is_best

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """
        With `mixup_alpha` the mix of two losses (Guo, Mao and Zhang, 2019, arXiv 1905.08941, section 3.2): with h the
        vectors that the classifier reads, a permutation s of the batch and one c ~ Beta(alpha, alpha),

            h_n <- c h_n + (1 - c) h_s(n),    loss = c loss(y) + (1 - c) loss(y_s)
        """
        if not (self.args.mixup_alpha and model.training):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        alpha, loss = self.args.mixup_alpha, cast(Callable, self.compute_loss_func)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        others_N = torch.randperm(len(inputs["labels"])).to(inputs["labels"].device)

        def mix(classifier: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (share * given[0] + (1 - share) * given[0][others_N], *given[1:])

        def mixed_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
            others = loss(outputs, labels[others_N], num_items_in_batch)
            return share * loss(outputs, labels, num_items_in_batch) + (1 - share) * others

        hook = find_classifier(self.accelerator.unwrap_model(model)).register_forward_pre_hook(mix)
        self.compute_loss_func = mixed_loss
        try:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            hook.remove()
            self.compute_loss_func = loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        return SeededSampler(self, sampler.batch_size, sampler.lengths)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        sampler = super()._get_eval_sampler(eval_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            # Before transformers 5.16 every process has an order of its own: some rows count twice, others never.
            sampler.generator = torch.Generator().manual_seed(self.args.seed)
        return sampler
