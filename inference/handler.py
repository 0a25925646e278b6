"""
What an inference endpoint of the Hub calls: https://huggingface.co/docs/inference-endpoints/guides/custom_handler

Requests and answers are those of transformers' text-classification pipeline.
"""

from collections.abc import Mapping
from typing import Any

from .classify import ExportedClassifier, Text

MAX_TEXTS = 256  # of one request


class EndpointHandler:
    def __init__(self, path: str = ""):
        self.classifier = ExportedClassifier(path)

    def __call__(self, data: Mapping[str, Any]) -> list[Any]:
        """
        Args:
            data: `{"inputs": ..., "parameters": {"top_k": ...}}`. The inputs are a text or a list of texts; a pair is
                `{"text": ..., "text_pair": ...}`. `top_k` is a number of labels, or null for all.

        Raises:
            ValueError: The request is not as described; the message names the field.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        items = inputs if isinstance(inputs, list) else [inputs]
        top_k = parameters.get("top_k", 1)
        if not 1 <= len(items) <= MAX_TEXTS:
            raise ValueError(f"`inputs` must hold 1 to {MAX_TEXTS} texts, got {len(items)}.")
        if not parameters.keys() <= {"top_k"} or not (top_k is None or (type(top_k) is int and top_k > 0)):
            raise ValueError(f"`parameters` must be a `top_k` of at least 1 or null, got {parameters!r:.200}.")
        results = self.classifier.classify([read_text(item) for item in items], top_k)
        if "top_k" not in parameters:
            return [best[0] for best in results]
        return results if isinstance(inputs, list) else results[0]


def read_text(item: Any) -> Text:
    if isinstance(item, Mapping) and item.keys() == {"text", "text_pair"}:
        item = (item["text"], item["text_pair"])
    if not all(isinstance(part, str) for part in (item if isinstance(item, tuple) else (item,))):
        raise ValueError(f'`inputs` must be texts, or pairs {{"text": ..., "text_pair": ...}}, got {item!r:.80}.')
    return item
