# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""`superpose` of ops_wave.py, fast: the same arguments and results, with a backward written by hand.

Everything here is one idea, the sum of the *other* tokens of a text, `others(x)_j = sum_{m != j} x_m`:

    forward    c = sqrt(others(w^2))
    backward   dL/dw = w * others(r), with r = (dL/dc) / c         (docs/maths.md, section 6)

Written as `sum(x) - x_j` it cancels for the dominant token of a column, the one with the largest square, and for no
other: see `sum_of_others`. Only `w` is kept for the backward.

There are two forms. The traced one consists of plain tensor operations: torch.compile fuses them, torch.export writes
them out, and every device runs them. The blocked one works on a few texts at a time, which stay in a CPU's cache.

Shapes as in ops_wave.py; "texts" are the rows of a padded batch or the stretches of a packed one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from . import ops_wave
from .ops_wave import index_texts, safe_sqrt, widen

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
        """The maximum over each text, likewise. The numbers must not be negative."""
        if self.text_L is None:
            return x_BLE.amax(dim=1, keepdim=True)
        zeros_BNE = x_BLE.new_zeros(x_BLE.shape[0], len(self.lengths_N), x_BLE.shape[2])
        return zeros_BNE.scatter_reduce(1, self.text_L[None, :, None].expand_as(x_BLE), x_BLE, "amax")[:, self.text_L]

    def scale(self, magnitude: str, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """The factor from the norm of the n - 1 other tokens to the magnitude: None for "l2", which is the norm."""
        if magnitude == "l2":
            return None
        if self.mask_BL1 is not None:
            tokens = self.mask_BL1.sum(dim=1, keepdim=True)
        elif self.text_L is not None:
            tokens = self.lengths_N[self.text_L][:, None]
        else:
            tokens = torch.full((1, 1, 1), self.length, device=device)
        return (tokens - 1).clamp(min=1).to(dtype).sqrt().reciprocal()


def sum_of_others(x_BLE: torch.Tensor, is_top_BLE: torch.Tensor, texts: Texts) -> torch.Tensor:
    """
    `sum_{m != j} x_m` within each text. The tops, the tokens with the largest square of their column (one, or several
    that tie), have a sum of their own. So a top is never subtracted from a sum in which it drowns the others, and a
    single top is subtracted only from itself, which gives exactly 0.
    """
    top_BLE = texts.sum(x_BLE.masked_fill(~is_top_BLE, 0))
    rest_BLE = texts.sum(x_BLE.masked_fill(is_top_BLE, 0))
    return torch.where(is_top_BLE, rest_BLE + (top_BLE - x_BLE), (rest_BLE - x_BLE) + top_BLE)


def context(w_BLE: torch.Tensor, texts: Texts) -> tuple[torch.Tensor, torch.Tensor]:
    """`c`, the norm of the others, and which tokens are tops."""
    square_BLE = w_BLE.square()
    is_top_BLE = square_BLE.detach() == texts.max(square_BLE.detach())
    return safe_sqrt(sum_of_others(square_BLE, is_top_BLE, texts)), is_top_BLE


def times(x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return x if scale is None else x * scale


def divide(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """`x / c`, and 0 where c is 0: all other tokens are 0 there, and the gradient with them."""
    is_zero = c == 0
    return (x / c.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)


def combine(w_BLE: torch.Tensor, c_BLE: torch.Tensor, operation: str) -> torch.Tensor:
    """`concat(re, im)` of the waves `w + i c` and `w' + i c'` superposed (paper, eq. 4, 6, 7)."""
    (w, w2), (c, c2) = w_BLE.chunk(2, dim=-1), c_BLE.chunk(2, dim=-1)
    if operation == "interference":
        return torch.cat([w + w2, c + c2], dim=-1)
    return torch.cat([torch.addcmul(w * w2, c, c2, value=-1), torch.addcmul(w * c2, w2, c)], dim=-1)


def pull_back(
    grad_BLE: torch.Tensor, w_BLE: torch.Tensor, c_BLE: torch.Tensor, operation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the gradient of `combine` to those of its w and its c."""
    p, q = grad_BLE.chunk(2, dim=-1)
    if operation == "interference":
        return torch.cat([p, p], dim=-1), torch.cat([q, q], dim=-1)
    (w, w2), (c, c2) = w_BLE.chunk(2, dim=-1), c_BLE.chunk(2, dim=-1)
    of_w = torch.cat([torch.addcmul(w2 * p, c2, q), torch.addcmul(w * p, c, q)], dim=-1)
    of_c = torch.cat([torch.addcmul(w2 * q, c2, p, value=-1), torch.addcmul(w * q, c, p, value=-1)], dim=-1)
    return of_w, of_c


# --- The traced form --------------------------------------------------------------------------------------------------


def forward_traced(x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    w_BLE, texts = widen(x_BLE, mask_BL), Texts(x_BLE, mask_BL, cu_seq_lens)
    c_BLE, _ = context(w_BLE, texts)
    scale = texts.scale(magnitude, w_BLE.dtype, w_BLE.device)
    return combine(w_BLE, times(c_BLE, scale), operation).to(x_BLE.dtype)


def backward_traced(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    w_BLE, texts = widen(x_BLE, mask_BL), Texts(x_BLE, mask_BL, cu_seq_lens)
    c_BLE, is_top_BLE = context(w_BLE, texts)
    scale = texts.scale(magnitude, w_BLE.dtype, w_BLE.device)
    of_w_BLE, of_c_BLE = pull_back(grad_BLE.to(w_BLE.dtype), w_BLE, times(c_BLE, scale), operation)
    r_BLE = divide(times(of_c_BLE, scale), c_BLE)
    return widen(of_w_BLE + w_BLE * sum_of_others(r_BLE, is_top_BLE, texts), mask_BL).to(x_BLE.dtype)


# --- The blocked form, on a CPU ---------------------------------------------------------------------------------------

# How many numbers a block has. With all that is computed from them they stay in the cache.
BLOCK = 2**19
# Up to this many numbers of padding cost less than a block more.
PADDING = 2**15
# The sum of the other squares is found by subtraction where each token holds less than this share of the total: HALF
# in the dtype of the numbers, NEARLY_ALL in float64 for numbers of half its digits, which can lose 20 bits.
HALF, NEARLY_ALL = 0.5, 1 - 2**-20


def forward_blocked(x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    out_BLE = torch.empty(x_BLE.shape, dtype=x_BLE.dtype)
    for mask, out, x in blocks(mask_BL, cu_seq_lens, out_BLE, x_BLE):
        compute_block((subtract_forward, forward_traced), [x], mask, operation, magnitude, out)
    return out_BLE


def backward_blocked(grad_BLE, x_BLE, mask_BL, cu_seq_lens, operation: str, magnitude: str) -> torch.Tensor:
    out_BLE = torch.empty(x_BLE.shape, dtype=x_BLE.dtype)
    for mask, out, grad, x in blocks(mask_BL, cu_seq_lens, out_BLE, grad_BLE, x_BLE):
        compute_block((subtract_backward, backward_traced), [grad, x], mask, operation, magnitude, out)
        if mask is not None:
            out.view(-1, out.shape[2]).index_fill_(0, (~mask).flatten().nonzero()[:, 0], 0)
    return out_BLE


def blocks(
    mask_BL: torch.Tensor | None, cu_seq_lens: torch.Tensor | None, out_BLE: torch.Tensor, *inputs: torch.Tensor
) -> Iterator[tuple]:
    """
    A few whole texts at a time, about BLOCK numbers: their mask, the part of the result to fill, and their part of each
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
            # Neighbours of one length are a block without being copied.
            some = slice(int(starts_N[first]), int(starts_N[first]) + count * longest)
            yield None, *(x_BLE[0, some].unflatten(0, (count, longest)) for x_BLE in (out_BLE, *inputs))
            continue
        place_L = torch.arange(longest)
        keep_KL = place_L < lengths_N[texts][:, None]
        places_KL = starts_N[texts][:, None] + place_L * keep_KL  # at padding the place of the first token
        out_KLE = out_BLE.new_empty(*places_KL.shape, width)
        taken = [torch.nn.functional.embedding(places_KL, x_BLE[0]) for x_BLE in inputs]
        yield keep_KL, out_KLE, *(x_KLE.masked_fill_(~keep_KL[..., None], 0) for x_KLE in taken)
        # The caller has filled this block when it asks for the next one.
        kept_T = keep_KL.flatten().nonzero()[:, 0]
        out_BLE[0].index_copy_(0, places_KL.flatten()[kept_T], out_KLE.flatten(0, 1).index_select(0, kept_T))


def group_by_length(lengths: list[int], width: int) -> Iterator[tuple[list[int], int]]:
    """Packed texts of about one length, which are padded and computed together, and the length of the longest."""
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
    """The tokens of a block: in one piece, unless a single text is longer than a block."""
    rows, length, width = x_BLE.shape
    step = max(1, BLOCK // (rows * width))
    return [slice(start, start + step) for start in range(0, length, step)]


def widen_piece(x_BLE: torch.Tensor, texts: Texts, piece: slice) -> torch.Tensor:
    """`widen` by a product, which is much faster. Infinity and NaN at padding become NaN, and `measure` finds it."""
    x_BLE = widen(x_BLE[:, piece])
    return x_BLE if texts.mask_BL1 is None else x_BLE * texts.mask_BL1[:, piece]


def compute_block(forms, inputs, mask_BL, operation: str, magnitude: str, out_BLE, most: float = HALF) -> None:
    """Fills in the block by subtraction, the first of two forms; what is inexact then in float64, or by the second."""
    x_BLE, texts = inputs[-1], Texts(inputs[-1], mask_BL, None)
    total_B1E, inexact = measure(x_BLE, texts, most)
    if inexact is None or inexact.some is not None:
        scale = texts.scale(magnitude, total_B1E.dtype, total_B1E.device)
        forms[0](*inputs, texts, total_B1E, operation, scale, out_BLE)
    if inexact is not None:
        taken, mask_KL = [inexact.take(each_BLE) for each_BLE in inputs], inexact.take_mask(mask_BL)
        if x_BLE.dtype == torch.float64:
            out_KLC = forms[1](*taken, mask_KL, None, operation, magnitude)
        else:
            out_KLC = torch.empty_like(taken[-1])
            compute_block(forms, taken, mask_KL, operation, magnitude, out_KLC, NEARLY_ALL)
        inexact.put(out_BLE, out_KLC)


def subtract_forward(x_BLE, texts: Texts, total_B1E, operation: str, scale, out_BLE) -> None:
    for piece in pieces(x_BLE):
        w_BLE = widen_piece(x_BLE, texts, piece)
        c_BLE = torch.sub(total_B1E, w_BLE * w_BLE).sqrt_()
        out_BLE[:, piece] = combine(w_BLE, times(c_BLE, scale), operation)


def subtract_backward(grad_BLE, x_BLE, texts: Texts, total_B1E, operation: str, scale, out_BLE) -> None:
    parts = []
    for piece in pieces(x_BLE):
        w_BLE = widen_piece(x_BLE, texts, piece)
        c_BLE = torch.sub(total_B1E, w_BLE * w_BLE).sqrt_()
        of_w_BLE, of_c_BLE = pull_back(grad_BLE[:, piece].to(w_BLE.dtype), w_BLE, times(c_BLE, scale), operation)
        r_BLE = torch.div(times(of_c_BLE, scale), c_BLE, out=c_BLE)
        parts.append((w_BLE, of_w_BLE, r_BLE))
    r_B1E = torch.stack([r_BLE.sum(dim=1, keepdim=True) for _, _, r_BLE in parts]).sum(dim=0)
    for piece, (w_BLE, of_w_BLE, r_BLE) in zip(pieces(x_BLE), parts, strict=True):
        out_BLE[:, piece] = of_w_BLE.addcmul_(w_BLE, torch.sub(r_B1E, r_BLE, out=r_BLE))


class Inexact(NamedTuple):
    """Where `total - w_j^2` is not exact. It is computed there in float64, and in the traced form if that fails too."""

    # An index of K pairs of a text and its column (of both variants), or None: everywhere.
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


def measure(x_BLE: torch.Tensor, texts: Texts, most: float) -> tuple[torch.Tensor, Inexact | None]:
    """
    The sum of squares of each text and column, and where `total - w_j^2` is not exact: where a token holds `most` of
    the total or more, which is common only in texts of a few tokens, and where squares overflow or may have vanished.
    """
    totals, tops = [], []
    for piece in pieces(x_BLE):
        w_BLE = widen_piece(x_BLE, texts, piece)
        square_BLE = w_BLE * w_BLE
        totals.append(square_BLE.sum(dim=1, keepdim=True))
        tops.append(square_BLE.amax(dim=1, keepdim=True))
    total_B1E, top_B1E = torch.stack(totals).sum(dim=0), torch.stack(tops).amax(dim=0)

    limits = torch.finfo(total_B1E.dtype)
    is_exact_B1E = (top_B1E < most * total_B1E) & (total_B1E < torch.inf) & (top_B1E > limits.tiny / limits.eps**2)
    is_inexact_BE = ~is_exact_B1E[:, 0]
    count = int(is_inexact_BE.sum())
    if count == 0:
        return total_B1E, None
    if count > is_inexact_BE.numel() // 16:
        return total_B1E, Inexact(None)
    is_inexact_BD = torch.logical_or(*is_inexact_BE.chunk(2, dim=1))
    rows_K, columns_K = is_inexact_BD.nonzero(as_tuple=True)
    columns_KC = torch.stack([columns_K, columns_K + is_inexact_BD.shape[1]], dim=1)
    return total_B1E, Inexact((rows_K[:, None], slice(None), columns_KC))


# --- The differentiable operation -------------------------------------------------------------------------------------


def is_traced() -> bool:
    """Whether tensors stand for others: in torch.compile, torch.export, torch.jit.trace or a torch.func transform."""
    is_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return is_graph or torch._C._are_functorch_transforms_active()


def has_transform(x_BLE: torch.Tensor) -> bool:
    """Whether a transform of torch.func or a forward-mode gradient is at work. Both want plain operations."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad.unpack_dual(x_BLE).tangent is not None


def is_blocked(x_BLE: torch.Tensor) -> bool:
    """Whether the blocked form takes this tensor: a plain one on a CPU."""
    return not is_traced() and type(x_BLE) in (torch.Tensor, torch.nn.Parameter) and x_BLE.device.type == "cpu"


def clear_padding(x_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """0 at padding, whatever stands there, shape (B, L, D)."""
    if not is_blocked(x_BLD):
        return x_BLD.masked_fill(~mask_BL[..., None], 0)
    padding_K = (~mask_BL).flatten().nonzero()[:, 0]  # on a CPU much faster than a masked fill
    return x_BLD.flatten(0, 1).index_fill(0, padding_K, 0).view(x_BLD.shape)


class Operation(torch.autograd.Function):
    """The forward and the backward written by hand."""

    @staticmethod
    def forward(x_BLE, mask_BL, cu_seq_lens, operation, magnitude):
        form = forward_blocked if is_blocked(x_BLE) else forward_traced
        return form(x_BLE, mask_BL, cu_seq_lens, operation, magnitude)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x_BLE, mask_BL, cu_seq_lens, ctx.operation, ctx.magnitude = inputs
        ctx.save_for_backward(x_BLE, mask_BL, cu_seq_lens)

    @staticmethod
    def backward(ctx, grad_BLE):
        # With gradients enabled this backward is differentiated again.
        is_final = is_blocked(grad_BLE) and not torch.is_grad_enabled()
        form = backward_blocked if is_final else backward_traced
        return form(grad_BLE, *ctx.saved_tensors, ctx.operation, ctx.magnitude), None, None, None, None


def superpose(
    variants_BLE: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    operation: str = "modulation",
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Two real variants of each token, (B, L, 2D), superposed as waves, `concat(re, im)` of the same shape (paper, eq. 4,
    6 and 7): arguments and result as in `ops_wave.superpose`. On a CPU, without a compiler, the contexts are exact for
    every finite number in float32 and less. A graph is written out, and transforms see plain operations.
    """
    if has_transform(variants_BLE):
        return ops_wave.superpose(variants_BLE, mask_BL, operation, magnitude, cu_seq_lens)
    needs_grad = torch.is_grad_enabled() and variants_BLE.requires_grad
    is_written_out = torch.compiler.is_exporting() or torch.jit.is_tracing()
    is_plain = is_written_out or (torch.compiler.is_compiling() and not needs_grad)
    form = forward_traced if is_plain else Operation.apply
    return form(variants_BLE, mask_BL, cu_seq_lens, operation, magnitude)
