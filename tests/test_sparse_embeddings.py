"""`--sparse_embeddings`: the lazy AdamW against torch's own, and what a run with it records, resumes and refuses."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import finetune_small, small_words, write_data
from test_finetune import distance, interrupt, read_metrics, read_weights, refuse, run_in_two_processes
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from wave_network.training import finetune
from wave_network.training.optimizer import LazyAdamW, with_dense_gradients

ROWS, WIDTH, PADDING = 12, 6, 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "texts"
    folder.mkdir()
    return write_data(folder)


def make_model(sparse: bool, dtype: torch.dtype = torch.float32, padding: int | None = PADDING) -> nn.Sequential:
    torch.manual_seed(0)
    table = nn.Embedding(ROWS, WIDTH, padding_idx=padding)
    model = nn.Sequential(table, nn.Linear(WIDTH, 3)).to(dtype)
    table.sparse = sparse
    return model


def make_pair(
    settings: dict[str, Any], dtype: torch.dtype = torch.float32, padding: int | None = None
) -> list[tuple[nn.Sequential, torch.optim.Optimizer]]:
    """The same model twice: dense gradients and torch's AdamW; sparse ones and ours."""
    dense, sparse = (make_model(is_sparse, dtype, padding) for is_sparse in (False, True))
    return [
        (dense, torch.optim.AdamW(dense.parameters(), **settings)),
        (sparse, LazyAdamW(sparse.parameters(), **settings)),
    ]


def backward(model: nn.Sequential, ids: torch.Tensor, scale: float = 1.0) -> None:
    # The loss of a row depends on its id, so that a gradient that lands in another row shows.
    losses = (model(ids).float() - ids[..., None] / ROWS).pow(2).sum(dim=-1)
    (scale * losses.sum()).backward()


def take_step(model: nn.Sequential, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> None:
    optimizer.zero_grad()
    backward(model, ids)
    optimizer.step()


def table_of(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and moments of the table."""
    state = optimizer.state[model[0].weight]
    return {"weight": model[0].weight.detach().clone(), **{name: state[name].clone() for name in state}}


def draw_ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, ROWS, shape)


# The update


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False, None])
def test_with_every_row_in_every_batch_it_is_adamw(dtype: torch.dtype, fused: bool | None):
    pair = make_pair({"lr": 0.05, "weight_decay": 0.1, "fused": fused}, dtype)
    start = pair[0][0][0].weight.detach().clone()
    for _ in range(8):
        ids = torch.cat([torch.arange(ROWS), draw_ids(9)])[torch.randperm(ROWS + 9)]  # some of them twice
        for model, optimizer in pair:
            take_step(model, optimizer, ids)
    (dense, _), (sparse, _) = pair
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    for expected, found in zip(dense.parameters(), sparse.parameters(), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert (sparse[0].weight - start).abs().min() > 0


def test_rows_that_are_not_in_the_batch_keep_their_bits_and_their_moments():
    model = make_model(sparse=True)
    with torch.no_grad():
        model[0].weight[PADDING] = 1.0  # as in a checkpoint that was trained elsewhere
    optimizer = LazyAdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    take_step(model, optimizer, torch.arange(ROWS))  # each has a momentum by which AdamW would move it
    before = table_of(model, optimizer)
    take_step(model, optimizer, torch.tensor([[2, 5, 2], [PADDING, 5, 7]]))
    after = table_of(model, optimizer)
    stays = [row for row in range(ROWS) if row not in (2, 5, 7)]
    for name in ("weight", "exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name][stays], before[name][stays])
        assert (after[name][[2, 5, 7]] != before[name][[2, 5, 7]]).all()
    assert after["weight"][PADDING].eq(1).all()


def test_the_update_is_the_one_that_is_documented():
    """In plain Python, with t the steps of the table: the third row is in the third step for the first time."""
    lr, beta1, beta2, eps, decay = 0.1, 0.8, 0.9, 1e-3, 0.2
    table = nn.Parameter(torch.tensor([[1.0], [2.0], [3.0]]))
    optimizer = LazyAdamW([table], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    weights, first, second = [1.0, 2.0, 3.0], [0.0] * 3, [0.0] * 3
    for t, gradient in enumerate([{0: 0.5, 1: -1.0}, {1: 2.0}, {0: -0.3, 2: 0.7}], start=1):
        indices = torch.tensor([[row for row in gradient for _ in range(2)]])  # in two halves, as from a repeated word
        halves = torch.tensor([[gradient[int(row)] / 2] for row in indices[0]])
        table.grad = torch.sparse_coo_tensor(indices, halves, table.shape, check_invariants=True)
        optimizer.step()
        for row, g in gradient.items():
            weights[row] *= 1 - lr * decay
            first[row] = beta1 * first[row] + (1 - beta1) * g
            second[row] = beta2 * second[row] + (1 - beta2) * g**2
            corrected = (first[row] / (1 - beta1**t), second[row] / (1 - beta2**t))
            weights[row] -= lr * corrected[0] / (corrected[1] ** 0.5 + eps)
    assert table[:, 0].tolist() == pytest.approx(weights, rel=1e-6)
    assert optimizer.state[table]["exp_avg_sq"][:, 0].tolist() == pytest.approx(second, rel=1e-5)


def test_four_sparse_gradients_add_up_to_that_of_all_their_texts():
    ids = draw_ids(16, 5)
    (whole, optimizer), (parted, other) = [make_pair({"lr": 0.05, "eps": 1e-3})[1] for _ in range(2)]
    for _ in range(3):
        take_step(whole, optimizer, ids)
        other.zero_grad()
        for part in ids.chunk(4):
            backward(parted, part)
        other.step()
    for expected, found in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_gradient_without_rows_changes_nothing():
    model = make_model(sparse=True)
    optimizer = LazyAdamW(model.parameters(), lr=0.1)
    padding = torch.full((2, 3), PADDING)
    for _ in range(2):  # once before the first gradient with rows, once after it
        before = model[0].weight.detach().clone()
        take_step(model, optimizer, padding)
        assert model[0].weight.grad._nnz() == 0
        assert torch.equal(model[0].weight, before)
        take_step(model, optimizer, draw_ids(4))
        assert not torch.equal(model[0].weight, before)
    assert optimizer.state[model[0].weight]["step"] == 4


def test_a_learning_rate_of_zero_moves_no_weights_but_the_moments():
    model = make_model(sparse=True)
    optimizer = LazyAdamW(model.parameters(), lr=0.0, weight_decay=0.3)
    before = copy.deepcopy(model.state_dict())
    take_step(model, optimizer, draw_ids(4, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert table_of(model, optimizer)["exp_avg"].abs().max() > 0


def test_gradients_that_are_set_to_zero_and_not_to_none():
    (first, optimizer), (second, other) = [make_pair({"lr": 0.05})[1] for _ in range(2)]
    for ids in draw_ids(3, 4, 4):
        take_step(first, optimizer, ids)
        other.zero_grad(set_to_none=False)
        backward(second, ids)
        other.step()
    for expected, found in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    model = make_model(sparse=True)
    optimizer = LazyAdamW(model.parameters(), lr=0.1)

    def closure() -> float:
        backward(model, draw_ids(4))
        return 0.25

    assert optimizer.step(closure) == 0.25
    assert len(optimizer.state) == 3
    assert LazyAdamW(make_model(sparse=True).parameters()).step() is None  # without any gradient


def test_a_gradient_that_is_sparse_in_two_axes_is_refused():
    table = nn.Parameter(torch.zeros(3, 2))
    table.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match=r"first axis alone.*shape \(3, 2\) that is sparse in 2 axes"):
        LazyAdamW([table]).step()


@pytest.mark.parametrize("goes_on", [LazyAdamW, torch.optim.AdamW])
def test_it_goes_on_from_its_saved_state_and_adamw_does_too(goes_on: type[torch.optim.AdamW]):
    settings = {"lr": 0.05, "weight_decay": 0.1, "fused": True}
    model, optimizer = make_pair(settings)[1]
    take_step(model, optimizer, draw_ids(4, 4))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)

    other = copy.deepcopy(model)
    other[0].sparse = goes_on is LazyAdamW
    resumed = goes_on(other.parameters(), lr=1.0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    ids = torch.arange(ROWS)
    take_step(model, optimizer, ids)
    take_step(other, resumed, ids)
    expected, found = table_of(model, optimizer), table_of(other, resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_grad_scaler_unscales_sparse_gradients_and_leaves_out_steps_that_overflow():
    (plain, optimizer), (scaled, other) = [make_pair({"lr": 0.05, "eps": 1e-3, "fused": True})[1] for _ in range(2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ids = draw_ids(4, 4)
    take_step(plain, optimizer, ids)
    for scale in (float("inf"), 1.0):
        other.zero_grad()
        factor = scaler.scale(torch.tensor(scale)).item()
        backward(scaled, ids, factor)
        scaler.step(other)
        scaler.update()
        if scale != 1:
            assert len(other.state) == 0
    for expected, found in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


# Clipping


@pytest.mark.parametrize("max_norm", [0.01, 1e4, float("inf")])
def test_sparse_gradients_are_clipped_as_dense_ones(max_norm: float):
    dense, sparse = make_model(sparse=False), make_model(sparse=True)
    ids = torch.cat([draw_ids(9), torch.tensor([3, 3, 3, PADDING])])
    for model in (dense, sparse):
        backward(model, ids)
    expected = torch.nn.utils.clip_grad_norm_(dense.parameters(), max_norm)
    found = torch.nn.utils.clip_grad_norm_(with_dense_gradients(sparse.parameters()), max_norm)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for parameter, other in zip(dense.parameters(), sparse.parameters(), strict=True):
        assert other.grad.is_sparse is (other is sparse[0].weight)
        torch.testing.assert_close(other.grad.to_dense(), parameter.grad)


# Runs of the command


def read_history(run: Path) -> list[dict[str, Any]]:
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


def test_a_run_records_it_and_leaves_rows_alone_that_no_text_has(data: Path, tmp_path: Path):
    settings = {"weight_decay": 1.0, "num_train_epochs": 1}
    start = finetune_small(data, tmp_path / "start", **settings, learning_rate=0)
    dense = finetune_small(data, tmp_path / "dense", **settings)
    sparse = finetune_small(data, tmp_path / "sparse", **settings, sparse_embeddings=True)

    assert read_metrics(sparse)["settings"]["sparse_embeddings"] is True
    assert read_metrics(dense)["settings"]["sparse_embeddings"] is False
    assert "--sparse_embeddings True" in read_metrics(sparse)["command"]
    assert (sparse / "config.json").read_text() == (dense / "config.json").read_text()
    assert AutoModelForSequenceClassification.from_pretrained(sparse).get_input_embeddings().sparse is False

    table = "wave.embeddings.word_embeddings.weight"
    absent = AutoTokenizer.from_pretrained(sparse).mask_token_id
    first, whole, rows = (read_weights(run)[table] for run in (start, dense, sparse))
    assert torch.equal(rows[absent], first[absent])
    assert not torch.equal(whole[absent], first[absent])
    assert (rows != first).any(dim=1).sum() > 20


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_the_norm_of_the_gradients_is_logged_as_without_it(data: Path, tmp_path: Path, max_grad_norm: float):
    settings = {"max_grad_norm": max_grad_norm, "logging_strategy": "steps", "logging_steps": 1, "max_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    dense = read_history(finetune_small(data, tmp_path / "dense", **settings))
    sparse = read_history(finetune_small(data, tmp_path / "sparse", **settings, sparse_embeddings=True))
    # The second step shows whether the first was the same: until then no row is absent that AdamW would move.
    for step in range(2):
        assert sparse[step]["grad_norm"] == pytest.approx(dense[step]["grad_norm"], rel=1e-4)
        assert sparse[step]["loss"] == pytest.approx(dense[step]["loss"], rel=1e-5)
    assert dense[0]["grad_norm"] > 0.6  # else nothing was clipped


def test_four_accumulated_steps_of_four_rows_equal_one_of_sixteen(data: Path, tmp_path: Path):
    settings = {"sparse_embeddings": True, "hidden_dropout_prob": 0, "adam_epsilon": 1e-3, "max_steps": 6}
    settings |= {"max_grad_norm": 0.5, "train_sampling_strategy": "random"}
    whole = finetune_small(data, tmp_path / "whole", per_device_train_batch_size=16, **settings)
    parts = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    parted = finetune_small(data, tmp_path / "parted", **parts, **settings)
    still = finetune_small(data, tmp_path / "still", **settings | {"learning_rate": 0})
    assert distance(whole, parted) < 1e-5
    assert distance(whole, still) > 0.01


def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(data: Path, tmp_path: Path):
    settings = {"sparse_embeddings": True, "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 9}
    settings |= {"eval_steps": 9, "load_best_model_at_end": False}
    whole = finetune_small(data, tmp_path / "whole", **settings)
    parted = interrupt(data, tmp_path / "parted", saves=2, **settings)
    finetune_small(data, parted, resume=True, **settings)
    assert distance(whole, parted) == 0
    states = [torch.load(run / "checkpoint-42" / "optimizer.pt", weights_only=True) for run in (whole, parted)]
    for expected, found in zip(*(state["state"].values() for state in states), strict=True):
        assert all(torch.equal(expected[name], found[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("settings", [{"bf16": True}, {"optim": "adamw_torch"}, {"class_weights": "balanced"}])
def test_it_goes_with(data: Path, tmp_path: Path, settings: dict[str, Any]):
    run = finetune_small(data, tmp_path / "run", sparse_embeddings=True, **settings)
    assert read_metrics(run)["results"]["test"]["accuracy"] > 0.7


def test_two_processes_train_as_one(data: Path, tmp_path: Path):
    settings = {
        "sparse_embeddings": True,
        "train_sampling_strategy": "random",  # grouped by length, the batches of one process and of two differ
        "hidden_dropout_prob": 0,
        "adam_epsilon": 1e-3,
        "max_grad_norm": 0.5,
        "max_steps": 6,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
    }
    one = finetune_small(data, tmp_path / "one", **settings)
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run_in_two_processes(small_words(data, tmp_path / "two", **settings | parts))
    assert distance(one, tmp_path / "two") < 1e-5
    assert read_metrics(one)["results"] == read_metrics(tmp_path / "two")["results"]


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": "sgd"}, "`optim` ('sgd'): allowed are 'adamw_torch' and 'adamw_torch_fused'"),
        ({"torch_compile": True}, "`torch_compile` (True)"),
    ],
)
def test_what_it_does_not_go_with_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, settings: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
):
    error = refuse(small_words(data, tmp_path / "run", sparse_embeddings=True, **settings), capsys)
    assert f"`sparse_embeddings` (True) does not go with {message}" in error
    assert not (tmp_path / "run").exists()


ONE_CPU = {
    "sparse_embeddings": True,
    "ema_decay": 0.0,
    "mixup_alpha": 0.0,
    "subword_buckets": None,
    "optim": "adamw_torch",
    "torch_compile": False,
    "fsdp": [],
    "deepspeed": None,
    "n_gpu": 0,
    "world_size": 1,
    "device": torch.device("cpu"),
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_gpu": 2, "device": torch.device("cuda")}, r"2 devices of type 'cuda'"),
        ({"n_gpu": 1, "world_size": 4, "device": torch.device("cuda")}, r"4 devices of type 'cuda'.*`use_cpu`"),
        ({"device": torch.device("mps")}, r"a device of type 'mps'"),
        ({"deepspeed": "ds.json"}, r"`deepspeed` \('ds.json'\)"),
    ],
)
def test_devices_and_backends_without_row_sparse_gradients_are_refused(settings: dict[str, Any], message: str):
    for fits in ({}, {"world_size": 2}, {"n_gpu": 1, "device": torch.device("cuda")}):
        finetune.refuse_unfit(SimpleNamespace(**ONE_CPU | fits))
    finetune.refuse_unfit(SimpleNamespace(**ONE_CPU | settings | {"sparse_embeddings": False}))
    with pytest.raises(ValueError, match=message):
        finetune.refuse_unfit(SimpleNamespace(**ONE_CPU | settings))


def test_a_model_whose_words_are_not_in_an_embedding_is_refused(tmp_path: Path):
    class Model(nn.Linear):
        get_input_embeddings: Callable[[nn.Module], nn.Module] = lambda self: self

    arguments = finetune.RunArguments(
        str(tmp_path), use_cpu=True, sparse_embeddings=True, eval_strategy="no", load_best_model_at_end=False
    )
    trainer = finetune.WaveTrainer(model=Model(1, 1), args=arguments)
    with pytest.raises(ValueError, match=r"those of Model are in Model\. Leave it out"):
        trainer.create_optimizer()
