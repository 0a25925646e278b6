"""A trained model in 8-bit integers, for inference: its linear maps and its tables of words and n-grams, by torchao."""

from collections import OrderedDict

from transformers import TorchAoConfig

# The first pattern that fits the name of a parameter decides. All other parameters stay floats: the classifier, learned
# positions, segments, biases and norms are too small to be worth an error.
LINEAR_MAPS = r"re:(.+\.)?(variants|restore|up|down)\.weight"
TABLES = r"re:(.+\.)?(word|ngram)_embeddings\.weight"


def int8_config(linear_maps: bool = True, word_table: bool = True) -> TorchAoConfig:
    """
    How to load a model in 8-bit integers: `AutoModel….from_pretrained(run, quantization_config=int8_config())`. What
    its `save_pretrained` writes loads again as it is, without this function.

    Args:
        linear_maps: Weights have one scale for each output. The inputs are quantised in every call, each token with
            its own scale, and the products are of integers.
        word_table: One scale for each word, and for each row of n-grams; those of a batch become floats when they are
            looked up.

    Raises:
        ImportError: torchao is not installed.
    """
    try:
        from torchao.quantization import FqnToConfig, Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
    except ImportError as error:
        raise ImportError('int8 needs the package torchao: pip install "wave-network[int8]"') from error

    kinds: OrderedDict = OrderedDict()
    # torchao would otherwise change torch.compile's settings for the whole process.
    if linear_maps:
        kinds[LINEAR_MAPS] = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    if word_table:
        kinds[TABLES] = Int8WeightOnlyConfig(set_inductor_config=False)
    return TorchAoConfig(FqnToConfig(kinds))
