"""AdamW for row-sparse gradients of an embedding table: a step costs what the rows of the batch cost, not the table."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT


class LazyAdamW(torch.optim.AdamW):
    """
    torch's AdamW, which also takes row-sparse gradients, as `nn.Embedding(sparse=True)` gives them.

    Parameters with dense gradients are stepped as by `torch.optim.AdamW`. Of a parameter with a row-sparse gradient the
    rows r in the gradient g alone are stepped, each once, also if it was looked up many times:

        w_r <- (1 - lr weight_decay) w_r
        m_r <- beta1 m_r + (1 - beta1) g_r
        v_r <- beta2 v_r + (1 - beta2) g_r^2
        w_r <- w_r - lr (m_r / (1 - beta1^t)) / (sqrt(v_r / (1 - beta2^t)) + eps)

    All other rows keep their w, m and v bit for bit. This is another update than AdamW's, in which a row without a
    gradient goes on moving by its momentum, has its moments decay and its weights too; the two are the same where every
    row is in every gradient. t counts the steps of the parameter, not those of the row, as in `torch.optim.SparseAdam`.

    The state has AdamW's form, so that each of the two goes on from a checkpoint of the other.

    Args:
        params: Parameters or groups of them; in sparse gradients the first axis must be the sparse one.
        lr, betas, eps, weight_decay, fused: As in `torch.optim.AdamW`, with its defaults.

    Raises:
        ValueError: A setting is out of its range, or, by `step`, a gradient is sparse in more than its first axis.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        fused: bool | None = None,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, fused=fused)
        # Fused, AdamW asks for float16 gradients that GradScaler has not unscaled yet. It can unscale sparse ones too.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override] # torch overloads it
        """One step; returns what `closure` returns, which computes the gradients anew if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            stepped: list[tuple[torch.Tensor, ...]] = []  # weights and moments
            gradients, steps, gathered = [], [], []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter] or self.start(parameter, group["fused"])
                tensors: tuple[torch.Tensor, ...] = (parameter, state["exp_avg"], state["exp_avg_sq"])
                gradient = parameter.grad
                if gradient.is_sparse:
                    rows, gradient = split_rows(gradient)
                    parts = tuple(tensor.index_select(0, rows) for tensor in tensors)
                    gathered.append((rows, tensors, parts))
                    tensors = parts
                stepped.append(tensors)
                gradients.append(gradient)
                steps.append(state["step"])
            beta1, beta2 = group["betas"]
            adamw(
                [weights for weights, _, _ in stepped],
                gradients,
                [first for _, first, _ in stepped],
                [second for _, _, second in stepped],
                [],
                steps,
                fused=group["fused"],
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            for rows, tensors, parts in gathered:
                for tensor, part in zip(tensors, parts, strict=True):
                    tensor.index_copy_(0, rows, part)
        return loss

    def start(self, parameter: torch.Tensor, fused: bool | None) -> dict[str, torch.Tensor]:
        """The state before the first step. Only the fused kernels want the count of steps on the device."""
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu")
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def split_rows(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The indices (n) of the rows in a sparse gradient, each once, and their values (n, D)."""
    if gradient.sparse_dim() != 1:
        raise ValueError(
            f"Sparse gradients must be sparse in their first axis alone, as those of `nn.Embedding(sparse=True)`; got "
            f"one of shape {tuple(gradient.shape)} that is sparse in {gradient.sparse_dim()} axes."
        )
    gradient = gradient.coalesce()
    return gradient.indices()[0], gradient.values()


def with_dense_gradients(parameters: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """
    The parameters, with a stand-in for each that has a sparse gradient: the gradient of the stand-in is the values of
    that gradient, in the same memory. What scales the gradients of all of them by their common norm, such as
    `torch.nn.utils.clip_grad_norm_`, which does not take sparse ones, does the same to the sparse ones.
    """
    for parameter in parameters:
        if parameter.grad is None or not parameter.grad.is_sparse:
            yield parameter
            continue
        # A row that was looked up twice has one gradient, the sum; the norm of its parts would be another.
        parameter.grad = parameter.grad.coalesce()
        values = parameter.grad.values()
        stand_in = values.detach()
        stand_in.grad = values
        yield stand_in
