"""transformers' own common tests, run over our classes: `ModelTesterMixin`, `TrainingTesterMixin` and `ConfigTester`.

fetch_transformers_tests.py puts them in place. Every test that they skip is in `SKIPPED` with its reason; a skip that
is not there fails, and so does a test that is there and runs.
"""

import re
import sys
import unittest
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from unittest import mock

import torch
from fetch_transformers_tests import SUITE
from transformers import PreTrainedConfig
from transformers.testing_utils import torch_device

from wave_network import (
    WaveConfig,
    WaveForMaskedLM,
    WaveForMultipleChoice,
    WaveForQuestionAnswering,
    WaveForSequenceClassification,
    WaveForTokenClassification,
    WaveModel,
)

if not SUITE.is_dir():
    raise FileNotFoundError(f"{SUITE} is missing. Run `python tests/fetch_transformers_tests.py` first.")
sys.path.insert(0, str(SUITE))
# The source distribution leaves out the sub-packages that these modules import from.
import_module("transformers_tests").__path__.append(str(Path(__file__).with_name("transformers_standins")))
configuration_common = import_module("transformers_tests.test_configuration_common")
modeling_common = import_module("transformers_tests.test_modeling_common")
training_mixin = import_module("transformers_tests.test_training_mixin")

# The tests find out by name what a class is for. Without our names they make no labels and leave the training out.
for task, name in {
    "": "WaveModel",
    "FOR_MASKED_LM_": "WaveForMaskedLM",
    "FOR_MULTIPLE_CHOICE_": "WaveForMultipleChoice",
    "FOR_QUESTION_ANSWERING_": "WaveForQuestionAnswering",
    "FOR_SEQUENCE_CLASSIFICATION_": "WaveForSequenceClassification",
    "FOR_TOKEN_CLASSIFICATION_": "WaveForTokenClassification",
}.items():
    mapping = f"MODEL_{task}MAPPING_NAMES"
    setattr(modeling_common, mapping, {**getattr(modeling_common, mapping), "wave": name})

ATTENTION = "attention only"
ACCELERATOR = "needs an accelerator"
VISION = "vision or audio"
# What BERT's base model and classifier do not have either: these tests skip them too.
OTHER = "another kind of model: "

# A name stands for its parameterized variants as well.
SKIPPED = {
    "test_attention_outputs": ATTENTION,
    "test_attn_implementation_composite_models": ATTENTION,
    "test_can_set_attention_dynamically": ATTENTION,
    "test_can_set_attention_dynamically_composite_model": ATTENTION,
    "test_eager_matches_sdpa_inference": ATTENTION,
    "test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break": ATTENTION,
    "test_flash_attn_2_can_dispatch_composite_models": ATTENTION,
    "test_flash_attn_2_fp32_ln": ATTENTION,
    "test_flash_attn_2_from_config": ATTENTION,
    "test_flash_attn_2_inference_equivalence": ATTENTION,
    "test_flash_attn_2_inference_equivalence_right_padding": ATTENTION,
    "test_flash_attn_3_can_dispatch_composite_models": ATTENTION,
    "test_flash_attn_3_from_config": ATTENTION,
    "test_flash_attn_3_inference_equivalence": ATTENTION,
    "test_flash_attn_3_inference_equivalence_right_padding": ATTENTION,
    "test_flash_attn_4_can_dispatch_composite_models": ATTENTION,
    "test_flash_attn_4_from_config": ATTENTION,
    "test_flash_attn_4_inference_equivalence": ATTENTION,
    "test_flash_attn_4_inference_equivalence_right_padding": ATTENTION,
    "test_flash_attn_kernels_inference_equivalence": ATTENTION,
    "test_flash_attn_kernels_mps_inference_equivalence": ATTENTION,
    "test_flex_attention_with_grads": ATTENTION,
    "test_sdpa_can_compile_dynamic": ATTENTION,
    "test_sdpa_can_dispatch_composite_models": ATTENTION,
    "test_sdpa_can_dispatch_non_composite_models": ATTENTION,
    "test_sdpa_can_dispatch_on_flash": ATTENTION,
    "test_sliding_window_mask": ATTENTION,
    "test_torch_export": ATTENTION,
    # Rotary positions turn the queries and keys of an attention layer.
    "test_model_rope_scaling_frequencies": ATTENTION,
    "test_model_rope_scaling_from_config": ATTENTION,
    "test_model_rope_with_partial_rotation": ATTENTION,
    "test_can_load_with_device_context_manager": ACCELERATOR,
    "test_can_load_with_global_device_set": ACCELERATOR,
    "test_cpu_offload": ACCELERATOR,
    "test_disk_offload_bin": ACCELERATOR,
    "test_disk_offload_safetensors": ACCELERATOR,
    "test_kernels_can_load_without_crashing": ACCELERATOR,
    "test_model_parallelism": ACCELERATOR,
    "test_resize_embeddings_untied_with_deepspeed": ACCELERATOR,
    "test_resize_embeddings_untied_with_deepspeed_multi_gpu": ACCELERATOR,
    "test_resize_tokens_embeddings_with_deepspeed": ACCELERATOR,
    "test_resize_tokens_embeddings_with_deepspeed_multi_gpu": ACCELERATOR,
    "test_multi_gpu_data_parallel_forward": ACCELERATOR,
    "test_torch_compile_for_training": ACCELERATOR,
    "test_vision_axial_rope": VISION,
    "test_can_load_from_already_mapped_keys": OTHER + "checkpoints under older names of the weights",
    "test_reverse_loading_mapping": OTHER + "checkpoints under older names of the weights",
    "test_causal_lm_loss_honors_shift_labels": OTHER + "a language model that generates",
    "test_encoder_decoder_loss_no_double_shift": OTHER + "a language model that generates",
    "test_eager_matches_batched_and_grouped_inference": OTHER + "a mixture of experts",
    "test_moe_models_record_router_logits": OTHER + "a mixture of experts",
    "test_output_router_logits_from_config": OTHER + "a mixture of experts",
    "test_internal_model_config_and_subconfig_are_same": OTHER + "a configuration made of others",
    "test_keep_in_fp32_modules": OTHER + "weights that must stay in float32",
    "test_keep_in_fp32_modules_exist": OTHER + "weights that must stay in float32",
    "test_resize_position_vector_embeddings": OTHER + "a position table that can be resized",
    "test_tied_head_has_a_tp_plan_entry": OTHER + "a plan for tensor parallelism",
    "test_tp_plan_matches_params": OTHER + "a plan for tensor parallelism",
}

# Of these, the suite of the oldest version that we claim (constraints-oldest.txt) does not have the newer ones yet, and
# that of the newest no longer has the older ones.
OLDER = {"test_multi_gpu_data_parallel_forward", "test_torch_export"}
NEWER = {
    "test_causal_lm_loss_honors_shift_labels",
    "test_encoder_decoder_loss_no_double_shift",
    "test_kernels_can_load_without_crashing",
    "test_model_rope_scaling_frequencies",
    "test_model_rope_scaling_from_config",
    "test_model_rope_with_partial_rotation",
    "test_moe_models_record_router_logits",
    "test_output_router_logits_from_config",
    "test_tied_head_has_a_tp_plan_entry",
    "test_vision_axial_rope",
}


def find_listed(test: str) -> str | None:
    """The name in `SKIPPED` that the test goes by: its own, or the one it is a parameterized variant of."""
    return next((name for name in SKIPPED if re.fullmatch(rf"{name}(_\d+(_\w+)?)?", test)), None)


class WaveModelTester:
    """Small configurations and inputs, in the form that transformers' tests ask for."""

    sequence_classification_class = WaveForSequenceClassification
    batch_size = 13
    seq_length = 7
    num_choices = 4
    hidden_size = 32
    num_hidden_layers = 2
    vocab_size = 99
    is_training = True

    def __init__(self, **options):
        self.options = options

    def get_config(self) -> WaveConfig:
        return WaveConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            hidden_dropout_prob=0.1,  # as in BERT's tests, of which one wants the loss of a single step to be small
            **self.options,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[WaveConfig, dict[str, torch.Tensor]]:
        config, shape = self.get_config(), (self.batch_size, self.seq_length)
        inputs = {
            "input_ids": modeling_common.ids_tensor(shape, config.vocab_size),
            "attention_mask": modeling_common.random_attention_mask(shape),
        }
        if config.type_vocab_size > 0:
            inputs["token_type_ids"] = modeling_common.ids_tensor(shape, config.type_vocab_size)
        return config, inputs


class WaveModelTest(modeling_common.ModelTesterMixin, training_mixin.TrainingTesterMixin, unittest.TestCase):
    """The paper's model, with two layers."""

    all_model_classes = (
        WaveModel,
        WaveForMaskedLM,
        WaveForMultipleChoice,
        WaveForQuestionAnswering,
        WaveForSequenceClassification,
        WaveForTokenClassification,
    )
    has_attentions = False
    options = {}

    def setUp(self):
        self.model_tester = WaveModelTester(**self.options)
        self.has_skipped = False

    def tearDown(self):
        listed = find_listed(self._testMethodName)
        may_run = listed is None or (SKIPPED[listed] == ACCELERATOR and torch_device != "cpu")
        if not (self.has_skipped or may_run):
            self.fail(f"{self._testMethodName} runs: take {listed!r} off the list of skipped tests.")

    def skipTest(self, reason):  # noqa: N802, the name in unittest
        if find_listed(self._testMethodName) is None:
            self.fail(f"{self._testMethodName} skips and is not on the list of skipped tests: {reason}")
        self.has_skipped = True
        super().skipTest(reason)

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        # The mixin's batch is one text, repeated, with labels for a language model. A classifier needs texts that
        # differ, and a label for each.
        batch = super()._create_text_training_batch(batch_size, seq_length, vocab_size)
        labels = torch.arange(batch_size)
        return {"input_ids": (batch["input_ids"] + labels[:, None]) % vocab_size, "labels": labels}

    def test_config(self):
        properties = ["hidden_size", "num_hidden_layers", "max_position_embeddings", "intermediate_size"]
        sizes = {"hidden_size": 36, "max_position_embeddings": 20, **self.options}
        configuration_common.ConfigTester(
            self, config_class=WaveConfig, common_properties=properties, **sizes
        ).run_common_tests()

    def test_training_tests_train(self):
        backward_passes = {
            "test_problem_types": 3,
            "test_training": 5,
            "test_training_gradient_checkpointing": 10,
            "test_training_gradient_checkpointing_use_reentrant_false": 10,
            "test_training_gradient_checkpointing_use_reentrant_true": 10,
        }
        backward = torch.Tensor.backward
        for test, count in backward_passes.items():
            with mock.patch.object(torch.Tensor, "backward", autospec=True, side_effect=backward) as spy:
                getattr(self, test)()
            assert spy.call_count == count, f"backward passes of {test}"


class WaveModelWithOptionsTest(WaveModelTest):
    """The modes and parts that the paper's model leaves out."""

    options = {
        "wave_operation": "interference",
        "magnitude": "rms",
        "restore": "magnitude",
        "conv_kernel_size": 3,
        "ngram_vocab_size": 50,
        "ngram_size": 3,
        "ngram_hidden_size": 7,
        "token_dropout_prob": 0.1,
        "classifier_temperature": 1.5,
        "intermediate_size": 37,
        "position_embedding_type": "absolute",
        "type_vocab_size": 16,
        "classifier_pooling": "max",
    }

    def test_inputs_embeds_matches_input_ids(self):
        # They match where nothing depends on the ids: n-grams do.
        self.model_tester = WaveModelTester(**self.options | {"ngram_vocab_size": None})
        super().test_inputs_embeds_matches_input_ids()


def test_list_of_skipped_tests_is_exact():
    tests = [name for name in dir(WaveModelTest) if name.startswith("test_") and callable(getattr(WaveModelTest, name))]
    assert set(SKIPPED) - {find_listed(test) for test in tests} in (OLDER, NEWER)
    # A decorator that skips does not go through `skipTest`.
    decorated = [test for test in tests if getattr(getattr(WaveModelTest, test), "__unittest_skip__", False)]
    assert [test for test in decorated if find_listed(test) is None] == []


def test_common_fields_are_complete():
    """`ConfigTester` sets and reads back every field that all configurations have, to a value that is no default."""
    values = import_module("transformers_tests.utils.test_configuration_utils").config_common_kwargs
    common = {field.name for field in fields(PreTrainedConfig)} - {"transformers_version"}
    assert common - set(values) == set()
    config = WaveConfig()
    assert [name for name, value in values.items() if getattr(config, name) == value] == []
