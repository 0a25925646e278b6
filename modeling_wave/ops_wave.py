# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""The mathematics of the Wave Network, one function for each equation (arXiv 2411.02674, section 3; docs/maths.md).

A token is a complex number in each dimension, kept as a pair of real tensors (re, im). The real part is the token, `w`.
The imaginary part is its context, `c`: the norm of the other tokens of the text.

Shapes: B texts, L tokens, D dimensions, E = 2D. A suffix names the axes, `w_BLD`; `1` is an axis kept for broadcasting.
Texts come padded, (B, L) with a mask that is True at tokens, or packed: laid end to end in one row, B = 1, with N + 1
offsets `cu_seq_lens`. Text n then stands from `cu_seq_lens[n]` to `cu_seq_lens[n + 1]`.

This is the form to read. It defines what fused_wave.py, which is faster, is tested against.
"""

from typing import NamedTuple

import torch

# A text as a complex tensor: its real and its imaginary part, each of shape (B, L, D).
Wave = tuple[torch.Tensor, torch.Tensor]


class Summary(NamedTuple):
    """All that a token needs to know of its text, however long it is. The dominant token has the largest square."""

    top_B1D: torch.Tensor  # the square of the dominant token
    rest_B1D: torch.Tensor  # the sum of the squares of all other tokens
    place_B1D: torch.Tensor  # where the dominant token stands; among equals, one of them
    tokens_B11: torch.Tensor  # the number of tokens

    def move(self, by: int) -> "Summary":
        """The same summary for places counted from `by` tokens further left."""
        return self._replace(place_B1D=self.place_B1D + by)

    def halves(self) -> list["Summary"]:
        """The summaries of the first and of the second half of the dimensions."""
        top, rest, place = (part.chunk(2, dim=-1) for part in self[:3])
        return [Summary(top[half], rest[half], place[half], self.tokens_B11) for half in (0, 1)]


def widen(x: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
    """In float32 at least; with a mask, x is (B, L, D), and 0 at padding, whatever stands there."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x if mask_BL is None else x.masked_fill(~mask_BL[..., None], 0)


def summarise(square_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None) -> Summary:
    """The summary of a text, or of a part of it, from its squares."""
    place_B1D = square_BLD.detach().argmax(dim=1, keepdim=True)
    rest_B1D = square_BLD.scatter(1, place_B1D, 0).sum(dim=1, keepdim=True)
    is_token_BL = torch.ones_like(square_BLD[..., 0]) if mask_BL is None else mask_BL
    return Summary(square_BLD.gather(1, place_B1D), rest_B1D, place_B1D, is_token_BL.sum(dim=1)[:, None, None])


def merge(a: Summary, b: Summary) -> Summary:
    """The summary of two parts of a text together. The smaller top joins the rest; nothing is subtracted."""
    is_a = a.top_B1D >= b.top_B1D
    return Summary(
        a.top_B1D.where(is_a, b.top_B1D),
        a.rest_B1D + b.rest_B1D + b.top_B1D.where(is_a, a.top_B1D),
        a.place_B1D.where(is_a, b.place_B1D),
        a.tokens_B11 + b.tokens_B11,
    )


def context_norm(
    w_BLD: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
    summary: Summary | None = None,
) -> torch.Tensor:
    """
    The norm of the rest of the text, for each token and dimension (paper, fig. 4): `c_j = sqrt(sum_{m != j} w_m^2)`.

    `sqrt(G^2 - w_j^2)` loses every digit where one token dominates. With `top`, the largest square, and `rest`, the sum
    of the others, nothing cancels:

        c_d^2 = rest                   for the dominant token d, without a subtraction
        c_j^2 = (rest - w_j^2) + top   for the others, where w_j^2 <= top

    Args:
        w_BLD: Real token embeddings, of any floating dtype, shape (B, L, D). |w| in 1e-19 ... 1e18 is exact.
        mask_BL: True at tokens, shape (B, L). Padding enters no sum; its own `c` is the norm of the whole text.
        magnitude: "l2", or "rms": the root mean square of the n - 1 others, `c / sqrt(n - 1)`.
        cu_seq_lens: The offsets of packed texts, shape (N + 1,), instead of a mask.
        summary: The summary of the whole text, if `w_BLD` is a part of it. Places count from the start of the part.

    Returns:
        The context `c_BLD`, in the dtype of `w_BLD`. It is 0, with gradient 0, where no other token is.
    """
    if cu_seq_lens is not None:
        texts = w_BLD.split(cu_seq_lens.diff().tolist(), dim=1)
        return torch.cat([context_norm(text_1LD, None, magnitude) for text_1LD in texts if text_1LD.shape[1]], dim=1)
    square_BLD = widen(w_BLD, mask_BL).square()
    top_B1D, rest_B1D, place_B1D, tokens_B11 = summary or summarise(square_BLD, mask_BL)
    place_L1 = torch.arange(w_BLD.shape[1], device=w_BLD.device)[:, None]
    others_BLD = (rest_B1D - square_BLD) + top_B1D
    c_BLD = safe_sqrt(torch.where(place_L1 == place_B1D, rest_B1D, others_BLD))
    if magnitude == "rms":
        c_BLD = c_BLD / (tokens_B11 - 1).clamp(min=1).to(c_BLD.dtype).sqrt()
    return c_BLD.to(w_BLD.dtype)


def lift(w_BLD: torch.Tensor, mask_BL=None, magnitude="l2", cu_seq_lens=None, summary: Summary | None = None) -> Wave:
    """
    The complex token `Z_j = G exp(i alpha_j) = w_j + i c_j` (paper, eq. 1 to 3). Arguments as in `context_norm`. The
    real part of padding is 0, so that NaN or infinity there reaches no gradient.
    """
    re_BLD = w_BLD if mask_BL is None else w_BLD.masked_fill(~mask_BL[..., None], 0)
    return re_BLD, context_norm(w_BLD, mask_BL, magnitude, cu_seq_lens, summary)


def interference(z: Wave, z2: Wave) -> Wave:
    """The sum of two waves (paper, eq. 4): `Z + Z' = (w + w') + i (c + c')`. Parts of shape (B, L, D)."""
    (re, im), (re2, im2) = z, z2
    return re + re2, im + im2


def modulation(z: Wave, z2: Wave) -> Wave:
    """The product of two waves (paper, eq. 6 and 7): `Z Z' = (w w' - c c') + i (w c' + w' c)`. Parts (B, L, D)."""
    (re, im), (re2, im2) = z, z2
    return re * re2 - im * im2, re * im2 + re2 * im


OPERATIONS = {"interference": interference, "modulation": modulation}


def superpose(
    variants_BLE: torch.Tensor,
    mask_BL: torch.Tensor | None = None,
    operation: str = "modulation",
    magnitude: str = "l2",
    cu_seq_lens: torch.Tensor | None = None,
    summary: Summary | None = None,
) -> torch.Tensor:
    """
    Two real variants of each token, `concat(w, w')`, become waves and are superposed (paper, 3.2): `concat(re, im)`.

    `operation` is "modulation" or "interference". The other arguments are those of `context_norm`, the summary that of
    both variants side by side. Argument and result have the shape (B, L, 2D) and the same dtype.
    """
    summaries = [None, None] if summary is None else summary.halves()
    variants = zip(variants_BLE.chunk(2, dim=-1), summaries, strict=True)
    z, z2 = (lift(w_BLD, mask_BL, magnitude, cu_seq_lens, half) for w_BLD, half in variants)
    return torch.cat(OPERATIONS[operation](z, z2), dim=-1)


def amplitude(z: Wave) -> torch.Tensor:
    """`|Z| = sqrt(re^2 + im^2)`, shape (B, L, D), with gradient 0 at 0. No square overflows or vanishes."""
    re_BLD, im_BLD = map(widen, z)
    scale_BLD = torch.maximum(re_BLD.detach().abs(), im_BLD.detach().abs())
    scale_BLD = scale_BLD.masked_fill(scale_BLD == 0, 1)  # a constant for the gradient
    length_BLD = safe_sqrt((re_BLD / scale_BLD).square() + (im_BLD / scale_BLD).square())
    return (scale_BLD * length_BLD).to(z[0].dtype)


def safe_sqrt(x: torch.Tensor) -> torch.Tensor:
    """The square root, with gradient 0 at 0: the gradient of a norm is bounded there, but `1 / (2 sqrt(x))` is not."""
    is_zero = x == 0
    return x.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)


def index_texts(cu_seq_lens: torch.Tensor, length: int) -> torch.Tensor:
    """The number of the packed text, 0 ... N - 1, in which each of `length` places lies, shape (L,)."""
    return torch.bucketize(torch.arange(length, device=cu_seq_lens.device), cu_seq_lens[1:], right=True)
