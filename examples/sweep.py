"""Search for settings with optuna: `python examples/sweep.py reviews.csv 20`. The same command goes on."""

import sys
from pathlib import Path
from typing import Any

import optuna
from transformers import DataCollatorWithPadding, PreTrainedModel

from wave_network.data.load import load_text_data
from wave_network.data.measure import compute_metrics
from wave_network.training.finetune import encode
from wave_network.training.settings import ModelArguments, RunArguments
from wave_network.training.start import get_model, get_tokenizer
from wave_network.training.subwords import add_subwords, resolve_subwords
from wave_network.training.trainer import WaveTrainer


def choose(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.3, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [16, 32, 64]),
    }


def main() -> None:
    dataset, trials = (*sys.argv[1:], *["bbc_news", "4"][len(sys.argv) - 1 :])
    folder = Path("runs/sweep", Path(dataset).stem)
    folder.mkdir(parents=True, exist_ok=True)
    data, settings = load_text_data(dataset), ModelArguments()
    tokenizer = get_tokenizer(settings, data)
    arguments = RunArguments(str(folder), num_train_epochs=5, save_strategy="no", disable_tqdm=True)
    arguments.resolve_numbers(len(data.train), is_new=True)

    def make_model(trial: optuna.Trial | None) -> PreTrainedModel:
        model = get_model(settings, tokenizer, data.label_names)
        add_subwords(model, tokenizer, resolve_subwords(None, tokenizer, is_new=True))
        return model

    trainer = WaveTrainer(
        model_init=make_model,
        args=arguments,
        train_dataset=encode(data.train, tokenizer),
        eval_dataset=encode(data.validation, tokenizer),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
    )
    best = trainer.hyperparameter_search(
        choose,
        n_trials=int(trials),
        direction="maximize",
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        study_name="sweep",
        storage=f"sqlite:///{folder / 'trials.db'}",
        load_if_exists=True,
    )
    words = " ".join(f"--{name} {value}" for name, value in best.hyperparameters.items())
    print(f"Best: {best.objective:.4f} in validation. To test it:\n  wave-network finetune --dataset {dataset} {words}")


if __name__ == "__main__":
    main()
