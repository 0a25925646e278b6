"""What a tokenizer loses of texts: it cuts long ones off, and may not know all tokens."""

from transformers import BatchEncoding, PreTrainedTokenizerBase


class Losses:
    """Counts of the texts that were read so far, those of them that were cut off, and the tokens that are unknown."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.max_length, self.unknown_id = tokenizer.model_max_length, tokenizer.unk_token_id
        self.texts = self.cut = self.unknown = 0

    def count(self, encoding: BatchEncoding) -> None:
        """Counts texts that were encoded with `truncation`."""
        ids = encoding["input_ids"]
        self.texts += len(ids)
        # A tokenizer that is not a fast one does not tell which texts were cut.
        is_cut = [each.overflowing for each in encoding.encodings or ()] or [len(row) >= self.max_length for row in ids]
        self.cut += sum(map(bool, is_cut))
        self.unknown += sum(row.count(self.unknown_id) for row in ids)

    def describe(self, advice: str = "") -> list[str]:
        """A line for the texts that were cut off, and one for the unknown tokens, if there are any."""
        lines = [f"{self.cut:,} of {self.texts:,} texts were cut at {self.max_length:,} tokens{advice}."]
        lines += [f"{self.unknown:,} tokens of {self.texts:,} texts are unknown to the tokenizer."]
        return [line for line, count in zip(lines, (self.cut, self.unknown), strict=True) if count]
