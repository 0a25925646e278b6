"""What the tests of other libraries do in a process that has transformers and these libraries, but not our package.

Run by `run_step`. Nothing here imports our package.
"""

from collections.abc import Sequence
from typing import Any


def compute_bits(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The logits without any rounding."""
    import torch

    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return [value.hex() for value in logits.double().flatten().tolist()]


def classify(folder: str, texts: list[str]) -> dict[str, Any]:
    """Loads a classifier from its folder and asks it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return {"origin": type(model).__module__.split(".")[0], "bits": compute_bits(model, tokenizer, texts)}


def adapt(folder: str, texts: list[str]) -> dict[str, Any]:
    """Pushes a base and its adapter, loads them from the Hub, and makes a new adapter by PEFT's defaults."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(f"{folder}/base", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/base", trust_remote_code=False)
    base.push_to_hub("tester/base")
    tokenizer.push_to_hub("tester/base")
    pulled = [
        AutoModelForSequenceClassification.from_pretrained("tester/base", trust_remote_code=True) for _ in range(2)
    ]
    from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model

    fresh = get_peft_model(base, LoraConfig(task_type="SEQ_CLS"))
    adapted = PeftModel.from_pretrained(pulled[0], f"{folder}/adapter")
    adapted.peft_config["default"].base_model_name_or_path = "tester/base"
    adapted.push_to_hub("tester/adapter")
    models = {
        "PeftModel": PeftModel.from_pretrained(pulled[1], "tester/adapter"),
        "AutoPeftModel": AutoPeftModelForSequenceClassification.from_pretrained(
            "tester/adapter", trust_remote_code=True
        ),
    }
    return {
        "origin": type(base).__module__.split(".")[0],
        "targets": sorted(fresh.targeted_module_names),
        "bits": {name: compute_bits(model.eval(), tokenizer, texts) for name, model in models.items()},
    }


def embed(folder: str, texts: list[str]) -> dict[str, Any]:
    """Loads a sentence-transformers model from a folder and from the Hub, and saves it again."""
    from sentence_transformers import SentenceTransformer

    refusal = ""
    try:
        SentenceTransformer(folder, device="cpu")
    except ValueError as error:
        refusal = str(error)
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
    model.push_to_hub("tester/embeddings")
    model.save_pretrained("again")
    places = {"folder": folder, "hub": "tester/embeddings", "saved again": "again"}
    bits = {}
    for name, place in places.items():
        vectors = SentenceTransformer(place, device="cpu", trust_remote_code=True).encode(texts)
        bits[name] = [value.hex() for value in vectors.astype(float).flatten().tolist()]
    return {"origin": type(model[0].auto_model).__module__.split(".")[0], "refusal": refusal, "bits": bits}


def run_pipelines(folders: dict[str, str], texts: list[str]) -> dict[str, Any]:
    """What each pipeline says of the texts, to the last bit; with our package imported it needs no trust."""
    import json
    import sys

    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

    trust = None if "wave_network" in sys.modules else True
    pipes = {
        task: pipeline(task, model=folder, device="cpu", trust_remote_code=trust)
        for task, folder in folders.items()
        if task != "question-answering"  # not a task any more
    }
    model = AutoModelForQuestionAnswering.from_pretrained(folders["question-answering"], trust_remote_code=trust)
    tokenizer = AutoTokenizer.from_pretrained(folders["question-answering"], trust_remote_code=False)
    outputs = [model(**tokenizer("where ?", text, return_tensors="pt")) for text in texts]
    models = [model, *(pipe.model for pipe in pipes.values())]
    results = {
        "origins": sorted({type(model).__module__.split(".")[0] for model in models}),
        "text-classification": pipes["text-classification"](texts, top_k=None),
        "fill-mask": pipes["fill-mask"]([f"{text} [MASK]" for text in texts]),
        "token-classification": [
            pipes["token-classification"](texts, aggregation_strategy=strategy, ignore_labels=[])
            for strategy in ("simple", "first", "average", "max")
        ],
        "question-answering": [[output.start_logits.tolist(), output.end_logits.tolist()] for output in outputs],
        "feature-extraction": pipes["feature-extraction"](texts),
        "zero-shot-classification": pipes["zero-shot-classification"](texts, candidate_labels=["rain", "a train"]),
    }
    return json.loads(json.dumps(results, default=float))
