"""Models pushed to and pulled from a Hub over real HTTP, in one process with our package and one without: bit-equal.

`publish` and `use_everything` (without_package.py) run in those processes, the tests look at what they returned and at
what the Hub holds.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from fresh_process import run_step
from loopback_hub import LoopbackHub

TEXTS = [
    "shares fell on wall street as oil prices rose again",
    "the striker scored twice and the home side won the final",
    "a new telescope sent back its first picture of a distant galaxy",
    "oil",
]
AUTO_MAP = {
    "AutoConfig": "configuration_wave.WaveConfig",
    "AutoModel": "modeling_wave.WaveModel",
    "AutoModelForMaskedLM": "modeling_wave.WaveForMaskedLM",
    "AutoModelForMultipleChoice": "modeling_wave.WaveForMultipleChoice",
    "AutoModelForQuestionAnswering": "modeling_wave.WaveForQuestionAnswering",
    "AutoModelForSequenceClassification": "modeling_wave.WaveForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_wave.WaveForTokenClassification",
}
HEADS = [name for name in AUTO_MAP if name != "AutoConfig"]
CODE = {
    "configuration_wave.py",
    "documents_wave.py",
    "embeddings_wave.py",
    "fused_wave.py",
    "modeling_wave.py",
    "ops_wave.py",
    "pooling_wave.py",
}
MODEL = {"config.json", "model.safetensors"} | CODE
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


def publish(folder: str) -> dict[str, Any]:
    """Every way in which a user of the package puts a model on the Hub, and what each must compute."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model
    from sentence_transformers import SentenceTransformer
    from without_package import compute_bits

    from wave_network import WaveConfig, train_wave_tokenizer

    tokenizer = train_wave_tokenizer(TEXTS, vocab_size=80, show_progress=False)
    labels = {0: "business", 1: "sport", 2: "science"}
    bits, pulled, models = {}, {}, {}
    for seed, name in enumerate(HEADS):
        torch.manual_seed(seed)
        config = WaveConfig(
            vocab_size=len(tokenizer), hidden_size=32, id2label=labels, conv_kernel_size=3, ngram_vocab_size=90
        )
        models[name] = model = getattr(transformers, name).from_config(config).eval()
        model.push_to_hub(f"tester/{name}")
        tokenizer.push_to_hub(f"tester/{name}")
        bits[name] = compute_bits(model, tokenizer, TEXTS)
        again = getattr(transformers, name).from_pretrained(f"tester/{name}")
        assert type(again) is type(model)
        pulled[name] = compute_bits(again, tokenizer, TEXTS)
    model = models["AutoModelForSequenceClassification"]
    model.save_pretrained(f"{folder}/saved", push_to_hub=True, repo_id="tester/saved")
    model.push_to_hub("tester/sharded", max_shard_size="5KB")
    model.config.save_pretrained(f"{folder}/config", push_to_hub=True, repo_id="tester/config")
    encoder = SentenceTransformer("tester/AutoModel", device="cpu")
    result = {
        "bits": bits,
        "pulled": pulled,
        "embeddings": [value.hex() for value in encoder.encode(TEXTS).astype(float).flatten().tolist()],
        "labels": [
            labels[row] for row in model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))[0].argmax(-1).tolist()
        ],
    }
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["variants", "restore"], init_lora_weights=False)
    base = transformers.AutoModelForSequenceClassification.from_pretrained("tester/AutoModelForSequenceClassification")
    adapted = get_peft_model(base, lora)
    adapted.push_to_hub("tester/adapter")
    return result | {"adapter": compute_bits(adapted.base_model.model, tokenizer, TEXTS)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The Hub, the folder of local saves, and what the two processes returned."""
    folder, homes = tmp_path_factory.mktemp("local"), [tmp_path_factory.mktemp("home") for _ in range(2)]
    with LoopbackHub(token="hf_right") as hub:
        published = run_step(homes[0], hub.url, "test_hub", "publish", with_package=True, folder=str(folder))
        used = run_step(
            homes[1],
            hub.url,
            "without_package",
            "use_everything",
            with_package=False,
            heads=HEADS,
            texts=TEXTS,
            folder=str(folder),
        )
        yield hub, folder, published, used


@pytest.mark.parametrize(
    ("name", "files"),
    [
        *((name, MODEL | TOKENIZER) for name in HEADS),
        ("saved", MODEL),
        ("again", MODEL),
        ("config", {"config.json"} | CODE),
    ],
)
def test_a_push_is_complete_and_its_code_is_flat(results, name: str, files: set[str]):
    pushed = results[0].files(f"tester/{name}")
    assert set(pushed) - {"README.md"} == files
    assert json.loads(pushed["config.json"])["auto_map"] == AUTO_MAP
    assert all(b"from .." not in pushed[file] for file in CODE)


def test_saves_are_complete_and_shards_too(results):
    hub, folder, *_ = results
    for name in ("saved", "again"):
        assert {path.name for path in Path(folder, name).iterdir()} - {"README.md"} == MODEL
    pushed = hub.files("tester/sharded")
    shards = set(json.loads(pushed["model.safetensors.index.json"])["weight_map"].values())
    assert len(shards) > 1
    assert set(pushed) >= (MODEL - {"model.safetensors"}) | shards


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_the_same_bits_with_and_without_the_package(results, name: str):
    _, _, published, used = results
    assert published["pulled"][name] == published["bits"][name]
    assert used["heads"][name] == published["bits"][name]


def test_without_the_package_code_is_run_only_with_trust(results):
    used = results[3]
    assert "tester/AutoModel" in used["refusal"]
    assert "trust_remote_code=True" in used["refusal"]
    assert used["origins"] == ["transformers_modules"]


def test_without_the_package_pipelines_adapters_embeddings_and_copies_work(results):
    _, _, published, used = results
    assert used["pipeline"] == published["labels"]
    assert used["again"] == [published["bits"]["AutoModelForSequenceClassification"]] * 2
    assert used["adapter"] == published["adapter"] != published["bits"]["AutoModelForSequenceClassification"]
    assert used["targets"] == ["wave.layers.0.mixing.restore", "wave.layers.0.mixing.variants"]
    assert used["embeddings"] == published["embeddings"]
