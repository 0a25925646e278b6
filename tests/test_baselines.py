"""What the Wave Network is compared with: each model learns through `finetune`, and is what it says it is."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, make_rows, write_csv, write_data
from transformers import BertTokenizer, PreTrainedModel

from wave_network import WaveConfig
from wave_network.training.baselines import KINDS, ModelMaker, train_svm
from wave_network.training.data import load_text_data
from wave_network.training.finetune import finetune
from wave_network.training.recipes import RECIPES, RIVALS
from wave_network.training.reproduce import list_others
from wave_network.training.settings import DataArguments, ModelArguments, RunArguments

VOCABULARY, WIDTH, NGRAMS, LABELS, LENGTH = 50, 16, 64, 3, 32
TOKENIZER = BertTokenizer(
    vocab={
        token: index for index, token in enumerate([*BertTokenizer().get_vocab(), *map(str, range(VOCABULARY - 5))])
    },
    model_max_length=LENGTH,
)
MODEL = {
    "hidden_size": WIDTH,
    "conv_kernel_size": 0,
    "ngram_vocab_size": NGRAMS,
    "wave_operation": "interference",
    "hidden_dropout_prob": 0.1,
}
EXTRA: dict[str, dict[str, Any]] = {"transformer": {"num_attention_heads": 2}}
# The layer: two maps with their biases, and a normalisation; then the classifier.
WAVE_CORE = WIDTH * 2 * WIDTH + 2 * WIDTH + 2 * WIDTH * WIDTH + WIDTH + 2 * WIDTH + LABELS * (WIDTH + 1)
# Queries, keys, values, output; up and down by four; two normalisations; the pooler of BERT and FNet; the classifier.
FEED_FORWARD = WIDTH * 4 * WIDTH + 4 * WIDTH + 4 * WIDTH * WIDTH + WIDTH
STOCK_HEAD = WIDTH * WIDTH + WIDTH + LABELS * (WIDTH + 1)
# 100 maps for each width with their biases, and the classifier.
CNN_CORE = 300 * 4 * WIDTH + 300 + LABELS * 301


def make(kind: str, **config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(LABELS)]
    return ModelMaker(kind, EXTRA.get(kind, {}) | config)(ModelArguments(**MODEL), TOKENIZER, names).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_each_learns_through_finetune(kind: str, tmp_path: Path):
    """Two steps move its weights, and the record says whose run it was."""
    (tmp_path / "data").mkdir()
    settings = {name: value for name, value in SMALL.items() if name in RunArguments.__dataclass_fields__}
    settings |= {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    made, started = [], []

    def make_model(*arguments: Any) -> PreTrainedModel:
        made.append(ModelMaker(kind, EXTRA.get(kind, {}))(*arguments))
        started.append({name: weight.clone() for name, weight in made[0].state_dict().items()})
        return made[0]

    folder = finetune(
        DataArguments(str(write_data(tmp_path / "data"))),
        ModelArguments(**MODEL, vocab_size=200, max_length=LENGTH),
        RunArguments(str(tmp_path / "run"), **settings),
        make_model=make_model,
    )
    record = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert record["settings"]["model"].startswith("make_model=")
    assert record["results"]["test"]["rows"] == 43
    assert record["model"]["parameters"] == made[0].num_parameters()
    moved = {name for name, weight in made[0].state_dict().items() if not torch.equal(weight, started[0][name])}
    assert moved >= {name for name, parameter in made[0].named_parameters() if "classifier" in name}
    assert any("embeddings" in name for name in moved)
    assert all(parameter.isfinite().all() for parameter in made[0].parameters())


@pytest.mark.parametrize(
    ("kind", "core", "tables"),
    [
        ("wave", WAVE_CORE, VOCABULARY + NGRAMS),
        ("no_phase", WAVE_CORE, VOCABULARY + NGRAMS),
        ("no_context", WAVE_CORE, VOCABULARY + NGRAMS),
        ("bag", WAVE_CORE, VOCABULARY + NGRAMS),
        ("fasttext", LABELS * (WIDTH + 1), VOCABULARY + NGRAMS),
        (
            "transformer",
            4 * (WIDTH * WIDTH + WIDTH) + FEED_FORWARD + 3 * 2 * WIDTH + STOCK_HEAD,
            VOCABULARY + LENGTH + 2,
        ),
        ("cnn", CNN_CORE, VOCABULARY + NGRAMS),
        ("fnet", FEED_FORWARD + 3 * 2 * WIDTH + WIDTH * WIDTH + WIDTH + STOCK_HEAD, VOCABULARY + LENGTH + 4),
    ],
)
def test_the_parameters_are_counted(kind: str, core: int, tables: int):
    model = make(kind)
    assert model.num_parameters() == core + tables * WIDTH
    assert model.num_parameters(exclude_embeddings=True) == core


def count_parameters(name: str, **changes: Any) -> int:
    """Of the model of a recipe, with 20 classes, which is the most, and all words that its vocabulary may have."""
    recipe = RECIPES[name]
    while "model" in recipe.model:
        recipe = RECIPES[recipe.model["model"]]
    model = dict(recipe.model) | changes
    others = list_others({"model": model})
    words = {str(index): index for index in range(model["vocab_size"] - 5)}
    tokenizer = BertTokenizer(
        vocab={token: index for index, token in enumerate([*BertTokenizer().get_vocab(), *words])},
        model_max_length=model.get("max_length", 512),
    )
    known = {key: value for key, value in model.items() if key not in others}
    names = [f"class {index}" for index in range(20)]
    with torch.device("meta"):
        return ModelMaker(recipe.kind, others)(ModelArguments(**known), tokenizer, names).num_parameters()


@pytest.mark.parametrize(
    "name", [name for name, recipe in RECIPES.items() if recipe.kind != "svm" and "-paper-" not in name]
)
def test_no_model_is_larger_than_its_size_says(name: str):
    most = 12_000_000 if name.endswith("-medium") else 2_400_000
    assert count_parameters(name) <= most
    if RECIPES[name].kind in RIVALS:  # as wide as it can be
        assert count_parameters(name, hidden_size=RECIPES[name].model["hidden_size"] + 8) > most


def run_mixing(kind: str, hidden_states: torch.Tensor, **config: Any) -> torch.Tensor:
    return make(kind, **config).wave.layers[0].mixing(hidden_states, torch.ones(hidden_states.shape[:2]).bool())


@pytest.mark.parametrize("kind", ["bag", "no_context", "no_phase"])
@pytest.mark.parametrize("operation", ["interference", "modulation"])
@pytest.mark.parametrize("restore", ["linear", "magnitude"])
def test_what_is_taken_out_is_out(kind: str, operation: str, restore: str):
    """Without context a token sees nothing of the others; without phase all tokens get the same."""
    torch.manual_seed(1)
    config = {"wave_operation": operation, "restore": restore, "initializer_range": 0.3}
    text_BLD = torch.randn(1, 5, WIDTH)
    other_BLD = torch.cat([text_BLD[:, :2], torch.randn(1, 3, WIDTH)], dim=1)
    mixed, with_others = (run_mixing(kind, x_BLD, **config) for x_BLD in (text_BLD, other_BLD))
    wave = run_mixing("wave", text_BLD, **config)
    # The magnitude of a product has lost the phase anyway: docs/maths.md, section 3.
    had_no_phase = (kind, operation, restore) == ("no_phase", "modulation", "magnitude")
    assert torch.allclose(mixed, wave, atol=1e-4) == had_no_phase
    if kind == "no_phase":
        torch.testing.assert_close(mixed, mixed[:, :1].expand_as(mixed))
        assert not torch.allclose(mixed[:, :2], with_others[:, :2], atol=1e-4)
    else:
        torch.testing.assert_close(mixed[:, :2], with_others[:, :2])
        assert not torch.allclose(mixed[:, :1], mixed[:, 1:2], atol=1e-4)


@pytest.mark.parametrize("restore", ["linear", "magnitude"])
def test_an_ablation_starts_from_the_weights_of_the_wave(restore: str):
    wave = make("wave", restore=restore).state_dict()
    for kind in ("bag", "no_context", "no_phase"):
        own = make(kind, restore=restore).state_dict()
        assert own.keys() == wave.keys()
        assert all(torch.equal(own[name], wave[name]) for name in wave)


def test_fields_of_the_config_alone_are_taken():
    config = make("wave", restore="magnitude", initializer_range=0.3).config
    assert isinstance(config, WaveConfig)
    assert (config.restore, config.initializer_range, config.hidden_size) == ("magnitude", 0.3, WIDTH)
    assert config.id2label[2] == "class 2"


@pytest.mark.parametrize("kind", ["fasttext", "cnn"])
@pytest.mark.parametrize("text", ["7 8", "7"])
def test_padding_changes_nothing(kind: str, text: str):
    model = make(kind)
    texts = TOKENIZER(["1 2 3 4 5 6 7 8 9 10", text], padding=True, return_tensors="pt")
    alone = TOKENIZER([text], return_tensors="pt")
    with torch.no_grad():
        padded, plain = (model(batch["input_ids"], batch["attention_mask"]).logits for batch in (texts, alone))
    torch.testing.assert_close(padded[1:], plain)


def test_the_convolutions_see_the_order_and_not_how_often():
    """The largest value of a map is the same if what it answers to is repeated; where a mean is taken it is not."""
    texts = TOKENIZER(["1 2 3", "3 2 1", " 7" * 8, " 7" * 12], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits, means = (make(kind)(texts["input_ids"], texts["attention_mask"]).logits for kind in ("cnn", "fasttext"))
    assert not torch.allclose(logits[0], logits[1], atol=1e-5)
    torch.testing.assert_close(logits[2], logits[3])
    assert not torch.allclose(means[2], means[3], atol=1e-5)


@pytest.mark.parametrize("names", [("sport", "money"), ("sport", "money", "space")])
def test_the_svm_learns_from_training_and_validation_rows(names: tuple[str, ...], tmp_path: Path):
    for split, count in (("train", 60), ("validation", 30), ("test", 31)):
        write_csv(tmp_path / f"{split}.csv", make_rows(count, seed=count, names=names))
    data = load_text_data(tmp_path)
    train_svm(data, tmp_path / "run", seed=3)
    record = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    words = {pair for row in [*data.train["text"], *data.validation["text"]] for pair in pairs(row.split())}
    assert record["model"]["parameters"] == (len(words) + 1) * (1 if len(names) == 2 else 3)
    assert record["results"]["test"]["accuracy"] > 0.6
    assert sum(map(sum, record["results"]["test"]["confusion"])) == 31
    assert record["data"]["fingerprint"] == data.fingerprint


def pairs(words: list[str]) -> set[str]:
    return {*words, *(f"{first} {second}" for first, second in itertools.pairwise(words))}
