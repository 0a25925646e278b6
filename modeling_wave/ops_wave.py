# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""The mathematics of the Wave Network, one function for each equation.

A token is a complex number in each dimension, kept as a pair of real tensors (re, im). Its real part is the token
itself, `w`; its imaginary part is its context `c`, the norm of the other tokens of the text. No complex dtype, arctan2,
sine, cosine or exponential is needed, and none is used: see docs/maths.md for the derivations, with the same letters.

Shapes: B texts, L tokens, D dimensions. A suffix names the axes, `w_BLD`; `1` is an axis kept for broadcasting.

Source: *Wave Network: An Ultra-Small Language Model* (arXiv 2411.02674), section 3. The exact form of the context norm
is this project's.
"""

import torch

# A text as a complex tensor: its real and its imaginary part, each of shape (B, L, D).
Wave = tuple[torch.Tensor, torch.Tensor]


def context_norm(w_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None, magnitude: str = "l2") -> torch.Tensor:
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

    Returns:
        The context `c_BLD`, in the dtype of `w_BLD`. 0 where no other token is, with gradient 0.
    """
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


def lift(w_BLD: torch.Tensor, mask_BL: torch.Tensor | None = None, magnitude: str = "l2") -> Wave:
    """The complex token `Z_j = G exp(i alpha_j) = w_j + i c_j` (paper, eq. 1 to 3). Arguments as in `context_norm`.

    The real part of padding is 0, so that NaN or infinity there reaches no gradient through a product of waves.
    """
    if mask_BL is not None:
        w_BLD = w_BLD.masked_fill(~mask_BL[..., None], 0)
    return w_BLD, context_norm(w_BLD, mask_BL, magnitude)


def interference(z: Wave, z2: Wave) -> Wave:
    """The sum of two waves (paper, eq. 4): `Z + Z' = (w + w') + i (c + c')`. Parts of shape (B, L, D)."""
    (re, im), (re2, im2) = z, z2
    return re + re2, im + im2


def modulation(z: Wave, z2: Wave) -> Wave:
    """The product of two waves (paper, eq. 6 and 7): `Z Z' = (w w' - c c') + i (w c' + w' c)`. Parts (B, L, D)."""
    (re, im), (re2, im2) = z, z2
    return re * re2 - im * im2, re * im2 + re2 * im


def amplitude(z: Wave) -> torch.Tensor:
    """The amplitude `|Z| = sqrt(re^2 + im^2)`, shape (B, L, D), without its phase. Gradient 0 at 0."""
    squares = [part.to(torch.promote_types(part.dtype, torch.float32)).square() for part in z]
    return safe_sqrt(squares[0] + squares[1]).to(z[0].dtype)


def safe_sqrt(x: torch.Tensor) -> torch.Tensor:
    """The square root, with gradient 0 at 0: the gradient of a norm is bounded there, but `1 / (2 sqrt(x))` is not."""
    is_zero = x == 0
    return x.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)


OPERATIONS = {"interference": interference, "modulation": modulation}
