"""The kernels of triton_wave.py against ops_wave.py in float64 and its autograd, text by text.

Without a GPU they run in Triton's interpreter, which has to be chosen before Triton is imported: this file, run as a
script, is the process that does so. It measures the cases that have a name in CASES, and the tests here assert each.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch

from wave_network.modeling_wave.ops_wave import OPERATIONS, context_norm, lift

KINDS = ("context", *OPERATIONS)  # `context` is the context norm alone
MAGNITUDES = ("l2", "rms")


@dataclass(frozen=True)
class Case:
    operation: str
    magnitude: str
    dtype: str = "float32"
    lengths: tuple[int, ...] = (1, 130, 0, 3, 63)  # of the texts, end to end
    width: int = 5
    chunk: int | None = None  # rows of a chunk; None: a program takes a whole text
    padding: float | None = None  # what stands at padding; None: there is none
    strided: bool = False  # rows of the input and of the gradient lie apart
    long_offsets: bool = False  # cu_seq_lens in int64

    def __str__(self) -> str:
        parts = [self.operation, self.magnitude, self.dtype, f"D{self.width}", f"T{sum(self.lengths)}"]
        parts += [f"chunk{self.chunk}"] if self.chunk else ["whole"]
        parts += [f"pad_{self.padding}"] if self.padding is not None else []
        return "-".join(parts + ["strided"] * self.strided)


# Five texts of the same length, as the rows of a padded batch: see `make_mask`.
BATCH = (20,) * 5
CASES = [
    # Texts of one token, of none, and of lengths that no block divides; in the dtypes that models have.
    *(Case(*how) for how in product(KINDS, MAGNITUDES, ("float32", "float64", "bfloat16", "float16"))),
    *(Case(*how, chunk=64) for how in product(KINDS, MAGNITUDES, ("float32", "bfloat16"))),
    # Padding right, left, in between, everywhere and nowhere. What stands there must not matter.
    *(Case(*how, lengths=BATCH, padding=float("nan"), long_offsets=True) for how in product(KINDS, MAGNITUDES)),
    *(Case(*how, lengths=BATCH, padding=float("nan"), chunk=16) for how in product(KINDS, MAGNITUDES)),
    Case("modulation", "l2", lengths=BATCH, padding=float("inf")),
    # One column, and more than one block of them.
    *(Case("modulation", "rms", lengths=(7, 0, 2), width=width, strided=True) for width in (1, 60)),
    *(Case("modulation", "rms", lengths=(40, 0, 2), width=width, strided=True, chunk=16) for width in (1, 60)),
    Case("context", "l2", lengths=(7, 0, 2), width=60, strided=True),
]

# Errors of an output are relative to the terms that it is the sum of, `c` itself being one, those of a gradient to the
# largest of its column. 16 bits add the rounding of the result.
OUTPUT = {"float32": 5e-7, "float64": 1e-13}
GRADIENT = {"float32": 1e-6, "float64": 1e-13}


# --- Measuring one case ----------------------------------------------------------------------------------------------


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_text(length: int, width: int, seed: int) -> torch.Tensor:
    """A text with all kinds of columns: ordinary, one dominant token, zeros, ties, and one token that is not zero."""
    w_LE = draw(length, width, seed=seed)
    kind_E = (torch.arange(width) + seed) % 5
    if length:
        place_E = (7 * torch.arange(width) + seed) % length
        w_LE[place_E[kind_E == 1], (kind_E == 1).nonzero()[:, 0]] = 1e4
        w_LE[:, kind_E == 2] = 0
        w_LE[:, kind_E == 3] = w_LE[:, kind_E == 3].sign() * 0.3
        w_LE[:, kind_E == 4] = torch.where(torch.arange(length)[:, None] == place_E, 3.0, 0.0)[:, kind_E == 4].double()
    return w_LE


def make_mask(lengths: tuple[int, ...]) -> torch.Tensor:
    """True at tokens: padded right, left, with holes, padding alone, no padding, and so on."""
    masks = []
    for row, length in enumerate(lengths):
        place_L = torch.arange(length)
        kinds = (place_L < length // 2, place_L >= length // 3, place_L % 3 != 1, place_L < 0, place_L >= 0)
        masks.append(kinds[row % 5])
    return torch.cat(masks)


def spread(x_TE: torch.Tensor, gap: int) -> torch.Tensor:
    """The same numbers in rows that lie apart, with NaN in between."""
    return torch.nn.functional.pad(x_TE, (1, gap - 1), value=float("nan"))[:, 1 : 1 + x_TE.shape[1]]


def others(x_LD: torch.Tensor) -> torch.Tensor:
    """The sum of all rows but one, for each of them, by sums from both ends."""
    before_LD, after_LD = torch.zeros_like(x_LD), torch.zeros_like(x_LD)
    before_LD[1:] = x_LD[:-1].cumsum(0)
    after_LD[:-1] = x_LD[1:].flip(0).cumsum(0).flip(0)
    return before_LD + after_LD


def expect(case: Case, w_LE, keep_L, grad_LE) -> tuple[torch.Tensor, ...]:
    """What a text should give, in float64: the output, the size of its terms, the gradient, the size of its terms."""
    leaf = w_LE.double()[None].requires_grad_()
    mask = None if keep_L is None else keep_L[None]
    if case.operation == "context":
        out = context_norm(leaf, mask, case.magnitude)
    else:
        out = torch.cat(OPERATIONS[case.operation](*(lift(x, mask, case.magnitude) for x in leaf.chunk(2, -1))), -1)
    out.backward(grad_LE.double()[None])

    # The size of the terms: the same formulas, with nothing negative that could cancel.
    w_LE = w_LE.double() if keep_L is None else w_LE.double().masked_fill(~keep_L[:, None], 0)
    c_LE = context_norm(w_LE[None], mask, case.magnitude)[0]
    w, c, grad = w_LE.abs(), c_LE, grad_LE.double().abs()
    if case.operation == "context":
        size, direct, g = c, torch.zeros_like(w), grad
    else:
        (w, w2), (c, c2), (p, q) = w.chunk(2, -1), c.chunk(2, -1), grad.chunk(2, -1)
        if case.operation == "interference":
            size, direct, g = (w + w2, c + c2), (p, p), (q, q)
        else:
            size = w * w2 + c * c2, w * c2 + w2 * c
            direct = w2 * p + c2 * q, w * p + c * q
            g = c2 * p + w2 * q, c * p + w * q
        size, direct, g = (torch.cat(pair, -1) for pair in (size, direct, g))
    tokens = len(w_LE) if keep_L is None else int(keep_L.sum())
    n = max(tokens - 1, 1) if case.magnitude == "rms" else 1
    r = torch.where(c_LE > 0, g / (c_LE * n), 0)
    pull = direct + w_LE.abs() * others(r)
    return out.detach()[0], size, leaf.grad[0], pull.amax(dim=0, keepdim=True).expand_as(w_LE)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN, so that an element which nobody wrote shows."""

    def fill(function):
        return lambda *args, **settings: function(*args, **settings).fill_(float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", fill(torch.empty))
        patch.setattr(torch, "empty_like", fill(torch.empty_like))
        yield


def call(case: Case, grad_TE, w_TE, cu_seq_lens, keep_T) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernels give."""
    from wave_network.modeling_wave import triton_wave

    longest = max(case.lengths)
    with poisoned(), pytest.MonkeyPatch.context() as patch:
        if case.chunk:
            patch.setattr(triton_wave, "WHOLE_FORWARD", 0)
            patch.setattr(triton_wave, "WHOLE_BACKWARD", 0)
            patch.setattr(triton_wave, "CHUNK", case.chunk)
            patch.setattr(triton_wave, "MERGE", 2)
        if case.operation == "context":
            how = cu_seq_lens, keep_T, case.magnitude, longest
            return triton_wave.context_forward(w_TE, *how), triton_wave.context_backward(grad_TE, w_TE, *how)
        how = cu_seq_lens, keep_T, case.operation, case.magnitude, longest
        return triton_wave.superpose_forward(w_TE, *how), triton_wave.superpose_backward(grad_TE, w_TE, *how)


def measure(case: Case, device: str = "cpu") -> dict[str, float]:
    """The largest errors of a case, as multiples of what is allowed."""
    dtype = getattr(torch, case.dtype)
    columns = case.width * (1 if case.operation == "context" else 2)
    w_TE = torch.cat([make_text(length, columns, seed) for seed, length in enumerate(case.lengths)])
    if dtype == torch.float16:
        w_TE = w_TE.clamp(-100, 100)  # products of waves, and sums in the gradient, have to stay below 65504
    keep_T = None
    if case.padding is not None:
        keep_T = make_mask(case.lengths)
        w_TE[~keep_T] = case.padding
        keep_T = keep_T.to(device)
    grad_TE = draw(*w_TE.shape, seed=99) + 0.1
    if dtype == torch.float16:
        grad_TE /= 64
    grad_TE = grad_TE.to(device, dtype)
    w_TE = w_TE.to(device, dtype)
    ends = torch.tensor([0, *case.lengths]).cumsum(0)
    cu_seq_lens = ends.to(device, torch.int64 if case.long_offsets else torch.int32)
    arguments = (spread(grad_TE, 5), spread(w_TE, 2)) if case.strided else (grad_TE, w_TE)

    out_TE, gradient_TE = call(case, *arguments, cu_seq_lens, keep_T)
    assert out_TE.dtype == gradient_TE.dtype == dtype
    assert out_TE.shape == gradient_TE.shape == w_TE.shape

    worst = {"output": 0.0, "gradient": 0.0, "zeros": 0.0}
    output_bar, gradient_bar = OUTPUT.get(case.dtype, 5e-7), GRADIENT.get(case.dtype, 1e-6)
    if case.operation == "modulation":
        output_bar *= 2  # a product of two
    rounding = torch.finfo(dtype).eps / 2 if dtype.itemsize == 2 else 0
    if dtype == torch.bfloat16 and device == "cpu":
        rounding *= 2  # Triton's interpreter cuts the last bits off, a GPU rounds to the nearest
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps if dtype.itemsize == 2 else 0

    def excess(actual: torch.Tensor, expected: torch.Tensor, size: torch.Tensor, bar: float) -> float:
        error = (actual.double() - expected).abs()
        error = torch.where(error.isnan(), torch.inf, error)
        allowed = bar * size + rounding * expected.abs() + smallest
        return torch.where(error == 0, 0, error / allowed).max().item()

    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        if start == end:
            continue
        rows = slice(start, end)
        keep_L = None if keep_T is None else keep_T[rows]
        out, size, gradient, pull = expect(case, w_TE[rows], keep_L, grad_TE[rows])
        worst["output"] = max(worst["output"], excess(out_TE[rows], out, size, output_bar))
        worst["gradient"] = max(worst["gradient"], excess(gradient_TE[rows], gradient, pull, gradient_bar))
        if keep_L is not None:  # exactly
            worst["zeros"] = max(worst["zeros"], float((gradient_TE[rows][~keep_L] != 0).sum()))
    return worst


# --- In the interpreter ----------------------------------------------------------------------------------------------


def reduce_by_halves() -> None:
    """The interpreter reduces with a function of ours one element after the other, in Python. This takes whole arrays:
    the first half with the second, and so on."""
    from triton.runtime import interpreter

    def generic_reduce(self, tensors):
        assert self.axis == 0
        assert not self.keep_dims
        dtypes = [tensor.dtype for tensor in tensors]
        arrays = [tensor.handle.data for tensor in tensors]
        while (half := len(arrays[0]) // 2) > 0:
            halves = [self.to_tensor(x[:half], dtype) for x, dtype in zip(arrays, dtypes, strict=True)]
            halves += [self.to_tensor(x[half:], dtype) for x, dtype in zip(arrays, dtypes, strict=True)]
            arrays = [tensor.handle.data for tensor in self.combine_fn.fn(*halves)]
        return [self.to_tensor(x[0], dtype) for x, dtype in zip(arrays, dtypes, strict=True)]

    assert hasattr(interpreter.ReduceOps, "generic_reduce")
    interpreter.ReduceOps.generic_reduce = generic_reduce


def main() -> None:
    torch.set_num_threads(1)
    reduce_by_halves()
    print(json.dumps({str(case): measure(case) for case in CASES}))


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    """The errors of every case, from a process of its own."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__))],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_in_the_interpreter(case, interpreted):
    errors = interpreted[str(case)]
    assert errors["output"] <= 1
    assert errors["gradient"] <= 1
    assert errors["zeros"] == 0


def test_every_case_has_a_name_of_its_own():
    assert len({str(case) for case in CASES}) == len(CASES)


# --- Compiled, without a GPU -----------------------------------------------------------------------------------------

COMPILED = [
    Case("modulation", "rms", lengths=(100, 7), width=64, padding=0.0),
    Case("modulation", "rms", "bfloat16", lengths=(9000, 7), width=64, padding=0.0),
    Case("interference", "l2", "float16", lengths=(500, 7), width=33),
    Case("context", "l2", "float64", lengths=(9000, 7), width=33, long_offsets=True),
]


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_kernels_compile_for_a_gpu(case, tmp_path, monkeypatch):
    """What the interpreter takes, but the compiler does not, shows here: every launch of the case is noted and compiled
    for Hopper, down to machine code."""
    triton = pytest.importorskip("triton")
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3) or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("needs the compiler of triton 3.3 or newer")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from wave_network.modeling_wave import triton_wave

    launches = []

    class Note:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *values, **settings: launches.append((self.kernel, values, settings))

    for name in ("extremes_kernel", "merge_kernel", "forward_kernel", "backward_kernel"):
        monkeypatch.setattr(triton_wave, name, Note(getattr(triton_wave, name)))
    w_TE = torch.zeros(sum(case.lengths), case.width * (1 if case.operation == "context" else 2))
    w_TE = w_TE.to(getattr(torch, case.dtype))
    ends = torch.tensor([0, *case.lengths]).cumsum(0)
    keep_T = None if case.padding is None else make_mask(case.lengths)
    call(case, w_TE, w_TE, ends if case.long_offsets else ends.int(), keep_T)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert len(launches) == (8 if max(case.lengths) > 1000 else 2)
    short = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64", "uint8": "u8"}
    short |= {"int32": "i32", "int64": "i64"}
    for kernel, values, settings in launches:
        signature, constants = {}, {}
        for place, name in enumerate(kernel.arg_names):
            value = values[place] if place < len(values) else settings.pop(name)
            if isinstance(value, torch.Tensor):
                signature[name] = "*" + short[str(value.dtype).removeprefix("torch.")]
            elif place < len(values) and value is not None:
                signature[name] = "i32"
            else:
                signature[name] = "constexpr"
                constants[(place,)] = value
        source = ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=settings)
        assert compiled.asm["cubin"]


# --- On a GPU --------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GPU_CASES = [
    *(
        Case(*how, width=768)
        for how in product(
            KINDS,
            MAGNITUDES,
            ("float32", "bfloat16", "float16"),
            ((1, 128, 0, 77), (512, 1, 0, 300), (8192, 0, 1, 3000)),
        )
    ),
    *(Case(*how, lengths=(128,) * 5, width=100, padding=float("nan")) for how in product(KINDS, MAGNITUDES)),
    *(Case(*how, lengths=(4100,) * 5, width=60, padding=float("nan")) for how in product(KINDS, MAGNITUDES)),
    *(Case("modulation", "rms", lengths=(length, 0, 5), width=33, strided=True) for length in (2, 17, 1024, 2500)),
    *(Case(operation, "l2", dtype="float64", lengths=(300, 9000), width=40) for operation in KINDS),
    Case("modulation", "l2", lengths=(300_000, 3), width=24),
]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_kernels_on_a_gpu(case):
    errors = measure(case, "cuda")
    assert errors["output"] <= 1
    assert errors["gradient"] <= 1
    assert errors["zeros"] == 0


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("length", [100, 5000], ids=["whole", "chunks"])
def test_the_same_input_gives_the_same_bits_and_nothing_waits_for_the_gpu(length):
    from wave_network.modeling_wave import triton_wave

    w_TE, grad_TE = torch.randn(2, 3 * length, 2 * 768, device="cuda").unbind(0)
    keep_T = torch.arange(3 * length, device="cuda") % 7 != 3
    how = torch.arange(0, 3 * length + 1, length, device="cuda"), keep_T, "modulation", "rms", length
    torch.cuda.set_sync_debug_mode("error")
    try:
        first, second = (
            (triton_wave.superpose_forward(w_TE, *how), triton_wave.superpose_backward(grad_TE, w_TE, *how))
            for _ in range(2)
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("length", [256, 350_000], ids=["whole", "chunks"])
def test_more_elements_than_32_bits_count(length):
    """The last text of a batch with 2.1e9 elements and more is what it is alone."""
    from wave_network.modeling_wave import triton_wave

    texts = 1_400_000 // length
    tokens = texts * length
    if torch.cuda.mem_get_info()[0] < 5 * tokens * 2 * 768 * 2:
        pytest.skip("needs 22 GB of free memory")
    w_TE = torch.randn(tokens, 2 * 768, dtype=torch.bfloat16, device="cuda")
    assert w_TE.numel() > 2**31
    how = "modulation", "l2", length
    cu_seq_lens = torch.arange(0, tokens + 1, length, device="cuda")
    last_TE = w_TE[-length:].clone()
    out_TE = triton_wave.superpose_forward(w_TE, cu_seq_lens, None, *how)
    assert torch.equal(out_TE[-length:], triton_wave.superpose_forward(last_TE, cu_seq_lens[:2], None, *how))
    gradient_TE = triton_wave.superpose_backward(out_TE, w_TE, cu_seq_lens, None, *how)
    expected_TE = triton_wave.superpose_backward(out_TE[-length:], last_TE, cu_seq_lens[:2], None, *how)
    assert torch.equal(gradient_TE[-length:], expected_TE)


if __name__ == "__main__":
    main()
