"""Models pushed to and pulled from a Hub over real HTTP, each step in a fresh process, bit-equal each time.

The functions under "Steps" run in those processes (`run_step`), the tests look at what they returned and at what the
Hub holds. Nothing here imports torch or our package at the top: a step without our package must not have it.
"""

import json
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fresh_process import run_step
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "shares fell on wall street as oil prices rose again",
    "the striker scored twice and the home side won the final",
    "a new telescope sent back its first picture of a distant galaxy",
    "oil",
]
AUTO_MAP = {
    "AutoConfig": "configuration_wave.WaveConfig",
    "AutoModel": "modeling_wave.WaveModel",
    **{
        f"AutoModel{task}": f"modeling_wave.Wave{task}"
        for task in (
            "ForMaskedLM",
            "ForMultipleChoice",
            "ForQuestionAnswering",
            "ForSequenceClassification",
            "ForTokenClassification",
        )
    },
}
HEADS = sorted(set(AUTO_MAP) - {"AutoConfig", "AutoModel", "AutoModelForSequenceClassification"})
CODE = {
    "configuration_wave.py",
    "embeddings_wave.py",
    "fused_wave.py",
    "ops_wave.py",
    "pooling_wave.py",
    "triton_wave.py",
    "modeling_wave.py",
}
OWN_CARD = "# A card that someone wrote\n"
# Cards on the Hub, with placeholders left in them.
WRITTEN = {
    "tester/half": "---\nlicense: mit\n---\n# My model\nThree pages.\n## Bias\n[More Information Needed]\n",
    "tester/edited": "---\ntags: []\n---\n# Mine\nThis is the model card of a 🤗 transformers model that has been "
    "pushed on the Hub. This model card has been automatically generated.\nIt was. [More Information Needed]\n",
}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
MODEL = {"config.json", "model.safetensors"} | CODE


# Steps


def build_model(seed: int) -> tuple[Any, Any]:
    """A tiny classifier with random weights, and its tokenizer."""
    import torch

    from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer

    tokenizer = train_wave_tokenizer(TEXTS, vocab_size=80, show_progress=False)
    torch.manual_seed(seed)
    labels = {0: "business", 1: "sport", 2: "science"}
    config = WaveConfig(vocab_size=len(tokenizer), hidden_size=32, id2label=labels)
    return WaveForSequenceClassification(config).eval(), tokenizer


def compute_bits(model: Any, tokenizer: Any) -> list[str]:
    """The logits, or the hidden states of a base model, without any rounding."""
    import torch

    with torch.no_grad():
        output = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))[0]
    return [value.hex() for value in output.double().flatten().tolist()]


def compute_head_bits(model: Any, tokenizer: Any) -> list[str]:
    """The same of any head; the texts are the choices of one question where it takes choices."""
    import torch

    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    if "Choice" in type(model).__name__:
        inputs = {name: value[None] for name, value in inputs.items()}
    with torch.no_grad():
        outputs = model(**inputs).to_tuple()
    return [value.hex() for output in outputs for value in output.double().flatten().tolist()]


def describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def publish(folder: str) -> dict[str, Any]:
    """Every way in which a user of the package puts a model on the Hub."""
    import huggingface_hub

    models = [build_model(seed)[0] for seed in range(6)]
    _, tokenizer = build_model(0)
    bits = [compute_bits(model, tokenizer) for model in models]

    models[0].push_to_hub("tester/news")
    tokenizer.push_to_hub("tester/news")
    models[1].push_to_hub("tester/news", revision="draft")
    models[2].push_to_hub("tester/news", create_pr=True)
    models[3].save_pretrained(f"{folder}/request", push_to_hub=True, repo_id="tester/news", create_pr=True)
    models[4].save_pretrained(f"{folder}/saved", push_to_hub=True, repo_id="tester/saved")
    tokenizer.save_pretrained(f"{folder}/saved", push_to_hub=True, repo_id="tester/saved")
    models[5].push_to_hub("tester/sharded", max_shard_size="5KB")
    tokenizer.push_to_hub("tester/sharded")
    models[0].config.save_pretrained(f"{folder}/config", push_to_hub=True, repo_id="tester/config")
    models[0].config.push_to_hub("tester/bare")
    models[0].add_model_tags(["reviews"])
    models[0].push_to_hub("tester/tagged", tags=["mine"])
    api = huggingface_hub.HfApi()
    for name, card in WRITTEN.items():
        api.create_repo(name)
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=name)
        models[1].push_to_hub(name)
    return {
        "bits": bits,
        "base": compute_bits(models[0].wave, tokenizer),
        "heads": publish_heads(models[0].config, tokenizer),
    }


def publish_heads(config: Any, tokenizer: Any) -> dict[str, list[str]]:
    """The other heads, each with a convolution, in a repository of its own, under the name of its Auto class."""
    import copy

    import transformers

    bits = {}
    for name in HEADS:
        own = copy.deepcopy(config)
        own.conv_kernel_size = 3
        model = getattr(transformers, name).from_config(own).eval()
        model.push_to_hub(f"tester/{name}")
        tokenizer.push_to_hub(f"tester/{name}")
        bits[name] = compute_head_bits(model, tokenizer)
    return bits


def pull_heads(trust: bool | None) -> dict[str, list[str]]:
    import transformers

    bits = {}
    for name in HEADS:
        tokenizer = transformers.AutoTokenizer.from_pretrained(f"tester/{name}", trust_remote_code=False)
        model = getattr(transformers, name).from_pretrained(f"tester/{name}", trust_remote_code=trust)
        bits[name] = compute_head_bits(model, tokenizer)
    return bits


def pull(places: list[str], trust: bool | None) -> dict[str, Any]:
    """Loads each place, a folder or "name@revision", as a classifier. An error is returned, so that the rest loads."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    bits: dict[str, Any] = {}
    for place in places:
        name, _, revision = place.partition("@")
        where = {"revision": revision} if revision else {}
        try:
            model = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=trust, **where)
            bits[place] = compute_bits(model, AutoTokenizer.from_pretrained(name, trust_remote_code=trust, **where))
        except Exception as error:
            bits[place] = describe_error(error)
    return bits


def pull_news(places: list[str], trust: bool | None) -> dict[str, Any]:
    """`pull`, and the first repository through the other Auto classes and the pipeline."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained("tester/news", trust_remote_code=False)
    base = AutoModel.from_pretrained("tester/news", trust_remote_code=trust)
    classify = pipeline("text-classification", model="tester/news", trust_remote_code=trust)
    return {
        "tokenizer": type(tokenizer).__name__,
        "model_max_length": tokenizer.model_max_length,
        "labels": AutoConfig.from_pretrained("tester/config", trust_remote_code=trust).id2label,
        "origins": sorted({type(model).__module__.split(".")[0] for model in (base, base.config, classify.model)}),
        "base": compute_bits(base, tokenizer),
        "pipeline": compute_bits(classify.model, classify.tokenizer),
        "predictions": classify(TEXTS),
        "heads": pull_heads(trust),
        "bits": pull(places, trust),
    }


def pull_without_package(places: list[str], folder: str) -> dict[str, Any]:
    """Asks for the first repository without agreeing to run its code, then agrees, then saves and pushes it again."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    errors = []
    for auto_class in (AutoConfig, AutoModel, AutoModelForSequenceClassification):
        try:
            auto_class.from_pretrained("tester/news")
        except ValueError as error:
            errors.append(describe_error(error))
    pulled = pull_news(places, trust=True)

    tokenizer = AutoTokenizer.from_pretrained("tester/news", trust_remote_code=False)
    model = AutoModelForSequenceClassification.from_pretrained("tester/news", trust_remote_code=True)
    for part, name in ((model, "copy"), (model.wave, "base")):
        part.save_pretrained(f"{folder}/{name}")
        part.push_to_hub(f"tester/{name}")
        tokenizer.save_pretrained(f"{folder}/{name}")
        tokenizer.push_to_hub(f"tester/{name}")
    return {"errors": errors, **pulled}


def pull_copies(folder: str) -> dict[str, Any]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("tester/base", trust_remote_code=False)
    bases = [AutoModel.from_pretrained(name, trust_remote_code=True) for name in (f"{folder}/base", "tester/base")]
    return {
        "bases": [compute_bits(base, tokenizer) for base in bases],
        "copies": pull([f"{folder}/copy", "tester/copy"], trust=True),
    }


def train(folder: str) -> dict[str, list[str]]:
    """Two steps of transformers' own Trainer: once with its pushes on the way alone, once with the last one too."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    bits = {}
    for name, strategy in (("training", "every_save"), ("trained", "all_checkpoints")):
        model, tokenizer = build_model(6)
        trainer = Trainer(
            model,
            TrainingArguments(
                f"{folder}/{name}",
                max_steps=2,
                save_steps=1,
                per_device_train_batch_size=2,
                push_to_hub=True,
                hub_model_id=f"tester/{name}",
                hub_strategy=strategy,
                hub_always_push=True,
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=[{**tokenizer(text), "labels": index % 3} for index, text in enumerate(TEXTS)],
            processing_class=tokenizer,
        )
        trainer.train()
        if name == "trained":
            trainer.push_to_hub()
        bits[name] = compute_bits(model.eval(), tokenizer)
    return bits


def push_until_it_works(folder: str) -> dict[str, Any]:
    """The same push, again and again, to a Hub that fails in another way each time. The folder must load after each."""
    from unittest.mock import patch

    model, tokenizer = build_model(7)
    tokenizer.save_pretrained(folder)
    Path(folder, "README.md").write_text(OWN_CARD)
    outcomes, local = [], []
    for token in ("hf_wrong", None, None, None):
        try:
            with patch("time.sleep"):  # between the retries of huggingface_hub
                model.save_pretrained(folder, push_to_hub=True, repo_id="tester/stubborn", token=token)
            outcomes.append("pushed")
        except Exception as error:
            outcomes.append(describe_error(error))
        local.append(pull([folder], trust=None)[folder])
    tokenizer.save_pretrained(folder, push_to_hub=True, repo_id="tester/stubborn")
    return {
        "outcomes": outcomes,
        "bits": compute_bits(model, tokenizer),
        "local": local,
        "pulled": pull(["tester/stubborn"], trust=None)["tester/stubborn"],
    }


def use_a_hub_that_is_down(folder: str) -> dict[str, Any]:
    from unittest.mock import patch

    model, tokenizer = build_model(8)
    tokenizer.save_pretrained(folder)
    errors = []
    for push in (
        lambda: model.push_to_hub("tester/down"),
        lambda: model.save_pretrained(folder, push_to_hub=True, repo_id="tester/down"),
    ):
        try:
            push()
        except Exception as error:
            errors.append(describe_error(error))
    with patch("time.sleep"):  # between the retries of huggingface_hub
        errors.append(pull(["tester/down"], trust=None)["tester/down"])
    return {"errors": errors, "bits": compute_bits(model, tokenizer), "local": pull([folder], trust=None)[folder]}


def load_what_is_cut_short(folder: str) -> list[str]:
    """Loads a checkpoint after cutting its weights ever shorter, and one of several shards."""
    from transformers import AutoModelForSequenceClassification

    model, _ = build_model(9)
    model.save_pretrained(f"{folder}/whole")
    model.save_pretrained(f"{folder}/sharded", max_shard_size="5KB")
    errors = []
    for name, kept in (
        ("whole/model.safetensors", 0.99),
        ("whole/model.safetensors", 0.01),
        ("whole/model.safetensors", 0),
        ("sharded/model-00002-of-00004.safetensors", 0.5),
    ):
        weights = Path(folder, name)
        weights.write_bytes(weights.read_bytes()[: int(kept * weights.stat().st_size)])
        try:
            AutoModelForSequenceClassification.from_pretrained(weights.parent)
            errors.append(f"{weights} loaded")
        except Exception as error:
            errors.append(describe_error(error))
    return errors


def use_the_api() -> dict[str, Any]:
    """What the other steps do not ask of the Hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    name = api.create_repo("parts").repo_id
    api.upload_file(repo_id=name, path_or_fileobj=b"0123456789", path_in_repo="deep/digits.txt")
    url = f"{os.environ['HF_ENDPOINT']}/{name}/resolve/main/deep/digits.txt"
    request = urllib.request.Request(url, headers={"Range": "bytes=4-6"})
    with urllib.request.urlopen(request) as answer:
        part = [answer.status, answer.read().decode()]
    top = [entry.path for entry in api.list_repo_tree(name)]
    files = api.list_repo_files(name)
    api.delete_file("deep/digits.txt", repo_id=name)
    return {"user": api.whoami()["name"], "part": part, "top": top, "files": files}


# Running the steps


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(token="hf_right") as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def run(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def run_with_hub(step: str, *, with_package: bool, **arguments: Any) -> Any:
        home = tmp_path_factory.mktemp("home")
        return run_step(home, hub.url, "test_hub", step, with_package=with_package, **arguments)

    return run_with_hub


@pytest.fixture(scope="module")
def published(run: Any, folder: Path) -> dict[str, Any]:
    return run("publish", with_package=True, folder=str(folder / "published"))


@pytest.fixture(scope="module")
def trained(run: Any, folder: Path) -> dict[str, Any]:
    return run("train", with_package=True, folder=str(folder))


@pytest.fixture(scope="module")
def expected(published: dict[str, Any], trained: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """The bits that each place must give: a repository at a branch or a pull request, or a local folder."""
    places = [
        "tester/news@main",
        "tester/news@draft",
        "tester/news@refs/pr/1",
        "tester/news@refs/pr/2",
        "tester/saved@main",
        "tester/sharded@main",
    ]
    return {
        **dict(zip(places, published["bits"], strict=True)),
        "tester/training@main": trained["training"],
        "tester/trained@main": trained["trained"],
        str(folder / "trained/checkpoint-2"): trained["trained"],
    }


@pytest.fixture(scope="module")
def pulled_without_package(run: Any, expected: dict[str, list[str]], folder: Path) -> dict[str, Any]:
    return run("pull_without_package", with_package=False, places=list(expected), folder=str(folder / "again"))


@pytest.fixture(scope="module")
def pulled_with_package(run: Any, expected: dict[str, list[str]]) -> dict[str, Any]:
    return run("pull_news", with_package=True, places=list(expected), trust=None)


@pytest.fixture(scope="module")
def copies(run: Any, hub: LoopbackHub, pulled_without_package: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What was pushed again, while the repository that it came from is not there."""
    original = hub.repositories.pop("tester/news")
    try:
        return run("pull_copies", with_package=False, folder=str(folder / "again"))
    finally:
        hub.repositories["tester/news"] = original


@pytest.fixture(scope="module")
def stubborn(run: Any, hub: LoopbackHub, folder: Path) -> dict[str, Any]:
    # One upload and its five retries, then one commit.
    hub.failures = {"upload": 6, "commit": 1}
    return run("push_until_it_works", with_package=True, folder=str(folder / "stubborn"))


# Tests


@pytest.mark.parametrize(
    ("name", "revision", "files"),
    [
        ("tester/news", "main", MODEL | TOKENIZER | {"README.md"}),
        ("tester/news", "draft", MODEL | TOKENIZER | {"README.md"}),
        ("tester/news", "refs/pr/1", MODEL | TOKENIZER | {"README.md"}),
        ("tester/news", "refs/pr/2", MODEL | TOKENIZER | {"README.md"}),
        ("tester/saved", "main", MODEL | TOKENIZER | {"README.md"}),
        ("tester/config", "main", {"config.json", "README.md"} | CODE),
    ],
)
def test_a_push_is_complete(hub: LoopbackHub, published: dict[str, Any], name: str, revision: str, files: set[str]):
    pushed = hub.files(name, revision)
    assert set(pushed) == files
    assert json.loads(pushed["config.json"])["auto_map"] == AUTO_MAP


@pytest.mark.parametrize("name", ["tester/news", "tester/saved", "tester/training", "tester/bare", "tester/tagged"])
def test_the_card_of_a_push_says_what_the_model_is_and_leaves_no_placeholders(
    hub: LoopbackHub, published: dict[str, Any], trained: dict[str, list[str]], name: str
):
    card = hub.files(name)["README.md"].decode()
    assert "arxiv.org/abs/2411.02674" in card
    assert "More Information Needed" not in card


@pytest.mark.parametrize("name", list(WRITTEN))
def test_a_card_that_somebody_wrote_stays_as_it_is(hub: LoopbackHub, published: dict[str, Any], name: str):
    assert hub.files(name)["README.md"].decode() == WRITTEN[name]


def test_tags_of_a_push_are_on_the_card(hub: LoopbackHub, published: dict[str, Any]):
    card = ModelCard(hub.files("tester/tagged")["README.md"].decode())
    assert {"wave-network", "reviews", "mine"} <= set(card.data.tags)


def test_code_in_a_push_is_flat(hub: LoopbackHub, published: dict[str, Any]):
    for name in CODE:
        assert b"from .." not in hub.files("tester/news")[name]


def test_a_sharded_push_is_complete(hub: LoopbackHub, published: dict[str, Any]):
    pushed = hub.files("tester/sharded")
    shards = set(json.loads(pushed["model.safetensors.index.json"])["weight_map"].values())
    assert len(shards) > 1
    assert set(pushed) == (MODEL - {"model.safetensors"}) | TOKENIZER | shards | {
        "README.md",
        "model.safetensors.index.json",
    }


def test_trainer_pushes_are_complete_while_it_trains_and_after(hub: LoopbackHub, trained: dict[str, list[str]]):
    assert set(hub.files("tester/training")) >= MODEL | TOKENIZER | {"README.md"}
    assert set(hub.files("tester/trained")) >= MODEL | TOKENIZER | {"README.md"}


def test_trainer_checkpoints_are_complete_here_and_on_the_hub(
    hub: LoopbackHub, trained: dict[str, list[str]], folder: Path
):
    for step in (1, 2):
        checkpoint = f"checkpoint-{step}"
        here = {path.name for path in (folder / "trained" / checkpoint).iterdir()}
        pushed = {path.split("/")[1] for path in hub.files("tester/trained") if path.startswith(checkpoint)}
        assert here >= MODEL | TOKENIZER
        assert pushed == here


def test_without_the_package_and_without_trust_the_user_is_told_what_to_do(pulled_without_package: dict[str, Any]):
    assert len(pulled_without_package["errors"]) == 3
    for error in pulled_without_package["errors"]:
        assert error.startswith("ValueError: ")
        assert "tester/news" in error
        assert "trust_remote_code=True" in error


def test_without_the_package_every_place_gives_the_same_bits(
    pulled_without_package: dict[str, Any], expected: dict[str, list[str]]
):
    assert pulled_without_package["origins"] == ["transformers_modules"]
    assert pulled_without_package["bits"] == expected


def test_with_the_package_every_place_gives_the_same_bits_and_needs_no_trust(
    pulled_with_package: dict[str, Any], expected: dict[str, list[str]]
):
    assert pulled_with_package["origins"] == ["wave_network"]
    assert pulled_with_package["bits"] == expected


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_the_same_bits_with_and_without_the_package(
    hub: LoopbackHub, published: dict[str, Any], pulled_with_package: Any, pulled_without_package: Any, name: str
):
    assert set(hub.files(f"tester/{name}")) == MODEL | TOKENIZER | {"README.md"}
    assert pulled_with_package["heads"][name] == published["heads"][name]
    assert pulled_without_package["heads"][name] == published["heads"][name]


def test_the_other_auto_classes_load_the_classifier_both_ways(
    pulled_without_package: dict[str, Any], pulled_with_package: dict[str, Any], published: dict[str, Any]
):
    for pulled in (pulled_without_package, pulled_with_package):
        assert pulled["base"] == published["base"]
        assert pulled["labels"] == {"0": "business", "1": "sport", "2": "science"}
        assert pulled["tokenizer"] == PreTrainedTokenizerFast.__name__
        assert pulled["model_max_length"] == 512


def test_the_pipeline_works_both_ways(
    pulled_without_package: dict[str, Any], pulled_with_package: dict[str, Any], published: dict[str, Any]
):
    assert pulled_without_package["pipeline"] == pulled_with_package["pipeline"] == published["bits"][0]
    predictions = pulled_without_package["predictions"]
    assert predictions == pulled_with_package["predictions"]
    assert len(predictions) == len(TEXTS)
    assert {prediction["label"] for prediction in predictions} <= {"business", "sport", "science"}


@pytest.mark.parametrize("name", ["copy", "base"])
def test_a_model_that_came_with_its_code_is_saved_and_pushed_complete(
    hub: LoopbackHub, pulled_without_package: dict[str, Any], folder: Path, name: str
):
    saved = {path.name: path.read_bytes() for path in (folder / "again" / name).iterdir()}
    pushed = hub.files(f"tester/{name}")
    assert set(saved) == set(pushed) == MODEL | TOKENIZER | {"README.md"}
    for files in (saved, pushed):
        assert json.loads(files["config.json"])["auto_map"] == AUTO_MAP


def test_a_copy_stands_without_its_original(
    copies: dict[str, Any], pulled_without_package: dict[str, Any], published: dict[str, Any]
):
    assert list(copies["copies"].values()) == [published["bits"][0]] * 2
    assert copies["bases"] == [published["base"]] * 2


def test_a_refused_token_and_a_broken_upload_are_said_clearly_and_the_push_can_be_repeated(stubborn: dict[str, Any]):
    refused, upload, commit, last = stubborn["outcomes"]
    assert "401" in refused
    assert "Invalid credentials" in refused
    assert "model.safetensors" in upload
    assert "500" in commit
    assert "/commit/main" in commit
    assert last == "pushed"
    assert stubborn["pulled"] == stubborn["bits"]


def test_a_push_that_fails_leaves_the_local_folder_whole(stubborn: dict[str, Any], folder: Path):
    assert stubborn["local"] == [stubborn["bits"]] * 4
    assert {path.name for path in (folder / "stubborn").iterdir()} == MODEL | TOKENIZER | {"README.md"}
    assert (folder / "stubborn" / "README.md").read_text() == OWN_CARD


def test_a_push_that_fails_half_way_changes_nothing_on_the_hub(hub: LoopbackHub, stubborn: dict[str, Any]):
    empty, model, _ = hub.repositories["tester/stubborn"].commits.values()
    assert empty == {}
    assert set(model) == MODEL | {"README.md"}


def test_a_hub_that_is_down_is_said_clearly_and_the_local_folder_stays(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    folder = str(tmp_path / "local")
    result = run_step(tmp_path, url, "test_hub", "use_a_hub_that_is_down", with_package=True, folder=folder)
    push, save, pull = result["errors"]
    assert "Connection refused" in push
    assert "Connection refused" in save
    assert pull.startswith("OSError: ")
    assert url in pull
    assert result["local"] == result["bits"]


def test_the_loopback_hub_deletes_files_and_serves_parts_of_them(run: Any, hub: LoopbackHub):
    result = run("use_the_api", with_package=False)
    assert result == {
        "user": "tester",
        "part": [206, "456"],
        "top": ["deep"],
        "files": ["deep/digits.txt"],
    }
    assert hub.files("tester/parts") == {}


def test_a_checkpoint_cut_short_is_refused_by_its_name(run: Any, tmp_path: Path):
    errors = run("load_what_is_cut_short", with_package=True, folder=str(tmp_path))
    for error, name in zip(errors, ["whole", "whole", "whole", "sharded"], strict=True):
        assert f"The safetensors weights of '{tmp_path / name}' are cut short or damaged" in error
