"""
What an inference endpoint of the Hub calls: https://huggingface.co/docs/inference-endpoints/guides/custom_handler

Requests and answers are those of transformers' text-classification pipeline: `{"inputs": ..., "parameters": {"top_k":
1}}`. A text is a string, and a pair `{"text": ..., "text_pair": ...}`. A ValueError names the field that is not so.
"""

from collections.abc import Mapping
from typing import Any

from .classify import ExportedClassifier

MAX_TEXTS = 256  # of one request


class EndpointHandler:
    def __init__(self, path: str = ""):
        self.classifier = ExportedClassifier(path)

    def __call__(self, data: Mapping[str, Any]) -> list[Any]:
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        items = inputs if isinstance(inputs, list) else [inputs]
        texts: list[Any] = [(raw.get("text"), raw.get("text_pair")) if isinstance(raw, dict) else raw for raw in items]
        top_k = parameters.get("top_k", 1)
        if not 1 <= len(items) <= MAX_TEXTS:
            raise ValueError(f"`inputs` must hold 1 to {MAX_TEXTS} texts, got {len(items)}.")
        for text in texts:
            if not all(isinstance(part, str) for part in (text if isinstance(text, tuple) else [text])):
                raise ValueError(f"`inputs` must be texts, or pairs of `text` and `text_pair`, got {text!r:.80}.")
        if not parameters.keys() <= {"top_k"} or not (top_k is None or (type(top_k) is int and top_k > 0)):
            raise ValueError(f"`parameters` must be a `top_k` of at least 1 or null, got {parameters!r:.200}.")
        results = self.classifier.classify(texts, top_k)
        if "top_k" not in parameters:
            return [best[0] for best in results]
        return results if isinstance(inputs, list) else results[0]
