# Copyright 2026 The wave-network maintainers. Licensed under the Apache License, Version 2.0.
"""CUDA kernels of the lift and the superposition in one pass over memory, forward and backward, written in Triton.

The mathematics is that of ops_wave.py, with the same letters; docs/maths.md derives it. `w2` is the paper's w'.

Texts lie end to end, without a batch axis: text n holds the rows cu_seq_lens[n] ... cu_seq_lens[n + 1] - 1. Shapes: T
rows in all, N texts, D dimensions, E = 2 D (the two variants, or the two parts, side by side); inside a kernel, L rows
and D columns of one tile. Columns do not mix, so a program owns a block of columns, and of rows

- a whole text, where its tile fits in registers: everything is read once and written once;
- else a chunk of a text, so that one long text fills the GPU. Kernels before it leave two numbers per column and chunk
  in a small buffer, and a kernel merges those of each text. Nothing is atomic: the same input gives the same bits.

The number of texts and chunks is known on the host without reading cu_seq_lens, so no call waits for the GPU.
"""

import torch

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("triton_wave.py needs triton, which comes with PyTorch for CUDA: pip install triton") from error

# --- What fits where -------------------------------------------------------------------------------------------------

# An SM has 65536 registers of 32 bits. The forward holds two tensors and the backward four, and as much again is at
# work on them. With tiles of so many elements and 128 registers a thread, two programs share an SM: one computes while
# the other waits for memory.
TILE = 4096
# A whole text may take a larger tile, alone on its SM and with some registers spilled to L1: that still costs less than
# reading everything twice (forward) or three times (backward), as chunks do.
WHOLE_FORWARD = 16384
WHOLE_BACKWARD = 8192
# A tile of short texts widens up to this many elements, so that each program has some work.
SMALL = 2048
# Rows of a chunk. Its two numbers for each column are 2 to 3 % of what it reads.
CHUNK = 128
# Chunks that the merge reads at once.
MERGE = 64
# Memory comes in lines of 128 bytes, made of sectors of 32. Half lines are as fast where the neighbouring program reads
# the other half at about the same time; sectors somewhat slower.
LINE, HALF_LINE, SECTOR = 128, 64, 32


def choose_tile(max_length: int, width: int, size: int, limit: int) -> tuple[bool, int, int, int]:
    """Whether a program takes a whole text, the rows and columns of its tile, and its warps. The only heuristic here.

    `size` is that of an element in bytes. A thread holds 16 elements of each tensor.
    """
    tile, limit = (TILE, limit) if size < 8 else (TILE // 2, limit // 2)  # float64 takes two registers
    rows = triton.next_power_of_2(max(max_length, 1))
    columns = max(LINE // size, SMALL // rows)
    for elements, least in ((tile, HALF_LINE), (limit, SECTOR)):
        while rows * columns > elements and columns > least // size:
            columns //= 2
    columns = min(columns, triton.next_power_of_2(width))
    whole = rows * columns <= limit
    if not whole:
        rows, columns = CHUNK, min(max(tile // CHUNK, 1), triton.next_power_of_2(width))
    return whole, rows, columns, min(max(rows * columns // 512, 1), 16)


# --- Parts of the kernels --------------------------------------------------------------------------------------------


@triton.jit
def find_program(cu_seq_lens, texts, width, WHOLE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr):
    """What this program works on: its text, the text's first row and end, its own first row, its number, its columns.

    Chunks are numbered so that those of text n begin at `cu_seq_lens[n] // BLOCK_L + n`: room for each of them, the
    last and shorter ones too, without a sum over the texts. A number without a chunk begins at the text's end or later.
    """
    blocks = tl.cdiv(width, BLOCK_D)
    column_D = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)  # fastest, as in memory
    number = tl.program_id(0) // blocks
    if WHOLE:
        text = number
        begin = tl.load(cu_seq_lens + text).to(tl.int64)
        start = begin
    else:
        text, after = number * 0, texts  # halving for the last text that begins at this number or before it
        while after - text > 1:
            middle = (text + after) // 2
            begun = tl.load(cu_seq_lens + middle) // BLOCK_L + middle <= number
            text = tl.where(begun, middle, text)
            after = tl.where(begun, after, middle)
        begin = tl.load(cu_seq_lens + text).to(tl.int64)
        start = begin + (number - (begin // BLOCK_L + text)) * BLOCK_L
    return text, begin, tl.load(cu_seq_lens + text + 1).to(tl.int64), start, number, column_D


@triton.jit
def find_rows(start, end, keep_T, HAS_KEEP: tl.constexpr, BLOCK_L: tl.constexpr):
    """The rows of the tile, which of them are in the text, and which of those are tokens, not padding."""
    row_L = start + tl.arange(0, BLOCK_L)
    inside_L = row_L < end
    kept_L = inside_L
    if HAS_KEEP:
        kept_L = tl.load(keep_T + row_L, mask=inside_L, other=0) != 0
    return row_L, inside_L, kept_L


@triton.jit
def load_tile(x, row_L, column_D, allowed_L, stride, width, ACC: tl.constexpr):
    """A tile in the dtype of the sums. Rows that are not allowed are 0 and are not read."""
    allowed_LD = allowed_L[:, None] & (column_D < width)[None, :]
    return tl.load(x + row_L[:, None] * stride + column_D[None, :], mask=allowed_LD, other=0).to(ACC)


@triton.jit
def store_tile(x, value_LD, row_L, column_D, allowed_L, stride, width):
    allowed_LD = allowed_L[:, None] & (column_D < width)[None, :]
    value_LD = value_LD.to(x.dtype.element_ty)
    tl.store(x + row_L[:, None] * stride + column_D[None, :], value_LD, mask=allowed_LD)


@triton.jit
def load_pair(x, index, column_D, width, stride):
    """The two numbers of each column at [index, 0] and [index, 1] of a buffer of shape (..., 2, stride)."""
    x += index.to(tl.int64) * 2 * stride + column_D
    return tl.load(x, mask=column_D < width, other=0), tl.load(x + stride, mask=column_D < width, other=0)


@triton.jit
def store_pair(x, a_D, b_D, index, column_D, width, stride):
    x += index.to(tl.int64) * 2 * stride + column_D
    tl.store(x, a_D, mask=column_D < width)
    tl.store(x + stride, b_D, mask=column_D < width)


@triton.jit
def merge(top, rest, top2, rest2):
    """One pair (largest, sum of the others) from two. Nothing is subtracted, so nothing cancels. NaN stays NaN."""
    larger = tl.maximum(top, top2, propagate_nan=tl.PropagateNan.ALL)
    return larger, (rest + rest2) + tl.minimum(top, top2)


@triton.jit
def extremes(e_LD):
    """`top`, the largest of each column, and `rest`, the sum of all but one of the largest."""
    return tl.reduce((e_LD, tl.zeros_like(e_LD)), 0, merge)


@triton.jit
def squares_of_others(e_LD, top_D, rest_D):
    """`c_j^2 = sum_{m != j} e_m`, and where the largest e are."""
    is_top_LD = e_LD == top_D[None, :]
    return tl.where(is_top_LD, rest_D[None, :], (rest_D[None, :] - e_LD) + top_D[None, :]), is_top_LD


@triton.jit
def root(square_LD, EXACT: tl.constexpr):
    """Correctly rounded if EXACT: on a GPU, plain `sqrt` of float32 is an approximation, good enough for 16 bits."""
    if EXACT and square_LD.dtype == tl.float32:
        return tl.sqrt_rn(square_LD)
    else:
        return tl.sqrt(square_LD)


@triton.jit
def inverse_root(square_LD):
    """`1 / c`, on a GPU to 2e-7; 0 where no other token is. What is below the normal numbers of float32 counts as 0."""
    return tl.where(square_LD < 1.2e-38, 0.0, tl.rsqrt(square_LD))


@triton.jit
def rms_factor(kept_N, text, begin, end, kept_L, HAS_KEEP: tl.constexpr, WHOLE: tl.constexpr, ACC: tl.constexpr):
    """`1 / sqrt(n - 1)` for a text of n tokens, at most 1."""
    if not HAS_KEEP:
        tokens = end - begin
    elif WHOLE:
        tokens = tl.sum(kept_L.to(tl.int64), axis=0)
    else:
        tokens = tl.load(kept_N + text)
    return (1 / tl.sqrt(tl.maximum(tokens - 1, 1).to(tl.float64))).to(ACC)  # one number: float64 costs nothing


@triton.jit
def add(a, b, a2, b2):
    return a + a2, b + b2


@triton.jit
def sums_of_pulls(r_LD, is_top_LD):
    """The sum of r over the largest tokens of a column, and over all others."""
    return tl.reduce((tl.where(is_top_LD, r_LD, 0.0), tl.where(is_top_LD, 0.0, r_LD)), 0, add)


@triton.jit
def pulled(r_LD, is_top_LD, r_top_D, r_ex_D):
    """`sum_{j != m} r_j`. The r of the largest may be huge. Kept apart, it leaves itself as exactly 0."""
    r_top_LD, r_ex_LD = r_top_D[None, :], r_ex_D[None, :]
    return tl.where(is_top_LD, r_ex_LD + (r_top_LD - r_LD), (r_ex_LD - r_LD) + r_top_LD)


# --- The kernels -----------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["texts"])
def extremes_kernel(
    partial_S2E,  # out: top and rest of each chunk
    w_TE,
    cu_seq_lens,
    keep_T,
    texts,
    stride,
    width,
    HAS_KEEP: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """`top = max e` and `rest = sum e - top` of each chunk and column, for `e = w^2`."""
    _, _, end, start, number, column_D = find_program(cu_seq_lens, texts, width, False, BLOCK_L, BLOCK_D)
    row_L, _, kept_L = find_rows(start, end, keep_T, HAS_KEEP, BLOCK_L)
    w_LD = load_tile(w_TE, row_L, column_D, kept_L, stride, width, ACC)
    top_D, rest_D = extremes(w_LD * w_LD)
    store_pair(partial_S2E, top_D, rest_D, number, column_D, width, width)


@triton.jit(do_not_specialize=["texts"])
def merge_kernel(
    merged_N2E,  # out
    partial_S2E,
    cu_seq_lens,
    texts,
    width,
    EXTREMES: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """The chunks of each text, S of them, in one: `merge((t1, r1), (t2, r2)) = (max(t1, t2), r1 + r2 + min(t1, t2))`
    for extremes, or two plain sums."""
    text, begin, end, _, _, column_D = find_program(cu_seq_lens, texts, width, True, BLOCK_S, BLOCK_D)
    first = begin // CHUNK + text
    chunks = tl.cdiv(end - begin, CHUNK)
    a_D = tl.zeros([BLOCK_D], ACC)
    b_D = tl.zeros([BLOCK_D], ACC)
    for step in range(0, chunks, BLOCK_S):
        chunk_S = step + tl.arange(0, BLOCK_S)
        there_S = chunk_S < chunks
        a_SD = load_tile(partial_S2E, first + chunk_S, column_D, there_S, 2 * width, width, ACC)
        b_SD = load_tile(partial_S2E + width, first + chunk_S, column_D, there_S, 2 * width, width, ACC)
        if EXTREMES:
            more_a_D, more_b_D = tl.reduce((a_SD, b_SD), 0, merge)
            a_D, b_D = merge(a_D, b_D, more_a_D, more_b_D)
        else:
            more_a_D, more_b_D = tl.reduce((a_SD, b_SD), 0, add)
            a_D, b_D = add(a_D, b_D, more_a_D, more_b_D)
    store_pair(merged_N2E, a_D, b_D, text, column_D, width, width)


@triton.jit(do_not_specialize=["texts"])
def forward_kernel(
    out,  # (T, 2D): re and im; (T, D): c
    w_TE,
    cu_seq_lens,
    keep_T,
    extremes_N2E,
    kept_N,
    texts,
    stride,
    width,
    OPERATION: tl.constexpr,
    RMS: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
    EXACT: tl.constexpr,
):
    """context: `c`; interference: `re = w + w2, im = c + c2`; modulation: `re = w w2 - c c2, im = w c2 + w2 c`."""
    columns = width if OPERATION == "context" else 2 * width
    text, begin, end, start, _, column_D = find_program(cu_seq_lens, texts, width, WHOLE, BLOCK_L, BLOCK_D)
    row_L, inside_L, kept_L = find_rows(start, end, keep_T, HAS_KEEP, BLOCK_L)

    w_LD = load_tile(w_TE, row_L, column_D, kept_L, stride, width, ACC)
    if WHOLE:
        top_D, rest_D = extremes(w_LD * w_LD)
    else:
        top_D, rest_D = load_pair(extremes_N2E, text, column_D, width, columns)
    c_LD = root(squares_of_others(w_LD * w_LD, top_D, rest_D)[0], EXACT)
    if OPERATION != "context":
        w2_LD = load_tile(w_TE + width, row_L, column_D, kept_L, stride, width, ACC)
        if WHOLE:
            top2_D, rest2_D = extremes(w2_LD * w2_LD)
        else:
            top2_D, rest2_D = load_pair(extremes_N2E + width, text, column_D, width, columns)
        c2_LD = root(squares_of_others(w2_LD * w2_LD, top2_D, rest2_D)[0], EXACT)
    if RMS:
        factor = rms_factor(kept_N, text, begin, end, kept_L, HAS_KEEP, WHOLE, ACC)
        c_LD *= factor
        if OPERATION != "context":
            c2_LD *= factor

    if OPERATION == "context":
        store_tile(out, c_LD, row_L, column_D, inside_L, columns, width)
    else:
        if OPERATION == "interference":
            re_LD = w_LD + w2_LD
            im_LD = c_LD + c2_LD
        else:
            re_LD = w_LD * w2_LD - c_LD * c2_LD
            im_LD = w_LD * c2_LD + w2_LD * c_LD
        store_tile(out, re_LD, row_L, column_D, inside_L, columns, width)
        store_tile(out + width, im_LD, row_L, column_D, inside_L, columns, width)


@triton.jit(do_not_specialize=["texts"])
def backward_kernel(
    out,  # the gradient of w_TE, of the same shape; with SUMS the sums of pulls of each chunk (S, 2, E)
    grad_TE,
    w_TE,
    cu_seq_lens,
    keep_T,
    extremes_N2E,
    pulls_N2E,
    kept_N,
    texts,
    grad_stride,
    stride,
    width,
    OPERATION: tl.constexpr,
    RMS: tl.constexpr,
    HAS_KEEP: tl.constexpr,
    WHOLE: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ACC: tl.constexpr,
):
    """`dw_m = d_m + w_m sum_{j != m} r_j` with `r = g / c`, from the gradients p of re and q of im (q alone for c):

    context:       d = 0,           g = q
    interference:  d = p,           g = q,           and the same for w2
    modulation:    d = w2 p + c2 q, g = w2 q - c2 p, and d2 = w p + c q, g2 = w q - c p

    Padding has w = 0 and gradient 0, but a context, and so an r.
    """
    columns = width if OPERATION == "context" else 2 * width
    text, begin, end, start, number, column_D = find_program(cu_seq_lens, texts, width, WHOLE, BLOCK_L, BLOCK_D)
    row_L, inside_L, kept_L = find_rows(start, end, keep_T, HAS_KEEP, BLOCK_L)
    if RMS:
        factor = rms_factor(kept_N, text, begin, end, kept_L, HAS_KEEP, WHOLE, ACC)

    w_LD = load_tile(w_TE, row_L, column_D, kept_L, stride, width, ACC)
    if WHOLE:
        top_D, rest_D = extremes(w_LD * w_LD)
    else:
        top_D, rest_D = load_pair(extremes_N2E, text, column_D, width, columns)
    square_LD, is_top_LD = squares_of_others(w_LD * w_LD, top_D, rest_D)
    inverse_LD = inverse_root(square_LD)
    if OPERATION == "context":
        g_LD = load_tile(grad_TE, row_L, column_D, inside_L, grad_stride, width, ACC)
        d_LD = tl.zeros_like(w_LD)
    else:
        w2_LD = load_tile(w_TE + width, row_L, column_D, kept_L, stride, width, ACC)
        if WHOLE:
            top2_D, rest2_D = extremes(w2_LD * w2_LD)
        else:
            top2_D, rest2_D = load_pair(extremes_N2E + width, text, column_D, width, columns)
        square2_LD, is_top2_LD = squares_of_others(w2_LD * w2_LD, top2_D, rest2_D)
        inverse2_LD = inverse_root(square2_LD)
        p_LD = load_tile(grad_TE, row_L, column_D, inside_L, grad_stride, width, ACC)
        q_LD = load_tile(grad_TE + width, row_L, column_D, inside_L, grad_stride, width, ACC)
        if OPERATION == "interference":
            d_LD = p_LD
            d2_LD = p_LD
            g_LD = q_LD
            g2_LD = q_LD
        else:
            c_LD = square_LD * inverse_LD
            c2_LD = square2_LD * inverse2_LD
            if RMS:
                c_LD *= factor
                c2_LD *= factor
            d_LD = tl.fma(c2_LD, q_LD, w2_LD * p_LD)
            g_LD = tl.fma(w2_LD, q_LD, -(c2_LD * p_LD))
            d2_LD = tl.fma(c_LD, q_LD, w_LD * p_LD)
            g2_LD = tl.fma(w_LD, q_LD, -(c_LD * p_LD))
        r2_LD = g2_LD * inverse2_LD
        if RMS:
            r2_LD *= factor
    r_LD = g_LD * inverse_LD
    if RMS:
        r_LD *= factor

    if WHOLE or SUMS:
        r_top_D, r_ex_D = sums_of_pulls(r_LD, is_top_LD)
    else:
        r_top_D, r_ex_D = load_pair(pulls_N2E, text, column_D, width, columns)
    if SUMS:
        store_pair(out, r_top_D, r_ex_D, number, column_D, width, columns)
    else:
        dw_LD = tl.fma(w_LD, pulled(r_LD, is_top_LD, r_top_D, r_ex_D), d_LD)
        if HAS_KEEP:
            dw_LD = tl.where(kept_L[:, None], dw_LD, 0.0)
        store_tile(out, dw_LD, row_L, column_D, inside_L, columns, width)

    if OPERATION != "context":
        if WHOLE or SUMS:
            r_top2_D, r_ex2_D = sums_of_pulls(r2_LD, is_top2_LD)
        else:
            r_top2_D, r_ex2_D = load_pair(pulls_N2E + width, text, column_D, width, columns)
        if SUMS:
            store_pair(out + width, r_top2_D, r_ex2_D, number, column_D, width, columns)
        else:
            dw2_LD = tl.fma(w2_LD, pulled(r2_LD, is_top2_LD, r_top2_D, r_ex2_D), d2_LD)
            if HAS_KEEP:
                dw2_LD = tl.where(kept_L[:, None], dw2_LD, 0.0)
            store_tile(out + width, dw2_LD, row_L, column_D, inside_L, columns, width)


# --- Launching them --------------------------------------------------------------------------------------------------


class Plan:
    """How one call is cut into programs, and what all its kernels are given."""

    def __init__(self, w_TE, cu_seq_lens, keep_T, operation: str, magnitude: str, max_length: int, limit: int):
        if operation not in ("context", "interference", "modulation") or magnitude not in ("l2", "rms"):
            raise ValueError(f"no kernel for operation {operation!r} with magnitude {magnitude!r}")
        self.w_TE = w_TE if w_TE.stride(1) == 1 else w_TE.contiguous()
        self.cu_seq_lens = cu_seq_lens.contiguous()
        self.keep_T = None if keep_T is None else keep_T.contiguous().view(torch.uint8)
        self.texts = cu_seq_lens.numel() - 1
        tokens, self.columns = w_TE.shape
        self.width = self.columns if operation == "context" else self.columns // 2

        size = w_TE.element_size()
        self.whole, rows, self.block, warps = choose_tile(min(max_length, tokens), self.width, size, limit)
        self.chunks = tokens // rows + self.texts  # as `find_program` numbers them
        self.acc = torch.promote_types(w_TE.dtype, torch.float32)
        # `r` has to have the same bits wherever it is computed: the compiler may not fuse a product into a sum in one
        # place and not in the other. (Where fusing is good, the kernel says so, with `fma`.)
        self.options = {"num_warps": warps, "enable_fp_fusion": False, "maxnreg": 128}
        self.tile = {"BLOCK_D": self.block, "ACC": tl.float64 if self.acc == torch.float64 else tl.float32}
        self.rows = {"HAS_KEEP": keep_T is not None, "BLOCK_L": rows}
        self.how = {"OPERATION": operation, "RMS": magnitude == "rms", "WHOLE": self.whole}
        self.kept_N = None
        if magnitude == "rms" and keep_T is not None and not self.whole:
            kept_until = torch.nn.functional.pad(self.keep_T.cumsum(0), (1, 0))
            self.kept_N = kept_until[self.cu_seq_lens].diff()

    def grid(self, items: int, width: int) -> tuple[int]:
        return (items * triton.cdiv(width, self.block),)

    def numbers(self, items: int) -> torch.Tensor:
        """Room for two numbers for each item and column."""
        return torch.empty(items, 2, self.columns, dtype=self.acc, device=self.w_TE.device)

    def merge(self, partial_S2E: torch.Tensor, of_extremes: bool) -> torch.Tensor:
        """The numbers of each text from those of its chunks."""
        merged_N2E = self.numbers(self.texts)
        merge_kernel[self.grid(self.texts, self.columns)](
            merged_N2E,
            partial_S2E,
            self.cu_seq_lens,
            self.texts,
            self.columns,
            EXTREMES=of_extremes,
            CHUNK=self.rows["BLOCK_L"],
            BLOCK_S=MERGE,
            **self.tile,
            **(self.options | {"num_warps": 4}),
        )
        return merged_N2E

    def extremes(self) -> torch.Tensor | None:
        """top and rest of each text and column, where no program sees a whole text."""
        if self.whole:
            return None
        partial_S2E = self.numbers(self.chunks)
        extremes_kernel[self.grid(self.chunks, self.columns)](
            partial_S2E,
            self.w_TE,
            self.cu_seq_lens,
            self.keep_T,
            self.texts,
            self.w_TE.stride(0),
            self.columns,
            **self.rows,
            **self.tile,
            **self.options,
        )
        return self.merge(partial_S2E, of_extremes=True)

    def forward(self) -> torch.Tensor:
        out = torch.empty_like(self.w_TE, memory_format=torch.contiguous_format)
        if out.numel() == 0:
            return out
        with torch.cuda.device_of(out):
            forward_kernel[self.grid(self.texts if self.whole else self.chunks, self.width)](
                out,
                self.w_TE,
                self.cu_seq_lens,
                self.keep_T,
                self.extremes(),
                self.kept_N,
                self.texts,
                self.w_TE.stride(0),
                self.width,
                EXACT=self.w_TE.element_size() >= 4,  # the result is not rounded to 16 bits
                **self.how,
                **self.rows,
                **self.tile,
                **self.options,
            )
        return out

    def backward(self, grad_TE: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(self.w_TE, memory_format=torch.contiguous_format)
        if out.numel() == 0:
            return out
        grad_TE = grad_TE if grad_TE.stride(1) == 1 else grad_TE.contiguous()
        with torch.cuda.device_of(out):
            extremes_N2E, pulls_N2E = self.extremes(), None

            def run(out: torch.Tensor, sums: bool) -> torch.Tensor:
                backward_kernel[self.grid(self.texts if self.whole else self.chunks, self.width)](
                    out,
                    grad_TE,
                    self.w_TE,
                    self.cu_seq_lens,
                    self.keep_T,
                    extremes_N2E,
                    pulls_N2E,
                    self.kept_N,
                    self.texts,
                    grad_TE.stride(0),
                    self.w_TE.stride(0),
                    self.width,
                    SUMS=sums,
                    **self.how,
                    **self.rows,
                    **self.tile,
                    **self.options,
                )
                return out

            if not self.whole:
                pulls_N2E = self.merge(run(self.numbers(self.chunks), sums=True), of_extremes=False)
            return run(out, sums=False)


def superpose_forward(
    variants_TE: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    keep_T: torch.Tensor | None,
    operation: str,
    magnitude: str,
    max_length: int,
) -> torch.Tensor:
    """The lift of two variants and their superposition.

    Args:
        variants_TE: The variants w and w2 side by side, of shape (T, 2D). Any floating dtype; sums run in float32 at
            least. Rows may be apart, columns should not.
        cu_seq_lens: Where each text begins, and where the last ends: N + 1 integers from 0 to T. Texts may be empty.
        keep_T: True at tokens, False at padding, whose content is not read. None: no padding.
        operation: "interference" or "modulation".
        magnitude: "l2" or "rms".
        max_length: No text is longer; a smaller number gives wrong results.

    Returns:
        re and im side by side, of the shape and dtype of `variants_TE`, contiguous.
    """
    return Plan(variants_TE, cu_seq_lens, keep_T, operation, magnitude, max_length, WHOLE_FORWARD).forward()


def superpose_backward(
    grad_TE: torch.Tensor,
    variants_TE: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    keep_T: torch.Tensor | None,
    operation: str,
    magnitude: str,
    max_length: int,
) -> torch.Tensor:
    """The gradient of `variants_TE` from that of what `superpose_forward` returned for these arguments."""
    return Plan(variants_TE, cu_seq_lens, keep_T, operation, magnitude, max_length, WHOLE_BACKWARD).backward(grad_TE)


def context_forward(
    w_TD: torch.Tensor, cu_seq_lens: torch.Tensor, keep_T: torch.Tensor | None, magnitude: str, max_length: int
) -> torch.Tensor:
    """The context norm `c_TD` alone, as `context_norm` in ops_wave.py. Arguments as in `superpose_forward`."""
    return Plan(w_TD, cu_seq_lens, keep_T, "context", magnitude, max_length, WHOLE_FORWARD).forward()


def context_backward(
    grad_TD: torch.Tensor,
    w_TD: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    keep_T: torch.Tensor | None,
    magnitude: str,
    max_length: int,
) -> torch.Tensor:
    """The gradient of `w_TD` from that of what `context_forward` returned for these arguments."""
    return Plan(w_TD, cu_seq_lens, keep_T, "context", magnitude, max_length, WHOLE_BACKWARD).backward(grad_TD)
