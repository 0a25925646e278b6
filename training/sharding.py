"""`--fsdp`: parameters, gradients and moments split over the processes, by FSDP2 through accelerate."""

from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.training_args import ParallelMode
from transformers.utils import is_accelerate_available

# The first version of accelerate that is known to do it.
ACCELERATE = "1.10"


def refuse_unfit_sharding(arguments: TrainingArguments, checkpoint: Path | None) -> None:
    """
    Raises:
        ImportError: Accelerate is too old for `fsdp`.
        ValueError: `fsdp` cannot work as it is set, or is not what it was in the run that is resumed.
    """
    if checkpoint is not None and is_sharded(checkpoint) != bool(arguments.fsdp):
        was = "with" if is_sharded(checkpoint) else "without"
        raise ValueError(
            f"`fsdp` ({arguments.fsdp}) must be what it was in the run that is resumed: {checkpoint} was written {was} "
            "it."
        )
    if not arguments.fsdp:
        return
    if not is_accelerate_available(ACCELERATE):
        raise ImportError(
            f"`fsdp` ({arguments.fsdp}) needs accelerate {ACCELERATE} or newer, found {version('accelerate')}: "
            f'pip install --upgrade "accelerate>={ACCELERATE}"'
        )
    if arguments.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ValueError(
            f"`fsdp` ({arguments.fsdp}) splits a model over several processes, and this is one. Start them with "
            "`torchrun --nproc_per_node N -m wave_network.training.cli finetune ...`, or leave it out."
        )
    settings = arguments.fsdp_plugin_args or {}
    if arguments.device.type == "cpu" and (settings.get("fsdp_version") != 2 or settings.get("cpu_offload")):
        raise ValueError(
            f"`fsdp_config` on a CPU must have `version` 2 and no `cpu_offload`, got {arguments.fsdp_config}."
        )


def set_up_sharding(accelerator: Accelerator, arguments: TrainingArguments, model: PreTrainedModel) -> bool:
    """
    Has accelerate split the model as `fsdp` says, when it will wrap it. Returns whether it does so.

    Raises:
        ValueError: FSDP's own activation checkpointing is on, and the model has dropout.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate (1.15) splits on GPUs and their like alone, and would go on with DDP here, without a word.
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
        if state.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
        # Whoever asks for the one gets it brought up to date from the other.
        state.distributed_type = arguments.distributed_state.distributed_type = DistributedType.FSDP
    if state.distributed_type != DistributedType.FSDP:
        return False
    plugin = state.fsdp_plugin
    if plugin.activation_checkpointing and any(isinstance(part, nn.Dropout) and part.p for part in model.modules()):
        raise ValueError(
            "`fsdp_config` (activation_checkpointing True) does not go with dropout: it computes the activations again "
            "with other elements dropped, so the gradients are those of another model. Use --gradient_checkpointing."
        )
    plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or find_layers(model)
    return True


def find_layers(model: PreTrainedModel) -> list[str]:
    """
    The classes of the modules that are gathered one at a time: those that the model wants to be kept whole, without the
    one that holds the word table. Accelerate splits the table by itself, and twice is an error.
    """
    table = model.get_input_embeddings()
    holders = {type(module).__name__ for module in model.modules() if table in module.modules()}
    return [name for name in model._no_split_modules or [] if name not in holders]


def is_sharded(checkpoint: Path) -> bool:
    """Whether a checkpoint was written with `fsdp`."""
    return any(checkpoint.glob("pytorch_model_fsdp*"))
