"""Bad command lines: one line on standard error, status 2, no trace, and nothing is written."""

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from small_runs import make_rows, write_csv

from wave_network import cli
from wave_network.training import finetune

DATA = "finetune a.csv --model none --disable_tqdm true"
# What is wrong with the folder of a model that is called so.
DAMAGES: dict[str, Any] = {
    "cut": lambda run: (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000]),
    "emptied": lambda run: (run / "model.safetensors").write_bytes(b""),
    "pointer": lambda run: (run / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
    "weightless": lambda run: (run / "model.safetensors").unlink(),
    "pickled": lambda run: (run / "model.safetensors").rename(run / "pytorch_model.bin"),
    "configless": lambda run: (run / "config.json").unlink(),
    "half": lambda run: (run / "config.json").write_text("{"),
    "list": lambda run: (run / "config.json").write_text("[]"),
    "unknown": lambda run: (run / "config.json").write_text('{"model_type": "nothing"}'),
    "wide": lambda run: replace(run / "config.json", '"hidden_size": 16', '"hidden_size": 32'),
    "worded": lambda run: replace(run / "config.json", '"hidden_size": 16', '"hidden_size": "a"'),
    "negative": lambda run: replace(run / "config.json", '"hidden_size": 16', '"hidden_size": -1'),
    "speechless": lambda run: [file.unlink() for file in run.glob("tokenizer*")],
    "mumbling": lambda run: (run / "tokenizer.json").write_text("{}"),
    "unfinished": lambda run: (run / "metrics.json").write_text("{}"),
}
FILES = {
    "list.yaml": b"- a\n",
    "broken.yaml": b"a: [",
    "latin.yaml": b"dataset: caf\xe9.csv\n",
    "unknown.yaml": b"sed: 1\n",
    "nested.yaml": b"seed: {a: 1}\n",
    "blank.yaml": b"dataset: ''\n",
    "t.csv": b"text\nhello world\n",
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "one.csv": b"text,label\na,b\nc,b\n",
    "binary.csv": bytes(range(256)),
    "image.png": b"\x89PNG\r\n\x1a\n\x00\xff",
}

# The command line, and what its one line says. RUN is a good run, `folder` an empty folder.
BAD = """
fintune | did you mean finetune?
help_me | there are finetune, predict,
predict | required: --model
export | required: --model
distil | required: --teacher, --output_dir
push | required: --run_folder, --repo_id
analyze | must be one of ['convergence',
analyze phases | must be one of ['convergence',
complete bash | unknown setting bash
finetune | --dataset and --train_file
finetune a.csv b.csv | unknown setting b.csv
finetune --seed 1 a.csv | unknown setting a.csv
finetune a.csv --train_file a.csv | --dataset and --train_file
finetune a.csv --learning_rat 1 | did you mean --learning_rate
finetune a.csv –seed 1 | did you mean --seed?
finetune a.csv -seed 1 | did you mean --seed?
finetune a.csv --seed | --seed: expected one argument
finetune a.csv --seed= | --seed
finetune a.csv --seed x | --seed: invalid int value: 'x'
finetune a.csv --seed 1.5 | --seed: invalid int value
finetune a.csv --seed=-1 | --seed must be at least 0
finetune a.csv --seed 99999999999999999999 | --seed must be at least 0 and less than
finetune a.csv --config absent.yaml | absent.yaml
finetune a.csv --config folder | folder
finetune a.csv --config | --config
finetune a.csv --config list.yaml | must hold lines of
finetune a.csv --config=list.yaml | must hold lines of
finetune a.csv --config broken.yaml | is not YAML
finetune a.csv --config latin.yaml | is not YAML
finetune a.csv --config unknown.yaml | unknown setting --sed
finetune a.csv --config nested.yaml | --seed: invalid int value
finetune --config blank.yaml | --dataset must not be empty
finetune absent.csv | There is no file or folder 'absent.csv' (--dataset)
finetune ./absent | There is no file or folder './absent'
finetune runs/absent | There is no file or folder 'runs/absent'
finetune absent/ | There is no file or folder 'absent/'
finetune x/y/z | There is no file or folder 'x/y/z'
finetune folder/absent | There is no file or folder 'folder/absent'
finetune C:\\data\\absent | There is no file or folder
finetune folder | 'folder'
finetune empty.csv | 'empty.csv' must hold at least one row
finetune header.csv | 'header.csv' must hold at least one row
finetune one.csv | must have at least two classes
finetune binary.csv | 'binary.csv' is no text file
finetune image.png | got 'image.png'
finetune a.csv --text_columns | --text_columns: expected at least one
finetune a.csv --text_columns body | --text_columns must be among the columns
finetune a.csv --label_column x | --label_column must be among the columns
finetune a.csv --no_header perhaps | --no_header
finetune a.csv --encoding klingon | klingon
finetune a.csv --validation_fraction nan | --validation_fraction must be
finetune a.csv --validation_file absent.csv | absent.csv
finetune a.csv --dataset_config en | --dataset_config
finetune a.csv --train_split x | --train_split
finetune a.csv --model ./absent | './absent' (--model)
finetune a.csv --model runs/absent | 'runs/absent' (--model)
finetune a.csv --model absent | huggingface
finetune a.csv --model folder | tokenizer
finetune a.csv --model cut | 'cut/model.safetensors' (--model) is damaged
finetune a.csv --model emptied | 'emptied/model.safetensors' (--model) is damaged
finetune a.csv --model pointer | 'pointer/model.safetensors' (--model) is damaged
finetune a.csv --model half | 'half/config.json' (--model) is damaged
finetune a.csv --model list | 'list/config.json' (--model) is damaged
finetune a.csv --model mumbling | 'mumbling/tokenizer.json' (--model) is damaged
finetune a.csv --model weightless | model.safetensors
finetune a.csv --model pickled | model.safetensors
finetune a.csv --model configless | configless
finetune a.csv --model unknown | nothing
finetune a.csv --model wide | 'wide' must have the 'wave.
finetune a.csv --model worded | hidden_size
finetune a.csv --model negative | --hidden_size
finetune a.csv --model speechless | tokenizer
finetune a.csv --model RUN --hidden_size 8 | --hidden_size (8) is for a new model
finetune a.csv --model RUN --max_length 900 | --max_length must be at most
finetune a.csv --model RUN --lowercase false | --lowercase (False) is for a new model
finetune a.csv --tokenizer t.csv | t.csv
finetune a.csv --tokenizer ./absent | './absent' (--tokenizer)
finetune a.csv --teacher ./absent | './absent' (--teacher)
finetune a.csv --teacher folder | tokenizer
finetune a.csv --unlabelled t.csv | --unlabelled
finetune a.csv --output_dir a.csv | a.csv
finetune a.csv --output_dir a.csv/x | cannot be written
finetune a.csv --output_dir cut | --output_dir 'cut' has ended
finetune a.csv --resume_from_checkpoint absent | --resume_from_checkpoint must be last, got 'absent'
predict RUN | --file
predict RUN --file absent.csv | absent.csv
predict RUN --file binary.csv | binary.csv
predict RUN --file folder | folder
predict RUN --file t.csv --device gpu | --device must be
predict RUN --file t.csv --batch_size 0 | --batch_size must be at least 1
predict RUN --file t.csv --output folder | --output must be a file
predict RUN --file t.csv --output absent/x.csv | --output must be in a folder that exists
predict RUN --file t.csv --output t.csv | t.csv
predict RUN --file a.csv --text_columns body | --text_columns must be among
predict RUN --file t.csv --keep id | id
predict RUN --fiel t.csv | did you mean --file
predict ./absent --file t.csv | './absent' (--model)
predict cut --file t.csv | 'cut/model.safetensors' (--model) is damaged
predict half --file t.csv | 'half/config.json' (--model) is damaged
predict weightless --file t.csv | model.safetensors
predict wide --file t.csv | --model 'wide' must have the 'classifier
predict worded --file t.csv | hidden_size
predict speechless --file t.csv | tokenizer
export ./absent | './absent' (--model)
export cut | is damaged
export RUN --format tflite | invalid choice: 'tflite'
export RUN --output_dir a.csv | a.csv
export RUN --max_length 1 --output_dir e | --max_length must be
distil --teacher ./absent --texts t.csv --output_dir d | './absent' (--teacher)
distil --teacher RUN --output_dir d | --texts
distil --teacher RUN --texts t.csv --output_dir a.csv | cannot be written
distil --teacher RUN --texts t.csv --output_dir d --batch_size 1 | --batch_size must be
distil --teacher RUN --texts t.csv --output_dir d --learning_rate nan | --learning_rate must be
push absent you/x | 'absent' is not a finished run
push a.csv you/x | 'a.csv' is not a finished run
push folder you/x | 'folder' is not a finished run
push RUN | required: --repo_id
push RUN a/b/c | a/b/c
push unfinished you/x | metrics.json
analyze phase --model ./absent | './absent' (--model)
analyze phase --model RUN --data absent.csv | absent.csv
analyze phase --model RUN --data a.csv --texts 0 | --texts must be greater than 0
"""  # noqa: RUF001  # a dash that an editor has made
# Settings of `finetune` that cannot be, alone or with the others.
WRONG = """
--max_length 2 | --max_length must be at least 3
--max_length 1e3 | --max_length: invalid int value
--vocab_size 999999999999 | --vocab_size must be
--hidden_size -1 | --hidden_size must be
--hidden_size 999999999 | --hidden_size must be at least 1 and less than
--num_hidden_layers 99999999999 | --num_hidden_layers must be at least 1 and less than
--conv_kernel_size 2 | --conv_kernel_size must be
--hidden_dropout_prob 1.5 | --hidden_dropout_prob must be
--lowercase false --tokenizer RUN | --lowercase has no effect with --tokenizer
--learning_rate nan | --learning_rate must be at least 0 and finite, got nan
--num_train_epochs -1 | --num_train_epochs must be
--max_steps 0 | --max_steps must be
--max_steps 3 --num_train_epochs 2 | --num_train_epochs has no effect with --max_steps 3
--adam_beta1 2 | --adam_beta1 must be
--max_grad_norm -1 | --max_grad_norm must be
--save_total_limit 0 | --save_total_limit must be
--eval_strategy never | --eval_strategy: invalid choice: 'never'
--eval_strategy steps --eval_steps -1 | --eval_steps must be
--save_strategy steps | --save_strategy must be best, or that of --eval_strategy
--lr_scheduler_kwargs { | --lr_scheduler_kwargs must be a JSON object
--lr_scheduler_kwargs [] | --lr_scheduler_kwargs must be a JSON object
--optim sgd --adam_beta1 0.5 | sgd does not read --adam_beta1
--optim_args a=b | does not read --optim_args
--torch_compile_backend nothing | --torch_compile_backend is not a setting of finetune
--do_train false | --do_train is not a setting of finetune
--early_stopping_threshold 0.1 | --early_stopping_threshold has no effect without --early_stopping_patience
--bf16 --fp16 --use_cpu | fp16
"""


def read_table(table: str, before: str = "") -> list[tuple[str, str]]:
    return [
        (f"{before}{words.strip()}", said.strip())
        for words, said in (line.split(" | ") for line in table.split("\n")[1:-1])
    ]


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def place(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad files and models."""
    place = tmp_path_factory.mktemp("place")
    write_csv(
        place / "a.csv",
        [{"text": f"{index} {row['text']}", "label": row["label"]} for index, row in enumerate(make_rows(60, 0))],
    )
    (place / "folder").mkdir()
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    for name, damage in DAMAGES.items():
        shutil.copytree(run, place / name, ignore=shutil.ignore_patterns("checkpoint-*"))
        damage(place / name)
    return place


@pytest.mark.parametrize(
    ("words", "said"), [*read_table(BAD), *read_table(WRONG, f"{DATA} ")], ids=lambda value: value.replace("/", ":")
)
def test_a_bad_command_is_one_line(
    words: str, said: str, place: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(place)
    before = list_files(place)

    def train(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("it was accepted")

    with (
        patch.object(finetune.WaveTrainer, "train", train),
        patch.object(finetune, "choose", train),
        pytest.raises(SystemExit) as exit_,
    ):
        cli.main([str(run) if word == "RUN" else word for word in words.split()])
    lines = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2
    assert lines[-1].startswith("wave-network")
    assert said in lines[-1]
    assert "Traceback" not in "".join(lines)
    assert list_files(place) == before


def list_files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))
