# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""`context_norm` and `superpose` of ops_wave.py, fast: the same arguments and results, with a backward written by hand.

Everything here is one idea, the sum of the *other* tokens of a text, `others(x)_j = sum_{m != j} x_m`:

    forward    c = sqrt(others(w^2))
    backward   dL/dw = w * others(r), with r = (dL/dc) / c         (docs/maths.md, section 6)
    tangent    dc = others(w * dw) / c

Written as `sum(x) - x_j` it cancels for the dominant token of a column, the one with the largest square, and for no
other: see `sum_of_others`. Only `w` is kept for the backward.

Three forms, chosen by where the tensor lies (`superpose`, at the end):

- traced: plain tensor operations, which torch.compile fuses, torch.export writes out and any device runs;
- blocked, on a CPU: a block of texts at a time, small enough to stay in the cache;
- Triton kernels on a CUDA device (triton_wave.py).

Shapes as in ops_wave.py; "texts" are the rows of a padded batch or the stretches of a packed one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from .ops_wave import index_texts, safe_sqrt

try:
    from .triton_wave import context_backward, context_forward, superpose_backward, superpose_forward

    HAS_TRITON = torch.version.hip is None  # the kernels set registers as NVIDIA's compiler takes them
except ImportError:
    HAS_TRITON = False

# --- The mathematics, in plain tensor operations ----------------------------------------------------------------------


class Texts:
    """Which tokens belong together: texts are the rows of a padded batch, or the stretches of a packed one."""

    def __init__(self, x_BLE: torch.Tensor, mask_BL: torch.Tensor | None, cu_seq_lens: torch.Tensor | None):
        self.length = x_BLE.shape[1]
        self.mask_BL1 = None if mask_BL is None else mask_BL[..., None]
        self.text_L = None
        if cu_seq_lens is not None:
            self.lengths_N = cu_seq_lens.diff()
            self.text_L = index_texts(cu_seq_lens, self.length)

    def sum(self, x_BLE: torch.Tensor) -> torch.Tensor:
        """The sum over each text, in a shape that broadcasts to its tokens."""
        if self.text_L is None:
            return x_BLE.sum(dim=1, keepdim=True)
        zeros_BNE = x_BLE.new_zeros(x_BLE.shape[0], len(self.lengths_N), x_BLE.shape[2])
        return zeros_BNE.index_add(1, self.text_L, x_BLE)[:, self.text_L]

    def max(self, x_BLE: torch.Tensor) -> torch.Tensor:
        """The largest of each text, likewise, of numbers that are not negative."""
        if self.text_L is None:
            return x_BLE.amax(dim=1, keepdim=True)
        zeros_BNE = x_BLE.new_zeros(x_BLE.shape[0], len(self.lengths_N), x_BLE.shape[2])
        return zeros_BNE.scatter_reduce(1, self.text_L[None, :, None].expand_as(x_BLE), x_BLE, "amax")[:, self.text_L]

    def scale(self, magnitude: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor | float:
        """What turns the norm of the n - 1 other tokens into the magnitude that is asked for."""
        if magnitude == "l2":
            return 1.0
        if self.mask_BL1 is not None:
            tokens = self.mask_BL1.sum(dim=1, keepdim=True)
        elif self.text_L is not None:
            tokens = self.lengths_N[self.text_L][:, None]
        else:
            tokens = torch.full((1, 1, 1), self.length, device=device)
        return (tokens - 1).clamp(min=1).to(dtype).sqrt().reciprocal()


def widen(x_BLE: torch.Tensor, mask_BL1: torch.Tensor | None) -> torch.Tensor:
    """In float32 at least, and 0 at padding, whatever lies there."""
    x_BLE = x_BLE.to(torch.promote_types(x_BLE.dtype, torch.float32))
    return x_BLE if mask_BL1 is None else x_BLE.masked_fill(~mask_BL1, 0)


def sum_of_others(x_BLE: torch.Tensor, is_top_BLE: torch.Tensor, texts: Texts) -> torch.Tensor:
    """
    `sum_{m != j} x_m` within each text. The tops (the tokens with the largest square of their column: one, or several
    that tie) have a sum of their own, so that a top is never subtracted from a sum in which it drowns the others, and a
    single one is subtracted from itself alone: exactly 0.
    """
    top_BLE = texts.sum(x_BLE.masked_fill(~is_top_BLE, 0))
    rest_BLE = texts.sum(x_BLE.masked_fill(is_top_BLE, 0))
    return torch.where(is_top_BLE, rest_BLE + (top_BLE - x_BLE), (rest_BLE - x_BLE) + top_BLE)


def context(w_BLE: torch.Tensor, texts: Texts) -> tuple[torch.Tensor, torch.Tensor]:
    """`c`, the norm of the others, and which tokens are tops."""
    square_BLE = w_BLE.square()
    is_top_BLE = square_BLE.detach() == texts.max(square_BLE.detach())
    return safe_sqrt(sum_of_others(square_BLE, is_top_BLE, texts)), is_top_BLE


def divide(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """`x / c`, and 0 where c is 0: all other tokens are 0 there, and the gradient with them."""
    is_zero = c == 0
    return (x / c.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)


def combine(w_BLE: torch.Tensor, c_BLE: torch.Tensor, operation: str) -> torch.Tensor:
    """`concat(re, im)` of the waves `w + i c` and `w' + i c'` superposed (paper, eq. 4, 6, 7), or `c` alone."""
    if operation == "context":
        return c_BLE
    (w, w2), (c, c2) = w_BLE.chunk(2, dim=-1), c_BLE.chunk(2, dim=-1)
    if operation == "interference":
        return torch.cat([w + w2, c + c2], dim=-1)
    return torch.cat([torch.addcmul(w * w2, c, c2, value=-1), torch.addcmul(w * c2, w2, c)], dim=-1)


def pull_back(
    grad_BLE: torch.Tensor, w_BLE: torch.Tensor, c_BLE: torch.Tensor, operation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the gradient of `combine` to those of its w and its c."""
    if operation == "context":
        return torch.zeros_like(grad_BLE), grad_BLE
    p, q = grad_BLE.chunk(2, dim=-1)
    if operation == "interference":
        return torch.cat([p, p], dim=-1), torch.cat([q, q], dim=-1)
    (w, w2), (c, c2) = w_BLE.chunk(2, dim=-1), c_BLE.chunk(2, dim=-1)
    of_w = torch.cat([torch.addcmul(w2 * p, c2, q), torch.addcmul(w * p, c, q)], dim=-1)
    of_c = torch.cat([torch.addcmul(w2 * q, c2, p, value=-1), torch.addcmul(w * q, c, p, value=-1)], dim=-1)
    return of_w, of_c


def push_forward(
    dw_BLE: torch.Tensor, dc_BLE: torch.Tensor, w_BLE: torch.Tensor, c_BLE: torch.Tensor, operation: str
) -> torch.Tensor:
    """From tangents of w and c to that of `combine`."""
    if operation == "context":
        return dc_BLE
    (dw, dw2), (dc, dc2) = dw_BLE.chunk(2, dim=-1), dc_BLE.chunk(2, dim=-1)
    if operation == "interference":
        return torch.cat([dw + dw2, dc + dc2], dim=-1)
    (w, w2), (c, c2) = w_BLE.chunk(2, dim=-1), c_BLE.chunk(2, dim=-1)
    return torch.cat([w2 * dw + w * dw2 - c2 * dc - c * dc2, c2 * dw + w * dc2 + c * dw2 + w2 * dc], dim=-1)


# --- The traced form --------------------------------------------------------------------------------------------------


def forward_traced(x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    texts = Texts(x_BLE, mask_BL, cu_seq_lens)
    w_BLE = widen(x_BLE, texts.mask_BL1)
    c_BLE, _ = context(w_BLE, texts)
    scale = texts.scale(magnitude, w_BLE.dtype, w_BLE.device)
    return combine(w_BLE, c_BLE * scale, operation).to(x_BLE.dtype)


def backward_traced(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    texts = Texts(x_BLE, mask_BL, cu_seq_lens)
    w_BLE = widen(x_BLE, texts.mask_BL1)
    c_BLE, is_top_BLE = context(w_BLE, texts)
    scale = texts.scale(magnitude, w_BLE.dtype, w_BLE.device)
    of_w_BLE, of_c_BLE = pull_back(grad_BLE.to(w_BLE.dtype), w_BLE, c_BLE * scale, operation)
    r_BLE = divide(of_c_BLE * scale, c_BLE)
    return widen(of_w_BLE + w_BLE * sum_of_others(r_BLE, is_top_BLE, texts), texts.mask_BL1).to(x_BLE.dtype)


def tangent_traced(dx_BLE, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    texts = Texts(x_BLE, mask_BL, cu_seq_lens)
    w_BLE, dw_BLE = widen(x_BLE, texts.mask_BL1), widen(dx_BLE, texts.mask_BL1)
    c_BLE, is_top_BLE = context(w_BLE, texts)
    scale = texts.scale(magnitude, w_BLE.dtype, w_BLE.device)
    dc_BLE = divide(sum_of_others(w_BLE * dw_BLE, is_top_BLE, texts), c_BLE)
    return push_forward(dw_BLE, dc_BLE * scale, w_BLE, c_BLE * scale, operation).to(x_BLE.dtype)


# --- The blocked form, on a CPU ---------------------------------------------------------------------------------------

# So many numbers are worked on at a time: with what is computed from them they stay in the cache.
BLOCK = 2**19
# So many numbers of padding cost less than a block of its own.
PADDING = 2**15
# Of the sum of squares a token may hold less than this, for the sum of the others to be had by subtracting it: in the
# dtype of the numbers; and in float64 for numbers that had half of its digits, so that a loss of 20 bits is none.
HALF, NEARLY_ALL = 0.5, 1 - 2**-20


def forward_blocked(x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    out_BLE = torch.empty(x_BLE.shape, dtype=x_BLE.dtype)
    for mask, out, x in blocks(mask_BL, cu_seq_lens, out_BLE, x_BLE):
        forward_block(x, mask, operation, magnitude, out)
    return out_BLE


def backward_blocked(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    out_BLE = torch.empty(x_BLE.shape, dtype=x_BLE.dtype)
    for mask, out, x, grad in blocks(mask_BL, cu_seq_lens, out_BLE, x_BLE, grad_BLE):
        backward_block(grad, x, mask, operation, magnitude, out)
    return out_BLE


def blocks(
    mask_BL: torch.Tensor | None, cu_seq_lens: torch.Tensor | None, out_BLE: torch.Tensor, *inputs: torch.Tensor
) -> Iterator[tuple]:
    """
    A few whole texts at a time, so many as make a block: their mask, what is to be filled, and their part of each
    input, as (texts, tokens, ...).
    """
    rows, length, width = out_BLE.shape
    if cu_seq_lens is None:
        step = max(1, BLOCK // max(length * width, 1))
        for start in range(0, rows if length else 0, step):
            some = slice(start, start + step)
            yield None if mask_BL is None else mask_BL[some], out_BLE[some], *(x_BLE[some] for x_BLE in inputs)
        return
    starts_N, lengths_N = cu_seq_lens[:-1], cu_seq_lens.diff()
    for texts, longest in group_by_length(lengths_N.tolist(), width):
        first, count = texts[0], len(texts)
        if int(lengths_N[first]) == longest and texts[-1] - first == count - 1:
            # Of one length and side by side: they are a block as they lie.
            some = slice(int(starts_N[first]), int(starts_N[first]) + count * longest)
            yield None, *(x_BLE[0, some].unflatten(0, (count, longest)) for x_BLE in (out_BLE, *inputs))
            continue
        place_L = torch.arange(longest)
        keep_KL = place_L < lengths_N[texts][:, None]
        places_KL = starts_N[texts][:, None] + place_L * keep_KL  # at padding that of the first token
        out_KLE = out_BLE.new_empty(*places_KL.shape, width)
        taken = [torch.nn.functional.embedding(places_KL, x_BLE[0]) for x_BLE in inputs]
        yield keep_KL, out_KLE, *(x_KLE.masked_fill_(~keep_KL[..., None], 0) for x_KLE in taken)
        # The next block is asked for, so this one is filled.
        kept_T = keep_KL.flatten().nonzero()[:, 0]
        out_BLE[0].index_copy_(0, places_KL.flatten()[kept_T], out_KLE.flatten(0, 1).index_select(0, kept_T))


def group_by_length(lengths: list[int], width: int) -> Iterator[tuple[list[int], int]]:
    """Packed texts of about one length, to be padded to the longest of them and worked on together; and that length."""
    group: list[int] = []
    tokens = 0
    for text in sorted(range(len(lengths)), key=lengths.__getitem__):
        size = (len(group) + 1) * lengths[text] * width
        if group and (size > BLOCK or size - (tokens + lengths[text]) * width > PADDING):
            yield group, lengths[group[-1]]
            group, tokens = [], 0
        if lengths[text]:
            group.append(text)
            tokens += lengths[text]
    if group:
        yield group, lengths[group[-1]]


def pieces(x_BLE: torch.Tensor) -> list[slice]:
    """Tokens of one block at a time: all of them, unless a single text is longer than a block."""
    rows, length, width = x_BLE.shape
    step = max(1, BLOCK // (rows * width))
    return [slice(start, start + step) for start in range(0, length, step)]


def widen_piece(x_BLE: torch.Tensor, texts: Texts, piece: slice) -> torch.Tensor:
    """`widen` by a product, which is much faster: what is not finite at padding stays so, and `measure` finds it."""
    x_BLE = x_BLE[:, piece].to(torch.promote_types(x_BLE.dtype, torch.float32))
    return x_BLE if texts.mask_BL1 is None else x_BLE * texts.mask_BL1[:, piece]


def forward_block(x_BLE, mask_BL, operation: str, magnitude: str, out_BLE: torch.Tensor, most: float = HALF) -> None:
    texts = Texts(x_BLE, mask_BL, None)
    total_B1E, hard = measure(x_BLE, texts, operation, most)
    if hard is None or hard.some is not None:
        scale = texts.scale(magnitude, total_B1E.dtype, total_B1E.device)
        for piece in pieces(x_BLE):
            w_BLE = widen_piece(x_BLE, texts, piece)
            c_BLE = torch.sub(total_B1E, w_BLE * w_BLE).sqrt_()
            out_BLE[:, piece] = combine(w_BLE, c_BLE if magnitude == "l2" else c_BLE.mul_(scale), operation)
    if hard is not None:
        x_KLC, mask_KL = hard.take(x_BLE), hard.take_mask(mask_BL)
        if x_BLE.dtype == torch.float64:
            out_KLC = forward_traced(x_KLC, mask_KL, None, operation, magnitude)
        else:
            out_KLC = x_KLC.new_empty(x_KLC.shape)
            forward_block(x_KLC, mask_KL, operation, magnitude, out_KLC, NEARLY_ALL)
        hard.put(out_BLE, out_KLC)


def backward_block(
    grad_BLE, x_BLE, mask_BL, operation: str, magnitude: str, out_BLE: torch.Tensor, most: float = HALF
) -> None:
    texts = Texts(x_BLE, mask_BL, None)
    total_B1E, hard = measure(x_BLE, texts, operation, most)
    if hard is None or hard.some is not None:
        scale = texts.scale(magnitude, total_B1E.dtype, total_B1E.device)
        parts = []
        for piece in pieces(x_BLE):
            w_BLE = widen_piece(x_BLE, texts, piece)
            c_BLE = torch.sub(total_B1E, w_BLE * w_BLE).sqrt_()
            scaled_BLE = c_BLE if magnitude == "l2" else c_BLE * scale
            of_w_BLE, of_c_BLE = pull_back(grad_BLE[:, piece].to(w_BLE.dtype), w_BLE, scaled_BLE, operation)
            r_BLE = torch.div(of_c_BLE if magnitude == "l2" else of_c_BLE * scale, c_BLE, out=c_BLE)
            parts.append((w_BLE, of_w_BLE, r_BLE))
        r_B1E = torch.stack([r_BLE.sum(dim=1, keepdim=True) for _, _, r_BLE in parts]).sum(dim=0)
        for piece, (w_BLE, of_w_BLE, r_BLE) in zip(pieces(x_BLE), parts, strict=True):
            out_BLE[:, piece] = of_w_BLE.addcmul_(w_BLE, torch.sub(r_B1E, r_BLE, out=r_BLE))
    if hard is not None:
        grad_KLC, x_KLC, mask_KL = hard.take(grad_BLE), hard.take(x_BLE), hard.take_mask(mask_BL)
        if x_BLE.dtype == torch.float64:
            out_KLC = backward_traced(grad_KLC, x_KLC, mask_KL, None, operation, magnitude)
        else:
            out_KLC = x_KLC.new_empty(x_KLC.shape)
            backward_block(grad_KLC, x_KLC, mask_KL, operation, magnitude, out_KLC, NEARLY_ALL)
        hard.put(out_BLE, out_KLC)
    if mask_BL is not None:
        out_BLE.view(-1, out_BLE.shape[2]).index_fill_(0, (~mask_BL).flatten().nonzero()[:, 0], 0)


@dataclass
class Hard:
    """Where `total - w_j^2` is not exact: done in float64, and what is not exact there either, traced."""

    # An index of K pairs of a text and its column (both columns of a pair of variants), or None: everywhere.
    some: tuple[torch.Tensor, slice, torch.Tensor] | None

    def take(self, x_BLE: torch.Tensor) -> torch.Tensor:
        return (x_BLE if self.some is None else x_BLE[self.some].transpose(1, 2)).double()

    def take_mask(self, mask_BL: torch.Tensor | None) -> torch.Tensor | None:
        return mask_BL if self.some is None or mask_BL is None else mask_BL[self.some[0][:, 0]]

    def put(self, out_BLE: torch.Tensor, exact: torch.Tensor) -> None:
        if self.some is None:
            out_BLE.copy_(exact)
        else:
            out_BLE[self.some] = exact.transpose(1, 2).to(out_BLE.dtype)


def measure(x_BLE: torch.Tensor, texts: Texts, operation: str, most: float) -> tuple[torch.Tensor, Hard | None]:
    """
    The sum of squares of each text and column, and where the norm of the others is not exact as `total - w_j^2`: where
    a token holds `most` of the total or more, which is common in texts of a few tokens only; and where squares
    overflow, or are so small that some may have vanished.
    """
    totals, tops = [], []
    for piece in pieces(x_BLE):
        w_BLE = widen_piece(x_BLE, texts, piece)
        square_BLE = w_BLE * w_BLE
        totals.append(square_BLE.sum(dim=1, keepdim=True))
        tops.append(square_BLE.amax(dim=1, keepdim=True))
    total_B1E, top_B1E = torch.stack(totals).sum(dim=0), torch.stack(tops).amax(dim=0)

    limits = torch.finfo(total_B1E.dtype)
    is_easy_B1E = (top_B1E < most * total_B1E) & (total_B1E < torch.inf) & (top_B1E > limits.tiny / limits.eps**2)
    is_hard_BE = ~is_easy_B1E[:, 0]
    count = int(is_hard_BE.sum())
    if count == 0:
        return total_B1E, None
    if count > is_hard_BE.numel() // 16:
        return total_B1E, Hard(None)
    if operation != "context":
        is_hard_BE = torch.logical_or(*is_hard_BE.chunk(2, dim=1))
    rows_K, columns_K = is_hard_BE.nonzero(as_tuple=True)
    columns_KC = torch.arange(0, x_BLE.shape[2], is_hard_BE.shape[1]) + columns_K[:, None]
    return total_B1E, Hard((rows_K[:, None], slice(None), columns_KC))


# --- The Triton form, on a CUDA device --------------------------------------------------------------------------------


def lay_out(x_BLE: torch.Tensor, mask_BL: torch.Tensor | None, cu_seq_lens: torch.Tensor | None):
    """What the kernels take beside the tokens: offsets, which tokens count, and a bound of the texts' length."""
    rows, length, _ = x_BLE.shape
    if cu_seq_lens is not None:
        return cu_seq_lens, None, int(cu_seq_lens.diff().max()) if len(cu_seq_lens) > 1 else 0
    offsets = torch.arange(0, rows * length + 1, max(length, 1), device=x_BLE.device)
    return offsets, None if mask_BL is None else mask_BL.reshape(-1), length


def forward_triton(x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    offsets, keep_T, length = lay_out(x_BLE, mask_BL, cu_seq_lens)
    x_TE = x_BLE.flatten(0, 1)
    if operation == "context":
        return context_forward(x_TE, offsets, keep_T, magnitude, length).view(x_BLE.shape)
    return superpose_forward(x_TE, offsets, keep_T, operation, magnitude, length).view(x_BLE.shape)


def backward_triton(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    offsets, keep_T, length = lay_out(x_BLE, mask_BL, cu_seq_lens)
    x_TE, grad_TE = x_BLE.flatten(0, 1), grad_BLE.flatten(0, 1)
    if operation == "context":
        return context_backward(grad_TE, x_TE, offsets, keep_T, magnitude, length).view(x_BLE.shape)
    return superpose_backward(grad_TE, x_TE, offsets, keep_T, operation, magnitude, length).view(x_BLE.shape)


# --- The differentiable operation -------------------------------------------------------------------------------------


def serves(device: torch.device) -> bool:
    """Whether there is a fast form for tensors on this device."""
    return device.type in ("cpu", "meta") or (device.type == "cuda" and HAS_TRITON)


def choose_form(x_BLE: torch.Tensor, blocked: Callable, triton: Callable, traced: Callable) -> Callable:
    """By where the tensor lies. A subclass of Tensor (fake, sharded) gets plain operations, whatever its device."""
    if type(x_BLE) in (torch.Tensor, torch.nn.Parameter):
        if x_BLE.device.type == "cpu":
            return blocked
        if x_BLE.device.type == "cuda" and HAS_TRITON:
            return triton
    return traced


class TracedOperation(torch.autograd.Function):
    """What torch.compile sees: it takes no function with rules of its own for vmap and tangents."""

    @staticmethod
    def forward(x_BLE, mask_BL, cu_seq_lens, operation, magnitude):
        return forward_traced(x_BLE, mask_BL, cu_seq_lens, operation, magnitude)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x_BLE, mask_BL, cu_seq_lens, ctx.operation, ctx.magnitude = inputs
        ctx.save_for_backward(x_BLE, mask_BL, cu_seq_lens)

    @staticmethod
    def backward(ctx, grad_BLE):
        grad_x_BLE = backward_traced(grad_BLE, *ctx.saved_tensors, ctx.operation, ctx.magnitude)
        return grad_x_BLE, None, None, None, None


class Operation(torch.autograd.Function):
    """What runs without a compiler."""

    @staticmethod
    def forward(x_BLE, mask_BL, cu_seq_lens, operation, magnitude):
        forward = choose_form(x_BLE, forward_blocked, forward_triton, forward_traced)
        return forward(x_BLE, mask_BL, cu_seq_lens, operation, magnitude)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x_BLE, mask_BL, cu_seq_lens, ctx.operation, ctx.magnitude = inputs
        ctx.save_for_backward(x_BLE, mask_BL, cu_seq_lens)
        ctx.save_for_forward(x_BLE, mask_BL, cu_seq_lens)

    @staticmethod
    def backward(ctx, grad_BLE):
        # With gradients enabled, or tangents, this one is to be differentiated again.
        is_final = not torch.is_grad_enabled() and forward_ad._current_level < 0
        backward = Gradient.apply if is_final else backward_traced
        return backward(grad_BLE, *ctx.saved_tensors, ctx.operation, ctx.magnitude), None, None, None, None

    @staticmethod
    def jvp(ctx, dx_BLE, *_):
        return tangent_traced(dx_BLE, *ctx.saved_tensors, ctx.operation, ctx.magnitude)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return torch.vmap(forward_traced, in_dims, randomness=info.randomness)(*inputs), 0


class Gradient(torch.autograd.Function):
    """The backward of `Operation` as a function, so that vmap sees through it as well."""

    @staticmethod
    def forward(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation, magnitude):
        backward = choose_form(x_BLE, backward_blocked, backward_triton, backward_traced)
        if torch._C._functorch.is_legacy_batchedtensor(grad_BLE):
            backward = backward_traced  # `is_grads_batched` is a vmap of its own, which calls no rule of a function
        return backward(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation, magnitude)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return torch.vmap(backward_traced, in_dims, randomness=info.randomness)(*inputs), 0


def apply(x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    if torch.compiler.is_compiling():
        # Without gradients the plain operations, which torch.export can write out.
        needs_grad = torch.is_grad_enabled() and x_BLE.requires_grad
        form = TracedOperation.apply if needs_grad and not torch.compiler.is_exporting() else forward_traced
        return form(x_BLE, mask_BL, cu_seq_lens, operation, magnitude)
    # torch.jit.save can write out no function with a backward of its own.
    form = forward_traced if torch.jit.is_tracing() else Operation.apply
    return form(x_BLE, mask_BL, cu_seq_lens, operation, magnitude)


# --- The same names, arguments and results as in ops_wave.py ----------------------------------------------------------


def context_norm(
    w_BLD: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The norm of the rest of the text, `c_BLD` (paper, fig. 4), shape (B, L, D): arguments and result as in
    `ops_wave.context_norm`. On a CPU, without a compiler, it is exact for every finite `w` in float32 and less.
    """
    return apply(w_BLD, mask_BL, cu_seq_lens, "context", magnitude)


def superpose(
    variants_BLE: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    operation: str = "modulation",
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Two real variants of each token, (B, L, 2D), superposed as waves, `concat(re, im)` of the same shape (paper, eq. 4,
    6 and 7): arguments and result as in `ops_wave.superpose`.
    """
    return apply(variants_BLE, mask_BL, cu_seq_lens, operation, magnitude)
