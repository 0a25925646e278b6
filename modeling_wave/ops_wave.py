# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""The mathematics of the Wave Network, one function for each equation.

A token is a complex number in each dimension, kept as a pair of real tensors (re, im). Its real part is the token
itself, `w`; its imaginary part is its context `c`, the norm of the other tokens of the text. No complex dtype, arctan2,
sine, cosine or exponential is needed, and none is used: see docs/maths.md for the derivations, with the same letters.

Shapes: B texts, L tokens, D dimensions, E = 2D. A suffix names the axes, `w_BLD`; `1` is an axis kept for broadcasting.

Texts come padded, (B, L) with a mask, or packed: laid end to end in a batch of one row, B = 1, with the N + 1 offsets
`cu_seq_lens` between which each of the N texts lies, from 0 to L.

This is the form to read and to differentiate by autograd. fused_wave.py computes the same, faster.

Source: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), section 3. The exact form of the context norm
is this project's.
"""

from typing import NamedTuple

import torch

# A text as a complex tensor: its real and its imaginary part, each of shape (B, L, D).
Wave = tuple[torch.Tensor, torch.Tensor]


def context_norm(
    w_BLD: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The norm of the rest of the text, for each token and dimension (paper, fig. 4): `c_j = sqrt(sum_{m != j} w_m^2)`.

    Written as `sqrt(G^2 - w_j^2)` it loses every digit when one token dominates, and its gradient is NaN for a text of
    one token. So each column keeps two numbers, `top`, the largest square, and `rest`, the sum of the others:

        c_d^2 = rest                   for the dominant token d, without a subtraction
        c_j^2 = (rest - w_j^2) + top   for the others, where w_j^2 <= top rules out cancellation

    Sums run in float32 at least; squares must not overflow or vanish there, so |w| in 1e-19 ... 1e18 is exact.

    Args:
        w_BLD: Real token embeddings, of any floating dtype, shape (B, L, D).
        mask_BL: True at tokens, False at padding, shape (B, L). None: no padding. Padding is not part of the text: it
            enters no sum, and its own `c` is the norm of the whole text.
        magnitude: "l2", or "rms": the root mean square of the n - 1 other tokens, `c / sqrt(n - 1)`.
        cu_seq_lens: The offsets of packed texts, shape (N + 1,), integers. Instead of a mask.

    Returns:
        The context `c_BLD`, in the dtype of `w_BLD`. 0 where no other token is, with gradient 0.
    """
    if cu_seq_lens is not None:
        texts = w_BLD.split(cu_seq_lens.diff().tolist(), dim=1)
        return torch.cat([context_norm(text_1LD, None, magnitude) for text_1LD in texts if text_1LD.shape[1]], dim=1)
    if mask_BL is not None:
        w_BLD = w_BLD.masked_fill(~mask_BL[..., None], 0)
    square_BLD = w_BLD.to(torch.promote_types(w_BLD.dtype, torch.float32)).square()

    # Among equals, argmax picks one: exactly one token of each column is dominant.
    dominant_B1D = square_BLD.detach().argmax(dim=1, keepdim=True)
    top_B1D = square_BLD.gather(1, dominant_B1D)
    rest_B1D = square_BLD.scatter(1, dominant_B1D, 0).sum(dim=1, keepdim=True)
    c_BLD = safe_sqrt(((rest_B1D - square_BLD) + top_B1D).scatter(1, dominant_B1D, rest_B1D))

    if magnitude == "rms":
        present_BL1 = torch.ones_like(square_BLD[..., :1]) if mask_BL is None else mask_BL[..., None]
        others_B11 = (present_BL1.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        c_BLD = c_BLD / others_B11.to(c_BLD.dtype).sqrt()
    return c_BLD.to(w_BLD.dtype)


def lift(
    w_BLD: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
) -> Wave:
    """The complex token `Z_j = G exp(i alpha_j) = w_j + i c_j` (paper, eq. 1 to 3). Arguments as in `context_norm`.

    The real part of padding is 0, so that NaN or infinity there reaches no gradient through a product of waves.
    """
    if mask_BL is not None:
        w_BLD = w_BLD.masked_fill(~mask_BL[..., None], 0)
    return w_BLD, context_norm(w_BLD, mask_BL, magnitude, cu_seq_lens)


def interference(z: Wave, z2: Wave) -> Wave:
    """The sum of two waves (paper, eq. 4): `Z + Z' = (w + w') + i (c + c')`. Parts of shape (B, L, D)."""
    (re, im), (re2, im2) = z, z2
    return re + re2, im + im2


def modulation(z: Wave, z2: Wave) -> Wave:
    """The product of two waves (paper, eq. 6 and 7): `Z Z' = (w w' - c c') + i (w c' + w' c)`. Parts (B, L, D)."""
    (re, im), (re2, im2) = z, z2
    return re * re2 - im * im2, re * im2 + re2 * im


def amplitude(z: Wave) -> torch.Tensor:
    """
    The amplitude `|Z| = sqrt(re^2 + im^2)`, shape (B, L, D), without its phase. Gradient 0 at 0.

    The larger part is taken out of the root, so that no square overflows or vanishes, whatever the size of the parts.
    """
    re_BLD, im_BLD = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in z)
    # A constant for the gradient: the amplitude is the same whatever is taken out.
    scale_BLD = torch.maximum(re_BLD.detach().abs(), im_BLD.detach().abs())
    scale_BLD = scale_BLD.masked_fill(scale_BLD == 0, 1)
    length_BLD = safe_sqrt((re_BLD / scale_BLD).square() + (im_BLD / scale_BLD).square())
    return (scale_BLD * length_BLD).to(z[0].dtype)


def safe_sqrt(x: torch.Tensor) -> torch.Tensor:
    """The square root, with gradient 0 at 0: the gradient of a norm is bounded there, but `1 / (2 sqrt(x))` is not."""
    is_zero = x == 0
    return x.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)


def index_texts(cu_seq_lens: torch.Tensor, length: int) -> torch.Tensor:
    """The number of the packed text, 0 ... N - 1, in which each of so many places lies, shape (L,)."""
    return torch.bucketize(torch.arange(length, device=cu_seq_lens.device), cu_seq_lens[1:], right=True)


OPERATIONS = {"interference": interference, "modulation": modulation}


def superpose(
    variants_BLE: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    operation: str = "modulation",
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Two real variants of each token, w and w' side by side, become waves and are superposed (paper, 3.2).

    Args:
        variants_BLE: `concat(w, w')`, of any floating dtype, shape (B, L, 2D).
        operation: "modulation" or "interference".
        mask_BL, magnitude, cu_seq_lens: As in `context_norm`.

    Returns:
        `concat(re, im)`, shape (B, L, 2D), in the dtype of the variants.
    """
    z, z2 = (lift(w_BLD, mask_BL, magnitude, cu_seq_lens) for w_BLD in variants_BLE.chunk(2, dim=-1))
    return torch.cat(OPERATIONS[operation](z, z2), dim=-1)


# --- Documents of any length: read in chunks, twice -------------------------------------------------------------------


class Summary(NamedTuple):
    """What the waves of a text need to know of all its tokens: two numbers per column, however long it is."""

    top_B1E: torch.Tensor  # the largest square
    rest_B1E: torch.Tensor  # the sum of the others
    tokens_B11: torch.Tensor  # n


def summarise(variants_BLE: torch.Tensor, mask_BL: torch.Tensor | None = None) -> Summary:
    """The summary of a chunk of a text. Arguments as in `superpose`."""
    if mask_BL is None:
        mask_BL = torch.ones(variants_BLE.shape[:2], dtype=torch.bool, device=variants_BLE.device)
    w_BLE = variants_BLE.masked_fill(~mask_BL[..., None], 0)
    square_BLE = w_BLE.to(torch.promote_types(w_BLE.dtype, torch.float32)).square()
    top_B1E, dominant_B1E = square_BLE.max(dim=1, keepdim=True)
    rest_B1E = square_BLE.scatter_(1, dominant_B1E, 0).sum(dim=1, keepdim=True)
    return Summary(top_B1E, rest_B1E, mask_BL.sum(dim=1)[:, None, None])


def merge(first: Summary, second: Summary) -> Summary:
    """The summary of two chunks together. The smaller top joins the rest; nothing is subtracted."""
    return Summary(
        torch.maximum(first.top_B1E, second.top_B1E),
        first.rest_B1E + second.rest_B1E + torch.minimum(first.top_B1E, second.top_B1E),
        first.tokens_B11 + second.tokens_B11,
    )


def superpose_chunk(
    variants_BLE: torch.Tensor,
    summary: Summary,
    mask_BL: torch.Tensor | None = None,
    operation: str = "modulation",
    magnitude: str = "l2",
) -> torch.Tensor:
    """`superpose` for a chunk of a text, by the summary of the whole text. For inference: gradients need all of it."""
    if mask_BL is not None:
        variants_BLE = variants_BLE.masked_fill(~mask_BL[..., None], 0)
    square_BLE = variants_BLE.to(summary.top_B1E.dtype).square()
    # Where several tokens tie for the top, `rest` is right for each of them: the others hold the same square.
    others_BLE = (summary.rest_B1E - square_BLE) + summary.top_B1E
    c_BLE = torch.where(square_BLE == summary.top_B1E, summary.rest_B1E, others_BLE).sqrt()
    if magnitude == "rms":
        c_BLE = c_BLE / (summary.tokens_B11 - 1).clamp(min=1).to(c_BLE.dtype).sqrt()
    (w_BLD, w2_BLD), (c_BLD, c2_BLD) = variants_BLE.chunk(2, dim=-1), c_BLE.to(variants_BLE.dtype).chunk(2, dim=-1)
    return torch.cat(OPERATIONS[operation]((w_BLD, c_BLD), (w2_BLD, c2_BLD)), dim=-1)
