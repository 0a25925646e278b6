"""What a user without the package does: everything here runs in one process that has transformers and not our package.

Run by `run_step` of fresh_process.py. Nothing here imports our package.
"""

from collections.abc import Sequence
from typing import Any


def compute_bits(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """All outputs without any rounding. A head of choices reads the texts as those of one question."""
    import torch

    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    if "Choice" in type(model).__name__:
        inputs = {name: value[None] for name, value in inputs.items()}
    with torch.no_grad():
        outputs = model.eval()(**inputs).to_tuple()
    return [value.hex() for output in outputs for value in output.double().flatten().tolist()]


def use_everything(heads: list[str], texts: list[str], folder: str) -> dict[str, Any]:
    """Pulls each head and an adapter from the Hub, classifies, embeds, and saves and pushes what it has again."""
    import transformers
    from peft import AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
    from sentence_transformers import SentenceTransformer

    result: dict[str, Any] = {}
    try:
        transformers.AutoModel.from_pretrained("tester/AutoModel")
    except ValueError as error:
        result["refusal"] = str(error)
    tokenizer = transformers.AutoTokenizer.from_pretrained("tester/AutoModel", trust_remote_code=False)
    models = {
        name: getattr(transformers, name).from_pretrained(f"tester/{name}", trust_remote_code=True) for name in heads
    }
    result["origins"] = sorted({type(model).__module__.split(".")[0] for model in models.values()})
    result["heads"] = {name: compute_bits(model, tokenizer, texts) for name, model in models.items()}

    name = "AutoModelForSequenceClassification"
    pipe = transformers.pipeline("text-classification", model=f"tester/{name}", trust_remote_code=True, device="cpu")
    result["pipeline"] = [entry["label"] for entry in pipe(texts)]
    models[name].save_pretrained(f"{folder}/again")
    models[name].push_to_hub("tester/again")
    again = [
        transformers.AutoModelForSequenceClassification.from_pretrained(place, trust_remote_code=True)
        for place in (f"{folder}/again", "tester/again")
    ]
    result["again"] = [compute_bits(model, tokenizer, texts) for model in again]

    adapted = AutoPeftModelForSequenceClassification.from_pretrained("tester/adapter", trust_remote_code=True)
    result["adapter"] = compute_bits(adapted.base_model.model, tokenizer, texts)
    fresh = get_peft_model(models[name], LoraConfig(task_type="SEQ_CLS", target_modules=["variants", "restore"]))
    result["targets"] = sorted(fresh.targeted_module_names)
    encoder = SentenceTransformer("tester/AutoModel", device="cpu", trust_remote_code=True)
    result["embeddings"] = [value.hex() for value in encoder.encode(texts).astype(float).flatten().tolist()]
    return result
