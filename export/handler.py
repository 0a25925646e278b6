"""What an inference endpoint of the Hub calls: https://huggingface.co/docs/inference-endpoints/guides/custom_handler

Requests and answers are those of transformers' text-classification pipeline.
"""

from collections.abc import Mapping
from typing import Any

from .runtime import ExportedClassifier, Text

# Of one request. A text that is too long for the model is cut off, unless the request says otherwise.
MAX_TEXTS = 256
PARAMETERS = ("function_to_apply", "top_k", "truncation")


class EndpointHandler:
    """
    Args:
        path: The exported folder.
    """

    def __init__(self, path: str = ""):
        self.classifier = ExportedClassifier(path)

    def __call__(self, data: Mapping[str, Any]) -> list[Any]:
        """
        Args:
            data: `{"inputs": ..., "parameters": {...}}`. The inputs are a text, or a list of at most `MAX_TEXTS` of
                them; a pair of texts is `{"text": ..., "text_pair": ...}`. The parameters, which may be missing, are
                those of the pipeline: `top_k`, so many labels or null for all; `function_to_apply`; and `truncation`,
                true unless given: false refuses texts that are too long for the model.

        Returns:
            What the pipeline returns: without `top_k` the best label of each text, `[{"label": ..., "score": ...}]`;
            with it a list of labels, for a list of inputs one such list for each.

        Raises:
            ValueError: The request is not as described; the message names the field, what it holds and what may be.
        """
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError('The request must be a JSON object with "inputs", a text or a list of texts.')
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        if not isinstance(parameters, Mapping) or not parameters.keys() <= set(PARAMETERS):
            raise ValueError(
                f"`parameters` must be an object with some of {list(PARAMETERS)}, got {parameters!r:.200}."
            )
        truncation = parameters.get("truncation", True)
        if not isinstance(truncation, bool):
            raise ValueError(f"`parameters.truncation` must be true or false, got {truncation!r:.80}.")
        is_list = isinstance(inputs, list)
        texts = self.read_texts(inputs if is_list else [inputs])
        if not truncation:
            self.check_lengths(texts)
        results = self.classifier.classify(texts, parameters.get("top_k", 1), parameters.get("function_to_apply"))
        if "top_k" not in parameters:
            return [best[0] for best in results]
        return results if is_list else results[0]

    def read_texts(self, inputs: list[Any]) -> list[Text]:
        if not 1 <= len(inputs) <= MAX_TEXTS:
            raise ValueError(f"`inputs` must hold 1 to {MAX_TEXTS} texts, got {len(inputs)}.")
        return [self.read_text(item, index) for index, item in enumerate(inputs)]

    def read_text(self, item: Any, index: int) -> Text:
        is_pair = isinstance(item, Mapping) and item.keys() == {"text", "text_pair"}
        parts = (item["text"], item["text_pair"]) if is_pair else (item, "")
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f'`inputs` must be texts, or pairs {{"text": ..., "text_pair": ...}}, got {item!r:.80} at {index}.'
            )
        if not any(part.strip() for part in parts):
            raise ValueError(f"`inputs` must not be empty texts, got {item!r:.80} at {index}.")
        return parts if is_pair else item

    def check_lengths(self, texts: list[Text]) -> None:
        allowed = self.classifier.max_length
        for index, count in enumerate(self.classifier.count_tokens(texts)):
            if count > allowed:
                raise ValueError(
                    f"`inputs` must be texts of at most {allowed} tokens, got {count} at {index}. With "
                    "`parameters.truncation` true, which it is unless given, they are cut off there."
                )
