"""`wave-network reproduce`: recipes over several seeds, what they come to, and what goes wrong."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import run_step
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from safetensors.torch import load_file
from small_runs import write_data
from transformers import AutoModelForSequenceClassification, BertTokenizer

from wave_network.analysis.reproduction import draw_aggregates, draw_reproduction, find_range
from wave_network.training import cli
from wave_network.training import reproduce as module
from wave_network.training.baselines import ModelMaker
from wave_network.training.finetune import WaveTrainer
from wave_network.training.recipes import DATA_SETS, RECIPES, Claim, DataSet, Recipe
from wave_network.training.reproduce import ReproduceArguments, Run, reproduce, summarise_numbers, summarise_runs
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

TINY_DATA = DataSet("Tiny News", "tester/news", "tiny_news", {"label_column": "label"})
TINY = Recipe(
    "tiny",
    "tiny-news",
    "a tiny model",
    model={"hidden_size": 16, "conv_kernel_size": 0, "vocab_size": 200, "max_length": 32, "hidden_dropout_prob": 0.1},
    training={"num_train_epochs": 2, "learning_rate": 0.01, "per_device_train_batch_size": 8, "use_cpu": True},
    claim=Claim(0.3, "a paper", at_least=True),
)
BROKEN = replace(TINY, name="broken", model=TINY.model | {"hidden_dropout_prob": 7.0})
NO_PHASE = replace(TINY, name="no-phase", kind="no_phase", model=TINY.model | {"initializer_range": 0.3}, claim=None)
ON = replace(TINY, name="on", model={"model": "tiny"}, claim=None)
ON_BROKEN = replace(ON, name="on-broken", model={"model": "broken"})
SVM = Recipe("tiny-svm", "tiny-news", "a linear SVM", "svm")
TINY_RECIPES = {recipe.name: recipe for recipe in (TINY, BROKEN, NO_PHASE, ON, ON_BROKEN, SVM)}


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "tiny-news", TINY_DATA)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny_news").mkdir()
    write_data(folder / "tiny_news")
    return folder


def settings(data: Path, output: Path, *recipes: str, **others: Any) -> ReproduceArguments:
    return ReproduceArguments(list(recipes), data=str(data), output_dir=str(output), **others)


def prepare(data: Path, output: Path, recipe: Recipe, seed: int = 0) -> Run:
    """A run that is ready to start, in this process, which saves the seconds that another one needs to import."""
    experiment = module.describe_experiment(recipe, [recipe], settings(data, output))
    return Run(module.write_experiment(output / recipe.name, experiment), seed)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# A line of a file of results, as far as it is looked at.
RESULT = b'{"recipe": "tiny", "settings": {}, "fingerprint": "", "commits": []}\n'

# Whole commands


def test_a_run_that_fails_does_not_keep_the_others_and_finished_ones_are_not_repeated(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    output, results = tmp_path / "output", tmp_path / "results" / "all.jsonl"
    with pytest.raises(ChildProcessError, match=r"1 of 2 runs failed: broken, seed 0\. Why is in .*seed-0\.error"):
        reproduce(settings(data, output, "broken", "tiny", seeds=1, jobs=2, results=str(results)), TINY_RECIPES)
    assert "hidden_dropout_prob" in (output / "broken" / "seed-0.error").read_text()
    assert "broken, seed 0 failed:" in capfd.readouterr().err
    assert not (output / "broken" / "aggregate.json").exists()

    aggregate = read(output / "tiny" / "aggregate.json")
    assert (aggregate["runs"], aggregate["accuracy"]["sd"], aggregate["missing"]) == (1, None, {})
    process = read(output / "tiny" / "seed-0" / "process.json")
    assert process["peak_memory_mib"] > 50
    assert process["threads"] == 1
    assert not list((output / "tiny" / "seed-0").glob("checkpoint-*"))
    assert "epoch" in (output / "tiny" / "seed-0.log").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(output / "tiny" / "seed-0")
    assert model.num_parameters() == aggregate["parameters"]

    before = (output / "tiny" / "seed-0" / "metrics.json").stat().st_mtime_ns
    reproduce(settings(data, output, "tiny", seeds=1, results=str(results)), TINY_RECIPES)
    assert (output / "tiny" / "seed-0" / "metrics.json").stat().st_mtime_ns == before
    assert aggregate["verdict"]["held"] is True
    # The same recipe, settings, data and commit: one line.
    (line,) = map(json.loads, results.read_text().splitlines())
    assert line["accuracy"] == aggregate["accuracy"]
    assert str(tmp_path) not in results.read_text()
    assert "| tiny | a tiny model |" in (output / "README.md").read_text()


def test_a_recipe_goes_on_from_the_run_of_another_with_the_same_seed(data: Path, tmp_path: Path):
    reproduce(settings(data, tmp_path, "on", seeds=2, jobs=2), TINY_RECIPES)
    for seed in (0, 1):
        before, after = (read_weights(tmp_path / name / f"seed-{seed}") for name in ("tiny", "on"))
        assert {name: weight.shape for name, weight in before.items()} == {
            name: weight.shape for name, weight in after.items()
        }
        distances = {
            other: (after["wave.embeddings.word_embeddings.weight"] - start).norm()
            for other in (0, 1)
            for start in [read_weights(tmp_path / "tiny" / f"seed-{other}")["wave.embeddings.word_embeddings.weight"]]
        }
        assert 0 < distances[seed] < distances[1 - seed]
    aggregate = read(tmp_path / "on" / "aggregate.json")
    assert aggregate["settings"]["model"] == {"model": "tiny"}
    assert str(tmp_path) not in json.dumps(aggregate)


def test_what_goes_on_from_a_run_that_failed_says_so(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(ChildProcessError, match=r"2 of 2 runs failed: broken, seed 0; on-broken, seed 0\."):
        reproduce(settings(data, tmp_path, "on-broken", seeds=1, jobs=2), TINY_RECIPES)
    assert "hidden_dropout_prob" in (tmp_path / "broken" / "seed-0.error").read_text()
    assert "broken, seed 0, from which it goes on, has failed." in (tmp_path / "on-broken" / "seed-0.error").read_text()
    assert not (tmp_path / "on-broken" / "seed-0").exists()


def test_an_interrupted_seed_goes_on_from_its_checkpoint(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = prepare(data, tmp_path, TINY)
    with monkeypatch.context() as patch:
        patch.setattr(WaveTrainer, "predict", lambda *arguments, **settings: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            module.run_seed(run)
    assert not run.is_finished
    assert module.write_aggregate(run.folder, seeds=2) is None
    steps = []
    monkeypatch.setattr(WaveTrainer, "training_step", lambda *arguments, **settings: steps.append(1))
    module.run_seed(run)  # all steps had been made
    assert (steps, run.is_finished) == ([], True)
    aggregate = module.write_aggregate(run.folder, seeds=2)
    assert aggregate is not None
    assert aggregate["missing"] == {"1": "not run"}
    assert aggregate["seconds"] is None  # the clock of a resumed run starts where it was resumed
    assert read(run.output / "process.json")["resumed"] is True
    module.write_overview(tmp_path)
    assert "- tiny, seed 1: not run" in (tmp_path / "README.md").read_text()


def test_a_process_that_dies_without_a_word_is_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match="1 of 1 runs failed"):
        reproduce(settings(data, tmp_path, "tiny", seeds=1), TINY_RECIPES)
    assert "tiny, seed 0 (1 of 1 runs)" in capfd.readouterr().out
    assert (tmp_path / "tiny" / "seed-0.error").read_text() == "The process ended with status 1.\n"


def test_a_baseline_leaves_its_record_and_no_model(data: Path, tmp_path: Path):
    runs = [prepare(data, tmp_path, recipe) for recipe in (NO_PHASE, SVM)]
    for run in runs:
        module.run_seed(run)
        assert sorted(path.name for path in run.output.iterdir()) == ["metrics.json", "process.json"]
        module.write_aggregate(run.folder, seeds=1)
    ours, svm = (read(run.folder / "aggregate.json") for run in runs)
    # A field of the config that `finetune` has no setting for, and the same rows.
    assert ours["settings"]["model"]["initializer_range"] == 0.3
    assert ours["fingerprint"] == svm["fingerprint"]
    assert ours["core_parameters"] == 16 * 32 + 32 + 32 * 16 + 16 + 2 * 16 + 3 * 17
    assert (svm["core_parameters"], svm["calibration"], svm["verdict"]) == (None, None, None)
    module.write_overview(tmp_path)
    picture = draw_reproduction(tmp_path)
    assert picture is not None
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.with_suffix(".svg").read_text().rstrip().endswith("</svg>")


def result(recipe: str, *by_seed: float, claim: float | None = None) -> dict[str, Any]:
    """What an aggregate says of the accuracy of a recipe."""
    mean = sum(by_seed) / len(by_seed)
    return {
        "recipe": recipe,
        "data": "tiny-news",
        "accuracy": {"mean": mean, "low": None, "high": None, "by_seed": dict(enumerate(by_seed))},
        "claim": None if claim is None else {"accuracy": claim, "at_least": True},
    }


def test_a_claim_that_is_far_off_leaves_the_picture_to_what_was_measured(tmp_path: Path):
    near, far = result("near", 0.90, 0.92, claim=0.95), result("far", 0.91, claim=0.7168)
    assert find_range([near, far]) == pytest.approx((90, 95))
    assert find_range([far]) == pytest.approx((91, 91))
    above = result("above", 0.5, claim=0.99)
    assert find_range([above, result("other", 0.52)]) == pytest.approx((50, 52))
    drawn = draw_aggregates([near, far], tmp_path / "far.png").with_suffix(".svg").read_text()
    assert "<!-- 71.68 -->" in drawn  # what it says in glyphs is repeated in a comment
    assert "<!-- 95.00 -->" not in drawn
    assert "<!-- 99.00 -->" in draw_aggregates([above], tmp_path / "above.png").with_suffix(".svg").read_text()


# Numbers


def metrics(accuracy: float, **others: Any) -> dict[str, Any]:
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "duration_seconds": 10.0,
        "device": "cpu",
        "versions": {},
        "data": {"fingerprint": "f", "is_on_hub": False, "rows": {"train": 9, "validation": 1, "test": 1000}},
        "model": {"parameters": 5, "core_parameters": 3},
        "best": {"epoch": 1.0},
        "results": {name: {"accuracy": accuracy, "macro_f1": accuracy} for name in ("validation", "test")},
    } | others


def test_a_copy_of_a_run_is_not_one_of_the_seeds(tmp_path: Path):
    (tmp_path / "recipe.json").write_text(json.dumps(EXPERIMENT))
    for name, accuracy in (("seed-0", 0.9), ("seed-0.bak", 0.1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics(accuracy)))
    aggregate = module.write_aggregate(tmp_path, seeds=1)
    assert aggregate is not None
    assert aggregate["accuracy"]["by_seed"] == {"0": 0.9}


EXPERIMENT = json.loads(json.dumps(asdict(TINY) | {"rows": {"dataset": "/somewhere/tiny_news"}}))


def test_the_aggregate_is_what_one_works_out_by_hand():
    runs = {0: metrics(0.90), 1: metrics(0.92, duration_seconds=30.0), 4: metrics(0.94, duration_seconds=1.0)}
    processes = {
        0: {"peak_memory_mib": 500.0, "commit": "b"},
        1: {"peak_memory_mib": 700.0, "commit": "a"},
        4: {"resumed": True},
    }
    aggregate = summarise_runs(EXPERIMENT, runs, processes, {"2": "killed"})
    accuracy = aggregate["accuracy"]
    # Student's t of 2 degrees of freedom is 4.302653 at 97.5 %.
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert accuracy["mean"] == pytest.approx(0.92)
    assert accuracy["sd"] == pytest.approx(0.02)
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((0.92 - half, 0.92 + half), abs=1e-7)
    assert accuracy["by_seed"] == {"0": 0.90, "1": 0.92, "4": 0.94}
    assert (aggregate["seconds"], aggregate["peak_memory_mib"], aggregate["commits"]) == (20.0, 700.0, ["a", "b"])
    assert aggregate["missing"] == {"2": "killed"}
    assert aggregate["command"] == "wave-network reproduce tiny --seeds 3"
    assert "/somewhere" not in json.dumps(aggregate["settings"])


@pytest.mark.parametrize(
    ("claim", "held"),
    [
        # The standard error is sqrt(0.02^2 / 2 + 0.92 * 0.08 / 1000) = 0.01655: two of them are 0.0331.
        (Claim(0.952, "paper"), True),
        (Claim(0.954, "paper"), False),
        (Claim(0.888, "paper"), True),
        (Claim(0.886, "paper"), False),
        (Claim(0.92, "bar", at_least=True), True),
        (Claim(0.921, "bar", at_least=True), False),
        (Claim(0.5, "bar", at_least=True), True),
    ],
)
def test_a_claim_holds_within_two_standard_errors_and_a_bar_where_it_is_reached(claim: Claim, held: bool):
    spread = 0.02 / math.sqrt(2)
    runs = {0: metrics(0.92 - spread), 1: metrics(0.92 + spread)}
    aggregate = summarise_runs(EXPERIMENT | {"claim": asdict(claim)}, runs, {0: {}, 1: {}}, {})
    assert aggregate["accuracy"]["mean"] == 0.92
    assert aggregate["verdict"]["standard_error"] == pytest.approx(0.01655, abs=1e-5)
    assert aggregate["verdict"]["held"] is held


def test_a_single_run_has_no_interval():
    assert summarise_numbers([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None}
    assert summarise_numbers([]) is None


def test_calibration_is_taken_from_the_runs():
    fitted = {"temperature": 1.5, "test": {"ece": 0.01, "before": {"ece": 0.05}}}
    runs = {0: metrics(0.9, calibration=fitted), 1: metrics(0.9, calibration=fitted | {"temperature": 1.7})}
    found = summarise_runs(EXPERIMENT, runs, {0: {}, 1: {}}, {})["calibration"]
    assert found == {"ece_before": 0.05, "ece": 0.01, "temperatures": [1.5, 1.7]}
    plain = {0: metrics(0.9, calibration={"temperature": None, "test": {"ece": 0.04}}), 1: metrics(0.9)}
    found = summarise_runs(EXPERIMENT, plain, {0: {}, 1: {}}, {})["calibration"]
    assert found == {"ece_before": 0.04, "ece": None, "temperatures": []}


def test_runs_on_other_rows_are_not_averaged():
    other = metrics(0.9)
    other["data"] = other["data"] | {"fingerprint": "g"}
    with pytest.raises(ValueError, match="must have read the same rows"):
        summarise_runs(EXPERIMENT, {0: metrics(0.9), 1: other}, {0: {}, 1: {}}, {})


# What is refused


def test_an_unknown_recipe_suggests_the_nearest(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "ag-news-smal"])
    assert "no recipe 'ag-news-smal'. Did you mean ag-news-small" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Give at least one recipe"):
        reproduce(ReproduceArguments())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"seeds": 0}, "`seeds` must be at least 1, got 0"),
        ({"jobs": 0}, "`jobs` must be at least 1, got 0"),
        ({"tokenizer": "vocab.txt"}, "`tokenizer` ('vocab.txt') is for recipes that name one"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_written(
    others: dict[str, Any], message: str, data: Path, tmp_path: Path
):
    with pytest.raises(ValueError, match=re.escape(message)):
        reproduce(settings(data, tmp_path / "output", "tiny", **others), TINY_RECIPES)
    assert not (tmp_path / "output").exists()


def test_data_that_are_not_there_are_named(data: Path, tmp_path: Path):
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds Tiny News in a folder 'tiny_news', or that.*holds \['other'\]"):
        reproduce(settings(tmp_path, tmp_path / "output", "tiny"), TINY_RECIPES)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        reproduce(settings(tmp_path / "nothing", tmp_path / "output", "tiny"), TINY_RECIPES)
    # The folder of one data set is not that of another.
    assert module.find_folder(data / "tiny_news", TINY_DATA, is_alone=True) == data / "tiny_news"
    with pytest.raises(FileNotFoundError, match="holds Tiny News"):
        module.find_folder(data / "tiny_news", TINY_DATA, is_alone=False)
    with pytest.raises(FileNotFoundError, match=r"holds IMDB in a folder 'imdb', .*holds \['test.csv', 'train.csv'\]"):
        module.find_folder(data / "tiny_news", DATA_SETS["imdb"], is_alone=True)
    assert not (tmp_path / "output").exists()


def test_a_tokenizer_that_is_not_there_is_named(data: Path, tmp_path: Path):
    recipe = replace(TINY, model=TINY.model | {"tokenizer": "some/tokenizer"})
    with pytest.raises(FileNotFoundError, match=r"`tokenizer` must be a folder .*; '.*nowhere' is not there"):
        reproduce(
            settings(data, tmp_path / "output", "tiny", tokenizer=str(tmp_path / "nowhere")),
            TINY_RECIPES | {"tiny": recipe},
        )
    assert not (tmp_path / "output").exists()


def test_runs_of_another_recipe_are_not_gone_on_with(data: Path, tmp_path: Path):
    prepare(data, tmp_path, replace(TINY, model={}))
    run = prepare(data, tmp_path, TINY)  # there was no run of the first one
    run.output.mkdir()
    prepare(data, tmp_path, replace(TINY, about="in other words", claim=None))
    other = replace(TINY, model=TINY.model | {"hidden_size": 32})
    message = r"`model\.hidden_size` of the recipe tiny is now 32, and was 16 in the runs in .*Choose another"
    with pytest.raises(ValueError, match=message):
        prepare(data, tmp_path, other)
    assert read(tmp_path / "tiny" / "recipe.json")["model"]["hidden_size"] == 16


def test_a_results_file_that_is_none_is_kept(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    path.write_text("not JSON\n")
    aggregate = summarise_runs(EXPERIMENT, {0: metrics(0.9)}, {0: {}}, {})
    with pytest.raises(ValueError, match="must be a file of JSON lines"):
        module.add_result(path, aggregate)
    assert path.read_text() == "not JSON\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"loss": 0.5}\n', "line 1 has no 'recipe'"),
        (b"[]\n", "line 1 has no 'recipe'"),
        (RESULT + b'{"recipe": "tiny", "set', "line 2 is not JSON"),
        (RESULT + b"\xff\xfe\n", "line 2 is not JSON"),
        (None, "it is a folder"),
    ],
)
def test_a_results_file_of_something_else_is_refused_before_anything_is_run(
    data: Path, tmp_path: Path, content: bytes | None, message: str
):
    path = tmp_path / "results.jsonl"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"`results` must be a file of .*results\.jsonl': {message}"):
        reproduce(settings(data, tmp_path / "output", "tiny", results=str(path)), TINY_RECIPES)
    assert not (tmp_path / "output").exists()


def test_a_results_file_that_is_spoiled_meanwhile_keeps_no_recipe_from_its_aggregate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, output = tmp_path / "results.jsonl", tmp_path / "output"

    def run_all(runs: list[Run], *_: Any) -> None:
        for run in runs:
            run.output.mkdir()
            (run.output / "metrics.json").write_text(json.dumps(metrics(0.9)))
        path.write_text("not JSON\n")

    monkeypatch.setattr(module, "run_all", run_all)
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        reproduce(settings(data, output, "tiny", "no-phase", seeds=1, results=str(path)), TINY_RECIPES)
    assert [(output / name / "aggregate.json").is_file() for name in ("tiny", "no-phase")] == [True, True]
    assert (output / "README.md").is_file()


# The recipes


def test_the_list_names_each_recipe_and_what_it_is_compared_with(capsys: pytest.CaptureFixture[str]):
    cli.main(["reproduce", "--list"])
    shown = capsys.readouterr().out
    assert set(re.findall(r"^  (\S+)", shown, re.MULTILINE)) == set(RECIPES)
    assert re.search(r"ag-news-paper-modulation .*\[91\.66 %: paper, section 5\]", shown)
    assert re.search(r"ag-news-small .*\[≥ 92\.00 %: bar of ours\]", shown)


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_each_recipe_are_taken(name: str, tmp_path: Path):
    recipe, data_set = RECIPES[name], DATA_SETS[RECIPES[name].data]
    for where in (data_set.on_hub, data_set.in_folder):
        DataArguments("data", **{**data_set.settings, **where, **recipe.rows})
    if recipe.kind == "svm":
        return
    RunArguments(str(tmp_path), use_cpu=True, **recipe.training)
    if "model" in recipe.model:  # its architecture is that of another recipe
        assert recipe.model.keys() == {"model"}
        assert RECIPES[recipe.model["model"]].kind == "wave"
        return
    others = module.list_others({"model": recipe.model})
    own = {name: value for name, value in recipe.model.items() if name not in others}
    size = 30522 if "tokenizer" in recipe.model else recipe.model["vocab_size"]
    words = [*BertTokenizer().get_vocab(), *map(str, range(size - 5))]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=512)
    with torch.device("meta"):
        maker = ModelMaker(recipe.kind, others)
        model = maker(ModelArguments(**own), tokenizer, ["a", "b", "c", "d"])
    most = 12e6 if name.endswith("-medium") else 26e6 if "-paper-" in name else 2.4e6
    assert most / 2 < model.num_parameters() <= most


# Data from the Hub


def reproduce_from_hub(folder: str) -> dict[str, Any]:
    """In a process of its own: puts the data on the Hub, and runs a recipe on them."""
    api = HfApi()
    api.create_repo("news", repo_type="dataset")
    api.upload_folder(repo_id="tester/news", repo_type="dataset", folder_path=folder)
    DATA_SETS["tiny-news"] = TINY_DATA
    arguments = ReproduceArguments(["tiny"], output_dir="output")
    run = Run(module.write_experiment(Path("output/tiny"), module.describe_experiment(TINY, [TINY], arguments)), 0)
    module.run_seed(run)
    return module.write_aggregate(run.folder, seeds=1) or {}


def test_data_come_from_the_hub_by_name(data: Path, tmp_path: Path):
    with LoopbackHub(token="hf_right") as hub:
        aggregate = run_step(
            tmp_path, hub.url, "test_reproduce", "reproduce_from_hub", with_package=True, folder=str(data / "tiny_news")
        )
    assert aggregate["is_on_hub"] is True
    assert aggregate["rows"] == {"train": 108, "validation": 12, "test": 43}
    # The same rows as from the folder, so the same results in principle.
    run = prepare(data, tmp_path / "local", TINY)
    rows = module.describe_experiment(TINY, [TINY], settings(data, tmp_path))["rows"]
    assert rows == {"dataset": str(data / "tiny_news"), "label_column": "label"}
    assert read(run.folder / "recipe.json")["rows"] == rows
