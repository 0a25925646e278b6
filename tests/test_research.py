"""The experiments: recipes are valid, baselines are what they say, runs are resumed, tables say what the lines say."""

import functools
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import BertTokenizer, PreTrainedModel, TrainerCallback

from wave_network import WaveConfig, WaveForSequenceClassification
from wave_network.research import bars, bench, compare, errors, polar, reproduce, runs, tables
from wave_network.research.baselines import KINDS, choose_maker
from wave_network.research.recipes import DATA_SETS, MOST_PARAMETERS, OURS, RECIPES, Claim, DataSet, Recipe
from wave_network.training.settings import ModelArguments, RunArguments

VOCABULARY, WIDTH, NGRAMS, LENGTH = 50, 16, 64, 32
NAMES = ["sport", "money", "space"]
MODEL = {"hidden_size": WIDTH, "conv_kernel_size": 0, "ngram_vocab_size": NGRAMS, "hidden_dropout_prob": 0.1}


def make_tokenizer(words: int, length: int) -> BertTokenizer:
    special = list(BertTokenizer().get_vocab())
    vocabulary = [*special, *map(str, range(words - len(special)))]
    return BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)}, model_max_length=length)


def make(kind: str, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    others = {"num_attention_heads": 2} if kind == "transformer" else {}
    arguments = ModelArguments(**MODEL | settings)
    return choose_maker(kind, others)(arguments, make_tokenizer(VOCABULARY, LENGTH), NAMES).eval()


# --- Recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_valid_settings(name: str, tmp_path: Path):
    recipe = RECIPES[name]
    known, others = runs.split_model(recipe.model)
    ModelArguments(**known)
    RunArguments(str(tmp_path), use_cpu=True, **recipe.training)
    assert recipe.data in DATA_SETS
    assert recipe.kind in KINDS or (recipe.kind == "svm" and not recipe.model)
    assert others.keys() <= {"num_attention_heads"}
    if "model" in known:
        assert "model" not in RECIPES[known["model"]].model


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].kind != "svm" and "paper" not in name])
def test_a_model_is_as_large_as_it_may_be(name: str):
    """With 20 classes, the most there are, and all words that its vocabulary may have."""
    model = RECIPES[RECIPES[name].model.get("model", name)].model
    known, others = runs.split_model(model)
    tokenizer = make_tokenizer(model["vocab_size"], model.get("max_length", 512))
    with torch.device("meta"):
        made = choose_maker(RECIPES[name].kind, others)(ModelArguments(**known), tokenizer, list(map(str, range(20))))
    most = 12_000_000 if name.endswith("medium") else MOST_PARAMETERS
    assert made.num_parameters() <= most
    if RECIPES[name].kind in ("transformer", "fnet", "cnn"):  # rivals are no smaller than ours without a reason
        assert made.num_parameters() > 0.8 * most


# --- Baselines --------------------------------------------------------------------------------------------------------

# The layer of ours: two maps with their biases and a normalisation; then the classifier.
WAVE_CORE = WIDTH * 2 * WIDTH + 2 * WIDTH + 2 * WIDTH * WIDTH + WIDTH + 2 * WIDTH + 3 * (WIDTH + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_learns_and_its_core_is_counted(kind: str):
    model = make(kind).train()
    inputs = {"input_ids": torch.arange(5, 29).view(3, 8), "labels": torch.tensor([0, 1, 2])}
    model(**inputs).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    core = model.num_parameters(exclude_embeddings=True)
    if kind in ("wave", "no_phase", "no_context", "bag"):
        assert core == WAVE_CORE
    elif kind == "fasttext":
        assert core == 3 * (WIDTH + 1)
    elif kind == "cnn":
        assert core == 300 * 4 * WIDTH + 300 + 3 * 301


@pytest.mark.parametrize(("kind", "sees"), [("wave", True), ("no_phase", True), ("no_context", False), ("bag", False)])
@pytest.mark.parametrize("restore", ["linear", "magnitude"])
def test_what_a_token_sees_of_its_text(kind: str, sees: bool, restore: str):
    model = make(kind, restore=restore, ngram_vocab_size=None)
    ids = torch.arange(5, 13)[None]
    other = ids.clone()
    other[0, -1] = 40
    first, second = (model.wave(each).last_hidden_state[0, 0] for each in (ids, other))
    assert torch.equal(first, second) != sees


def test_without_phase_only_the_magnitude_is_left():
    """Of two tokens in one text, the magnitude of each dimension is the same: what differs is the residual alone."""
    mixed: dict[str, torch.Tensor] = {}
    model = make("no_phase", ngram_vocab_size=None)
    model.wave.layers[0].mixing.register_forward_hook(lambda module, inputs, output: mixed.update(output=output))
    model(torch.arange(5, 13)[None])
    torch.testing.assert_close(mixed["output"], mixed["output"][:, :1].expand_as(mixed["output"]))


def test_the_mean_of_embeddings_is_that():
    model = make("fasttext", ngram_vocab_size=None)
    ids = torch.arange(5, 13)[None]
    expected = model.classifier(model.get_input_embeddings()(ids).mean(dim=1))
    torch.testing.assert_close(model(ids).logits, expected)


@pytest.mark.parametrize("kind", ["cnn", "fasttext", "no_phase"])
def test_padding_changes_nothing(kind: str):
    model = make(kind)
    ids = torch.arange(5, 13)[None]
    padded = torch.nn.functional.pad(ids, (0, 4))
    mask = (padded != 0).long()
    torch.testing.assert_close(model(input_ids=padded, attention_mask=mask).logits, model(input_ids=ids).logits)


# --- Reproducing ------------------------------------------------------------------------------------------------------

TINY = Recipe(
    "tiny",
    "tiny-news",
    "a tiny model",
    model={"hidden_size": 16, "vocab_size": 200, "max_length": 32},
    training={"num_train_epochs": 2, "subword_buckets": 0, "use_cpu": True, "disable_tqdm": True},
    claim=Claim(0.3, "a paper"),
)
TINY_RECIPES = {
    recipe.name: recipe
    for recipe in (
        TINY,
        replace(TINY, name="tiny-cnn", kind="cnn", model=TINY.model | {"initializer_range": 0.1}),
        Recipe("tiny-on", "tiny-news", "goes on", model={"model": "tiny"}, training=TINY.training),
        Recipe("tiny-svm", "tiny-news", "a linear SVM", "svm"),
    )
}


@pytest.fixture(autouse=True)
def tiny_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"text_columns": ["text"], "label_column": "label"}
    monkeypatch.setitem(DATA_SETS, "tiny-news", DataSet("Tiny News", "tester/news", "tiny_news", columns))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, chooser = tmp_path_factory.mktemp("data"), random.Random(0)
    (folder / "tiny_news").mkdir()
    for split, count in (("train", 60), ("test", 30)):
        rows = [(" ".join(chooser.choices([name, "word", "text"], k=5)), name) for name in NAMES * (count // 3)]
        pd.DataFrame(rows, columns=["text", "label"]).to_csv(folder / "tiny_news" / f"{split}.csv", index=False)
    return folder


def test_recipes_are_run_once_and_go_on_from_each_other(data: Path, tmp_path: Path):
    results = tmp_path / "results" / "lines.jsonl"
    run = functools.partial(
        reproduce.reproduce, data=data, output=tmp_path / "runs", results=results, recipes=TINY_RECIPES
    )
    lines = run(["tiny-on", "tiny-svm", "tiny-cnn"], seeds=1)
    assert [line["recipe"] for line in lines] == ["tiny", "tiny-on", "tiny-svm", "tiny-cnn"]
    for line in lines:
        assert 0 <= line["accuracy"] <= 1
        assert {"commit", "device", "versions", "threads", "date"} <= line.keys()
        assert line["rows"]["test"] == 30
    assert str(tmp_path) not in results.read_text()
    written = results.read_bytes()
    assert run(["tiny-on", "tiny-svm", "tiny-cnn"], seeds=1) == [json.loads(line) for line in written.splitlines()]
    assert results.read_bytes() == written
    folders = {name: {path.name for path in (tmp_path / "runs" / name / "seed-0").iterdir()} for name in TINY_RECIPES}
    assert folders["tiny-cnn"] == folders["tiny-svm"] == {"metrics.json"}
    assert "model.safetensors" in folders["tiny"]
    assert not any(name.startswith("checkpoint-") for name in folders["tiny"])
    # What the next recipe starts from is there again, and not measured twice.
    shutil.rmtree(tmp_path / "runs" / "tiny" / "seed-0")
    results.write_bytes(written.splitlines(keepends=True)[0])
    run(["tiny-on"], seeds=1)
    assert [json.loads(line)["recipe"] for line in results.read_text().splitlines()] == ["tiny", "tiny-on"]
    assert (tmp_path / "runs" / "tiny" / "seed-0" / "metrics.json").exists()

    other = replace(TINY, training=TINY.training | {"num_train_epochs": 1})
    with pytest.raises(ValueError, match="runs of tiny with other settings: choose another --output"):
        run(["tiny"], seeds=1, recipes={"tiny": other})


def test_an_interrupted_seed_goes_on_from_its_checkpoint(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Interrupt(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    started = []

    class Watch(TrainerCallback):
        def on_step_begin(self, _, state, *__: Any, **___: Any) -> None:
            started.append(state.global_step)

    from transformers import Trainer

    settings = {"data": data, "output": tmp_path, "results": tmp_path / "lines.jsonl", "recipes": TINY_RECIPES}
    begin = Trainer.__init__
    for callback, is_interrupted in ((Interrupt, True), (Watch, False)):
        monkeypatch.setattr(
            Trainer,
            "__init__",
            lambda self, *arguments, callback=callback, **given: (
                begin(self, *arguments, **given),
                self.add_callback(callback()),
            )[0],
        )
        if is_interrupted:
            with pytest.raises(KeyboardInterrupt):
                reproduce.reproduce(["tiny"], seeds=1, **settings)
        else:
            (line,) = reproduce.reproduce(["tiny"], seeds=1, **settings)
    assert min(started) > 0  # the first epoch was not repeated
    assert line["seconds"] is None  # what it took is not known


def test_what_cannot_be_run_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match="'tinny' is no recipe; close: tiny"):
        reproduce.reproduce(["tinny"], recipes=TINY_RECIPES)
    with pytest.raises(FileNotFoundError, match=r"must hold Tiny News in a folder 'tiny_news'"):
        reproduce.reproduce(["tiny"], data=tmp_path, output=tmp_path, results=tmp_path / "x", recipes=TINY_RECIPES)
    assert "ag-news-small" in reproduce.describe_recipes()


# --- Comparing --------------------------------------------------------------------------------------------------------


def test_an_experiment_runs_what_is_missing(data: Path, tmp_path: Path):
    small = {**TINY.model, **TINY.training}
    experiments = {
        "drawn": compare.Experiment("", {"tiny-news": (compare.SVM, small)}, 1, rows=(30,), others=20),
        "validated": compare.Experiment("", {"tiny-news": (small,)}, 1, rows=(30,)),
    }
    settings = {"folder": data, "experiments": experiments}
    svm, wave = compare.compare("drawn", [], results=tmp_path / "a.jsonl", **settings)
    assert svm["rows"] == wave["rows"] == {"train": 27, "validation": 3, "test": 20}
    assert svm["fingerprint"] == wave["fingerprint"]
    assert wave["case"] == small
    assert compare.compare("drawn", [], results=tmp_path / "a.jsonl", **settings) == [svm, wave]
    (line,) = compare.compare("validated", [], results=tmp_path / "b.jsonl", **settings)
    assert line["accuracy"] is None
    assert 0 <= line["validation_accuracy"] <= 1
    with pytest.raises(ValueError, match="drawn has no data set 'imdb'"):
        compare.compare("drawn", ["imdb"], **settings)


def test_settings_of_experiments_are_settings_of_finetune(tmp_path: Path):
    for experiment in compare.EXPERIMENTS.values():
        for data, cases in experiment.data.items():
            assert data in DATA_SETS
            for case in cases:
                model, training = runs.split_model({} if case == compare.SVM else case)
                ModelArguments(**model)
                RunArguments(str(tmp_path), use_cpu=True, **training)


# --- Bars and tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([], "not measured"), ([2.5], "yes"), ([1.0, 1.5], "**no**"), ([2.5, 1.9], "undecided"), ([2.0, 3.0], "yes")],
)
def test_two_measurements_that_disagree_leave_a_bar_undecided(values: list[float], verdict: str):
    assert bars.Bar("", 2.0, lambda lines: None).judge(values) == verdict
    flipped = {"yes": "**no**", "**no**": "yes"}
    if 2.0 not in values:
        assert bars.Bar("", 2.0, lambda lines: None, at_least=False).judge(values) == flipped.get(verdict, verdict)


def test_bars_are_read_from_the_lines():
    def line(run: str, model: str, mode: str, *ms: float) -> dict[str, Any]:
        return {"run": run, "group": "models", "model": model, "mode": mode, "ms": list(ms)}

    lines = [
        line("a", "ours", "inference", 1, 2, 4),
        line("a", "BERT-base", "inference", 40, 40, 40),  # 40, 20 and 10 times: the median of the ratios
        line("b", "ours", "inference", 1),
        line("b", "BERT-base", "inference", 31),
        {"run": "b", "group": "errors", "case": "ours", "error_of_c": 1e-7, "error_of_gradient": None},
        {"run": "b", "group": "errors", "case": "polar form", "error_of_c": 1.0, "error_of_gradient": 1.0},
    ]
    rows = {row["bar"]: (row["measured"], row["reached"]) for row in bars.describe_bars(lines)}
    assert rows["inference, BERT-base / ours"] == ("20, 31", "undecided")
    assert rows["training step, BERT-base / ours"] == ("-", "not measured")
    assert rows["largest relative error of c, float32"] == ("1.0e-07", "yes")
    assert rows["largest relative error of its gradient, float32"] == ("inf", "**no**")


def test_a_line_of_changed_code_is_refused(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"commit": "abc"}\n{"commit": "abc-dirty"}\n')
    with pytest.raises(ValueError, match=r"lines\.jsonl, line 2 must be of a commit, got 'abc-dirty'"):
        runs.read_results(path)
    assert runs.read_results(tmp_path / "none.jsonl") == []


def test_settings_that_are_not_kept_are_told_from_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = RECIPES["imdb-small"]
    shared = {"recipe": recipe.name, "data": "imdb", "commit": "abc", "parameters": 7, "rows": {"test": 100}}
    kept = shared | {"settings": reproduce.describe_settings(recipe)}
    other = shared | {"settings": {"model": recipe.model | {"restore": "magnitude"}, "training": {}, "rows": {}}}
    lines = [kept | {"accuracy": 0.9}, kept | {"accuracy": 0.92}, other | {"accuracy": 0.5}]
    (tmp_path / "reproduction.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "| IMDB | small | 91.00 ± 1.41 | 2 | 7 | - | ≥ 89.5 | yes |" in tables.make_recipes()
    assert "restore magnitude" in tables.make_readings()
    assert "| 50.00 | 91.00 ± 1.41 | 1 |" in tables.make_readings()


def test_a_table_takes_its_place_and_others_keep_theirs():
    text = (
        "before\n<!-- table: bars -->\nold\n<!-- end of table -->\n<!-- table: of others -->\nx\n<!-- end of table -->"
    )
    made = tables.fill_in(text)
    assert made.startswith("before\n<!-- table: bars -->\n| bar | to reach |")
    assert made.endswith("<!-- table: of others -->\nx\n<!-- end of table -->")
    assert tables.fill_in(made) == made


@pytest.mark.parametrize("name", ["results.md", "benchmarks.md"])
def test_tables_in_the_documents_are_what_the_result_files_say(name: str):
    text = (runs.ROOT / "docs" / name).read_text(encoding="utf-8")
    assert {place["name"] for place in tables.PLACE.finditer(text)} <= tables.TABLES.keys()
    assert tables.fill_in(text) == text


# --- Speed, memory and error ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["modulation", "interference"])
def test_the_polar_form_is_ours(operation: str):
    config = WaveConfig(vocab_size=50, hidden_size=16, num_labels=3, wave_operation=operation, initializer_range=0.3)
    ours = WaveForSequenceClassification(config).double().eval()
    rival = WaveForSequenceClassification(config).double().eval()
    rival.load_state_dict(ours.state_dict())
    polar.make_polar(rival)
    ids = torch.randint(1, 50, (4, 32), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(32) < torch.tensor([[32], [29], [21], [16]])).long()
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 2, 0])}
    for model in (ours, rival):
        model(**inputs).loss.backward()
    for found, expected in zip(rival.parameters(), ours.parameters(), strict=True):
        assert (found.grad - expected.grad).abs().max() <= 1e-6 * expected.grad.abs().max()


def test_our_errors_are_below_the_bars_and_the_rivals_are_not():
    lines = [{"group": "errors", **line} for line in errors.measure_errors()]
    assert bars.find_worst(lines, "error_of_c") <= 5e-7
    assert bars.find_worst(lines, "error_of_gradient") <= 1e-6
    others = [line for line in lines if not line["case"].startswith("ours")]
    assert any(line["error_of_c"] is not None and line["error_of_c"] > 0.1 for line in others)
    assert any(line["error_of_gradient"] is None for line in others)


def test_batches_are_as_full_as_they_say():
    stream = torch.arange(1, 5001)
    padded, packed = (
        bench.make_batches(bench.Case("ours", fill=0.25, is_packed=is_packed), stream)[0] for is_packed in (False, True)
    )
    assert 0.2 < padded["attention_mask"].double().mean() < 0.3
    assert packed["input_ids"].shape == (1, int(padded["attention_mask"].sum()))
    assert torch.equal(packed["input_ids"][0], padded["input_ids"][padded["attention_mask"] == 1])
    assert torch.equal(packed["cu_seq_lens"].diff(), padded["attention_mask"].sum(dim=1))


def test_cases_take_turns(monkeypatch: pytest.MonkeyPatch):
    turns = []

    def make_step(case: bench.Case, batches: list) -> tuple:
        return lambda: turns.append(case.model), None

    monkeypatch.setattr(bench, "make_step", make_step)
    monkeypatch.setattr(bench, "SECONDS_A_VISIT", 1e-6)
    cases = [bench.Case("ours", batch=2, length=4), bench.Case("BERT-base", batch=2, length=4)]
    lines = bench.time_group(cases, torch.arange(100))
    order = [name for place, name in enumerate(turns) if place == 0 or name != turns[place - 1]]
    assert order == ["ours", "BERT-base"] * bench.ROUNDS
    assert [len(line["ms"]) for line in lines] == [bench.ROUNDS] * 2


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_step_of_ours_runs_and_training_moves_the_weights(mode: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "WIDTH", 16)
    monkeypatch.setattr(bench, "VOCABULARY", 100)
    case = bench.Case("ours", mode, batch=2, length=4)
    step, model = bench.make_step(case, bench.make_batches(case, torch.arange(1, 99)))
    before = model.classifier.weight.detach().clone()
    step()
    assert torch.equal(before, model.classifier.weight) == (mode == "inference")
    assert bench.read_memory("VmHWM") >= bench.read_memory("VmRSS") > 50


def test_the_rival_of_our_core_size_is_of_our_core_size():
    with torch.device("meta"):
        ours, rival = (bench.count_parameters(bench.MODELS[name]()) for name in ("ours", "BERT of our core size"))
    assert abs(rival["core_parameters"] / ours["core_parameters"] - 1) < 0.03


def test_our_recipes_have_their_bars():
    assert all(RECIPES[name].claim is not None and RECIPES[name].claim.at_least for name in OURS)
