"""A LoRA adapter of a trained classifier, for data of its classes: `python examples/lora.py RUN DATASET FOLDER`.

RUN is a run folder or a model on the Hub, DATASET is as in `wave-network finetune --dataset`.
"""

import sys
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

import wave_network  # noqa: F401  registers the model with the Auto classes
from wave_network.data.load import load_text_data


def main(run: str = "runs/bbc_news", dataset: str = "bbc_news", folder: str = "runs/lora") -> None:
    if Path(folder).exists():
        sys.exit(f"{folder!r} is there already: name another folder")
    data = load_text_data(dataset)
    tokenizer = AutoTokenizer.from_pretrained(run)
    base = AutoModelForSequenceClassification.from_pretrained(run)
    # PEFT knows no defaults for this model: these are the linear maps of its layers.
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["variants", "restore"])
    model = get_peft_model(base, lora)
    model.print_trainable_parameters()
    columns = [name for name in data.train.column_names if name != "label"]
    train = data.train.map(
        lambda row: tokenizer(*(row[name] for name in columns), truncation=True), remove_columns=columns
    )
    arguments = TrainingArguments(
        output_dir=folder, learning_rate=5e-3, num_train_epochs=3, save_strategy="no", report_to="none"
    )
    collator = DataCollatorWithPadding(tokenizer)
    Trainer(model, arguments, train_dataset=train, data_collator=collator).train()
    model.save_pretrained(folder)

    # Anyone who has the base needs only the adapter. Merged, it is a Wave Network like any other.
    again = AutoModelForSequenceClassification.from_pretrained(run)
    merged = PeftModel.from_pretrained(again, folder).merge_and_unload()
    classify = pipeline("text-classification", model=merged, tokenizer=tokenizer)
    print(f"{folder}: {Path(folder, 'adapter_model.safetensors').stat().st_size // 1024} kB")
    print(classify(data.validation[0]["text"], truncation=True)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
