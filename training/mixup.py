"""`--mixup_alpha`: each training text's vector is mixed with another's before the classifier, and the losses alike."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

# How transformers' classifiers of texts call the map to the logits.
CLASSIFIERS = ("classifier", "score")


class Mixup:
    """
    Mixup of sentences (Guo, Mao and Zhang, 2019, *Augmenting Data with Mixup for Sentence Classification*, arXiv
    1905.08941, section 3.2): with h the vectors that the classifier reads and a permutation s of the batch,

        h_n <- c h_n + (1 - c) h_s(n),    loss = c loss(y) + (1 - c) loss(y_s),    c ~ Beta(alpha, alpha)

    One c and one s are drawn for a batch, from torch's generator of the CPU, whose state is in every checkpoint.
    """

    def __init__(self, alpha: float):
        self.beta = torch.distributions.Beta(alpha, alpha)
        self.share = 1.0
        self.others_N = torch.empty(0, dtype=torch.long)

    @contextlib.contextmanager
    def in_front_of(self, classifier: nn.Module) -> Iterator[None]:
        """Mixes what the classifier is given inside."""
        hook = classifier.register_forward_pre_hook(self.mix)
        try:
            yield
        finally:
            hook.remove()

    def mix(self, classifier: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        vectors_ND = inputs[0]
        self.share = float(self.beta.sample())
        self.others_N = torch.randperm(vectors_ND.shape[0]).to(vectors_ND.device)
        return (self.share * vectors_ND + (1 - self.share) * vectors_ND[self.others_N], *inputs[1:])

    def over(self, loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """A loss for Trainer's hook, as the mix of `loss` for the labels, and the weights of the rows, of both."""

        def mixed(
            outputs: Any,
            labels: torch.Tensor,
            num_items_in_batch: torch.Tensor | int | None = None,
            sample_weight: torch.Tensor | None = None,
        ) -> torch.Tensor:
            total = torch.zeros((), device=labels.device)
            whole = torch.arange(len(labels), device=labels.device)
            for share, rows_N in ((self.share, whole), (1 - self.share, self.others_N)):
                weights = {} if sample_weight is None else {"sample_weight": sample_weight[rows_N]}
                total = total + share * loss(outputs, labels[rows_N], num_items_in_batch, **weights)
            return total

        return mixed


def find_classifier(model: nn.Module) -> nn.Linear:
    """The last linear map of a classifier of texts. ValueError if there is none to be found."""
    for name in CLASSIFIERS:
        classifier = getattr(model, name, None)
        if isinstance(classifier, nn.Linear):
            return classifier
    names = " or ".join(repr(name) for name in CLASSIFIERS)
    raise ValueError(
        f"`mixup_alpha` is for a model whose logits come from an nn.Linear called {names}; {type(model).__name__} has "
        "none. Leave it out."
    )


def refuse_unfit_mixup(arguments: Any) -> None:
    """A ValueError if `mixup_alpha` does not go with another setting of these `RunArguments`."""
    unfit = None
    if arguments.torch_compile:
        unfit = "`torch_compile` (True): vectors are mixed by a hook that comes and goes; allowed is False"
    elif arguments.n_gpu > 1:
        unfit = f"{arguments.n_gpu} GPUs in one process: allowed is one, and `torchrun` for more"
    if arguments.mixup_alpha and unfit is not None:
        raise ValueError(f"`mixup_alpha` ({arguments.mixup_alpha}) does not go with {unfit}. Leave out one of the two.")
