"""What `benchmarks/bench.py` measures, as data: the contenders, the settings, and the groups of cases."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

MODES = ("inference", "training")
OURS = "ours"


@dataclass(frozen=True)
class Contender:
    """
    Args:
        family: What models.py builds: "wave", "polar", "products" or the name of a rival.
        form: How it runs: "eager", "compiled", "folded", "unshared" (each token projected, not each distinct id),
            "packed" or "graphed" (a CUDA graph of the whole step).
        implementation: `wave_implementation` of ours.
        tolerance: The largest relative difference from the readable reference in float64 that the parity check lets
            pass in float32, of the logits and of a gradient. None: a stock model of transformers, which has no
            reference here and must be finite.
        longest: The longest text, in tokens, that it is run on.
        about: What it is, for `--list` and the docs.
    """

    family: str
    about: str
    form: str = "eager"
    implementation: str = "auto"
    tolerance: tuple[float, float] | None = (1e-5, 1e-3)
    longest: int | None = None


CONTENDERS = {
    OURS: Contender("wave", "our model as it comes: plain PyTorch dispatch, the fused operation"),
    "ours, readable": Contender(
        "wave", "our model with the readable operations of ops_wave.py", implementation="eager"
    ),
    "ours, compiled": Contender("wave", "our model under torch.compile(dynamic=True)", form="compiled"),
    "ours, folded": Contender("wave", "our model after fold_(): the table already projected", form="folded"),
    "ours, unshared": Contender("wave", "our model, projecting each token, not each distinct id", form="unshared"),
    "ours, packed": Contender("wave", "our model on texts laid end to end, without padding", form="packed"),
    "ours, CUDA graph": Contender("wave", "our model, the whole training step as one CUDA graph", form="graphed"),
    # The polar form divides by G and takes an arctangent.
    "polar form": Contender(
        "polar", "the same weights, each token as G exp(i alpha) literally", tolerance=(5e-5, 5e-3)
    ),
    "matrix products": Contender("products", "the floor: the bare matrix products of our own layer"),
    "BERT of our core size": Contender(
        "bert_core", "two layers, as BERT-tiny, as wide as makes its core our size", tolerance=None, longest=512
    ),
    "DistilBERT": Contender("distilbert", "distilbert-base", tolerance=None, longest=512),
    "FNet": Contender("fnet", "fnet-base", tolerance=None, longest=512),
    "ModernBERT-base": Contender("modernbert", "ModernBERT-base, sdpa attention", tolerance=None, longest=2048),
    "BERT-base": Contender("bert", "bert-base", tolerance=None, longest=512),
    "BERT-base, compiled": Contender("bert", "bert-base under torch.compile", "compiled", tolerance=None, longest=512),
}
RIVALS = ("BERT of our core size", "DistilBERT", "FNet", "ModernBERT-base", "BERT-base")
# Seconds for 2,048 tokens on two cores: these do not run in every round.
SLOW = ("DistilBERT", "FNet", "ModernBERT-base", "BERT-base")


@dataclass(frozen=True)
class Setting:
    """
    Args:
        batch, length, hidden_size: The shape of a batch, and the width of our model.
        text: "joined", texts end to end, cut to exactly `length` tokens; "rows", one text of the data in each row,
            padded or cut to `length`, as a user would train.
        fill: Which part of a "joined" batch is text; the rest is padding, and the texts have different lengths.
        dtype: "float32", or "bfloat16" by autocast.
    """

    batch: int = 32
    length: int = 128
    hidden_size: int = 768
    text: str = "joined"
    fill: float = 1.0
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        return self.batch * self.length


@dataclass(frozen=True)
class Case:
    """One contender in one setting. `every`: it runs in each round (1), in every second one (2), ..."""

    contender: str
    mode: str
    setting: Setting
    every: int = 1

    @property
    def name(self) -> str:
        setting = self.setting
        parts = [self.contender, self.mode, f"B {setting.batch} x L {setting.length}", f"D {setting.hidden_size}"]
        parts += [f"fill {setting.fill:.0%}"] if setting.fill < 1 else []
        parts += [setting.dtype] if setting.dtype != "float32" else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Group:
    """Cases that are measured in one run, so that they compare. `kind` names what bench.py does with them."""

    about: str
    cases: tuple[Case, ...]
    kind: str = "timing"
    device: str = "cpu"
    left_out: str = ""


def grid(
    modes: Iterable[str], settings: Iterable[Setting], contenders: Iterable[str], slow: int = 2
) -> tuple[Case, ...]:
    """All combinations, without texts that are longer than a contender is run on. `slow`: the `every` of slow ones."""
    return tuple(
        Case(name, mode, setting, every=slow if name in SLOW else 1)
        for mode, setting, name in product(modes, settings, contenders)
        if setting.length <= (CONTENDERS[name].longest or setting.length)
    )


BASE = Setting()
# A training batch holds real rows, padded: which ids it holds, and how many, decides what the table's gradient costs.
ROWS = Setting(text="rows")
# At equal tokens, so that time per token can be compared: few enough for the rivals, and enough for the longest text.
SHORT = [Setting(batch=2048 // length, length=length) for length in (16, 64, 128, 512, 2048)]
LONG = [Setting(batch=32768 // length, length=length) for length in (512, 2048, 8192, 32768)]

GROUPS = {
    "headline": Group(
        "B 32 x L 128, D 768: every model and form; inference on full batches, training on real rows",
        grid(
            ["inference"],
            [BASE],
            [OURS, "ours, readable", "ours, compiled", "ours, folded", "polar form", "matrix products", *RIVALS],
        )
        + grid(
            ["training"],
            [ROWS],
            [OURS, "ours, readable", "ours, compiled", "polar form", "matrix products", "BERT of our core size"],
        )
        + grid(["training"], [ROWS], ["BERT-base"], slow=2)
        + grid(["training"], [ROWS], ["DistilBERT", "FNet", "ModernBERT-base"], slow=3),
    ),
    "length": Group(
        "length 16 to 2,048 at 2,048 tokens a step, with the rivals",
        grid(["inference"], SHORT, [OURS, "ours, readable", "polar form", "matrix products", *RIVALS], slow=3)
        + grid(["training"], SHORT, [OURS, "ours, readable", "polar form", "BERT of our core size"]),
        left_out="BERT, DistilBERT and FNet end at 512 positions. For time, ModernBERT, which allows 8,192, was "
        "stopped at 2,048, and of the rivals only the smallest was trained.",
    ),
    "long": Group(
        "length 512 to 32,768 at 32,768 tokens a step: is time per token the same?",
        grid(["inference"], LONG, [OURS, "ours, readable", "ours, compiled", "matrix products"])
        + grid(["training"], [LONG[0], LONG[-1]], [OURS]),
        left_out="All rivals end before 32,768 tokens. For time, the polar form was not run here, and training only at "
        "both ends.",
    ),
    "batch": Group(
        "batch 1, 8 and 32 at L 128",
        grid(
            ["inference"],
            [replace(BASE, batch=batch) for batch in (1, 8, 32)],
            [OURS, "ours, compiled", "ours, folded", "polar form", "matrix products", *RIVALS[:1], "BERT-base"],
        )
        + grid(
            ["training"],
            [replace(ROWS, batch=batch) for batch in (1, 8, 32)],
            [OURS, "ours, unshared", "polar form", *RIVALS[:1], "BERT-base"],
        ),
    ),
    "hidden": Group(
        "hidden size 64 to 1,024 at B 32 x L 128",
        grid(
            ["inference"],
            [replace(BASE, hidden_size=size) for size in (64, 128, 256, 512, 768, 1024)],
            [OURS, "ours, unshared", "ours, readable", "ours, folded", "polar form", "matrix products"],
        )
        + grid(
            ["training"],
            [replace(ROWS, hidden_size=size) for size in (64, 128, 256, 512, 768, 1024)],
            [OURS, "ours, unshared", "ours, readable", "polar form", "matrix products"],
        ),
    ),
    "fill": Group(
        "padded against packed, from 25 to 100 % text, at B 32 x L 128",
        grid(MODES, [replace(BASE, fill=fill) for fill in (0.25, 0.5, 0.75, 1.0)], [OURS, "ours, packed"]),
    ),
    "accuracy": Group("the numerical error of c and of its gradient in float32, against float64", (), kind="accuracy"),
    "memory": Group(
        "the peak memory of a step, each case in a process of its own",
        grid(["inference"], [BASE], [OURS, "ours, readable", "polar form", *RIVALS])
        + grid(["training"], [ROWS], [OURS, "ours, readable", "polar form", *RIVALS]),
        kind="memory",
    ),
    "gpu_table2": Group(
        "the shape of the paper's Table 2 on a GPU: batch 64, D 768, one layer, BERT-base beside it",
        grid(
            MODES,
            [replace(ROWS, batch=64, dtype=dtype) for dtype in ("float32", "bfloat16")],
            [OURS, "ours, readable", "ours, compiled", *RIVALS[:1], "BERT-base", "BERT-base, compiled"],
        )
        + grid(
            ["training"],
            [replace(ROWS, batch=64, dtype=dtype) for dtype in ("float32", "bfloat16")],
            ["ours, CUDA graph"],
        )
        + grid(MODES, [replace(ROWS, batch=64)], ["polar form"]),
        kind="timing and memory",
        device="cuda",
    ),
    "gpu_bandwidth": Group(
        "bytes per second of the fused operation, against a copy of as many bytes",
        # Larger than the cache of the GPU, which would otherwise beat its memory.
        tuple(
            Case("superpose", mode, Setting(batch=32768 // length, length=length, dtype=dtype))
            for length, dtype, mode in product((128, 2048), ("float32", "bfloat16"), ("forward", "backward"))
        ),
        kind="bandwidth",
        device="cuda",
    ),
}


def shrink(case: Case) -> Case:
    """The same case in a size for a smoke run."""
    setting = case.setting
    small = replace(
        setting, batch=min(setting.batch, 3), length=min(setting.length, 24), hidden_size=min(setting.hidden_size, 32)
    )
    return replace(case, setting=small, every=1)


def select(group: str, *, device: str, quick: bool) -> tuple[Case, ...]:
    """The cases of a group that this machine can run, small and without doubles in a smoke run."""
    cases = [case for case in GROUPS[group].cases if device == "cuda" or not is_graphed(case)]
    return tuple(dict.fromkeys(map(shrink, cases) if quick else cases))


def is_graphed(case: Case) -> bool:
    return case.contender in CONTENDERS and CONTENDERS[case.contender].form == "graphed"
