"""The example server: what it answers, what it refuses, and how it starts, shares batches and stops."""

import asyncio
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small_runs import WORDS, make_rows, write_csv
from transformers import pipeline

from wave_network import WaveConfig, WaveForSequenceClassification, train_wave_tokenizer
from wave_network.benchmarks import models, serving, serving_clients, tables
from wave_network.export.export import ExportArguments, export_model

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason='needs FastAPI, uvicorn and httpx: pip install "wave-network[serve]"')
httpx = pytest.importorskip("httpx")

SERVER = Path(__file__).parent.parent / "examples" / "serve.py"
LABELS = ["sport", "money", "space"]


def load_server() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve", SERVER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve"] = module
    spec.loader.exec_module(module)
    return module


serve = load_server()


class StandIn:
    """Knows the interface of an exported classifier, and scores a text by its length."""

    labels = LABELS
    max_length = 16

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    def classify(self, texts: Sequence[str], top_k: int | None = 1) -> list[list[dict[str, Any]]]:
        self.batches.append(list(texts))
        assert self.go_on.wait(timeout=20)
        for text in texts:
            if text.startswith("poison"):
                raise RuntimeError(f"secret of {text}")
        return [self.score(text)[:top_k] for text in texts]

    def score(self, text: str) -> list[dict[str, Any]]:
        first = len(text) % 3
        scores = [0.5, 0.3 + len(text) / 1e6, 0.2]
        return [{"label": LABELS[(first + place) % 3], "score": score} for place, score in enumerate(scores)]


Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


def talk(to: Talk, classifier: Any = None, **limits: Any) -> Any:
    """Runs an application from its start to its end, and in between a client of it."""
    app = serve.make_app(classifier or StandIn(), serve.Limits(**{"max_tokens": 16, "max_batch": 4} | limits), "toy")

    async def run() -> Any:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await asyncio.wait_for(to(client), timeout=20)

    return asyncio.run(run())


def ask(body: Any, classifier: Any = None, **limits: Any) -> httpx.Response:
    return talk(lambda client: client.post("/classify", json=body), classifier, **limits)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def ask_at_once(classifier: StandIn, texts: list[str]) -> Talk:
    """One request for each text, all of which wait while the model is busy with another."""

    async def to(client: httpx.AsyncClient) -> list[httpx.Response]:
        classifier.go_on.clear()
        busy = asyncio.create_task(client.post("/classify", json={"inputs": "busy"}))
        await until(lambda: len(classifier.batches) == 2)
        asked = [asyncio.create_task(client.post("/classify", json={"inputs": text})) for text in texts]
        await until(lambda: len(waiting(client)) == len(texts))
        classifier.go_on.set()
        await busy
        return await asyncio.gather(*asked)

    return to


def waiting(client: httpx.AsyncClient) -> Any:
    return client._transport.app.state.batcher.jobs


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Every error has one shape, and is JSON."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert list(error) == ["code", "field", "message", "allowed"]
    assert error["code"] == code
    return error


# What it answers


def test_answers_are_nested_and_cut_as_a_pipeline_does_it():
    score = StandIn().score
    one, other = "goal match", "bank"
    assert ask({"inputs": one}).json() == score(one)[:1]
    assert ask({"inputs": [one]}).json() == score(one)[:1]
    assert ask({"inputs": [one, other]}).json() == [score(one)[0], score(other)[0]]
    assert ask({"inputs": one, "top_k": 1}).json() == score(one)[:1]
    assert ask({"inputs": one, "top_k": 2}).json() == score(one)[:2]
    assert ask({"inputs": [one, other], "top_k": 1}).json() == [score(one)[:1], score(other)[:1]]
    assert ask({"inputs": [one, other], "top_k": None}).json() == [score(one), score(other)]
    assert ask({"inputs": one, "top_k": 10**9}).json() == score(one)


def test_health_says_what_is_served_and_within_which_limits():
    health = talk(lambda client: client.get("/health"), max_body=1000)
    assert health.status_code == 200
    found = health.json()
    assert found.pop("version")
    assert found == {
        "status": "ready",
        "model": "toy",
        "labels": LABELS,
        "limits": {"max_tokens": 16, "max_batch": 4, "max_waiting": 256, "max_body": 1000},
        "texts_under_way": 0,
    }


def test_health_is_not_ready_once_batching_has_ended():
    app = serve.make_app(StandIn(), serve.Limits(16))

    async def run() -> httpx.Response:
        async with app.router.lifespan_context(app):
            app.state.batcher.task.cancel()
            await asyncio.sleep(0)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                return await client.get("/health")

    check_error(asyncio.run(run()), 503, "not_ready")


def test_its_own_documentation_holds_the_limits():
    schema = talk(lambda client: client.get("/openapi.json"), max_batch=7).json()
    post = schema["paths"]["/classify"]["post"]
    inputs = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]
    assert {"items": {"type": "string"}, "maxItems": 7, "minItems": 1, "type": "array"} in inputs["anyOf"]
    assert {"200", "400", "413", "415", "422", "500", "503"} <= post["responses"].keys()


# How it shares batches


def test_concurrent_requests_share_batches_and_each_gets_its_own_scores():
    classifier = StandIn()
    texts = ["x" * length for length in range(1, 41)]
    answers = talk(ask_at_once(classifier, texts), classifier)
    assert [answer.json() for answer in answers] == [classifier.score(text)[:1] for text in texts]
    _, busy, *batches = classifier.batches
    assert busy == ["busy"]
    assert [len(batch) for batch in batches] == [4] * 10
    assert sorted(text for batch in batches for text in batch) == texts


def test_a_batch_holds_no_more_tokens_than_stay_in_the_caches():
    """Of a text that is longer than the model reads, only what it reads."""
    classifier = StandIn()
    classifier.max_length = 1500
    long, short = " ".join(["word"] * 3000), "word"

    async def to(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/classify", json={"inputs": [long, long, long, *[short] * 5], "top_k": None})

    answer = talk(to, classifier, max_tokens=4000, max_batch=8)
    assert len(answer.json()) == 8
    assert [len(batch) for batch in classifier.batches[1:]] == [2, 2, 4]  # of 1,500, 1,500 and 3 tokens


class SlowToCount(StandIn):
    counting = False

    def count_tokens(self, texts):
        self.counting = True
        assert self.go_on.wait(timeout=20)
        return super().count_tokens(texts)


@pytest.mark.parametrize("classifier", [StandIn(), SlowToCount()])
def test_the_event_loop_is_free_while_the_model_computes_or_the_tokenizer_counts(classifier: StandIn):
    async def to(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        classifier.go_on.clear()
        asked = asyncio.create_task(client.post("/classify", json={"inputs": ["one", "two"]}))
        await until(lambda: len(classifier.batches) == 2 or getattr(classifier, "counting", False))
        health = await client.get("/health")
        classifier.go_on.set()
        return health, await asked

    health, answer = talk(to, classifier)
    assert health.json()["texts_under_way"] == 2
    assert answer.status_code == 200


def test_a_full_server_says_so_and_takes_requests_again_afterwards():
    classifier = StandIn()

    async def to(client: httpx.AsyncClient) -> list[httpx.Response]:
        classifier.go_on.clear()
        asked = [asyncio.create_task(client.post("/classify", json={"inputs": ["a", "b"]})) for _ in range(2)]
        await until(lambda: len(classifier.batches) == 2)
        refused = await client.post("/classify", json={"inputs": "c"})
        classifier.go_on.set()
        taken = await asyncio.gather(*asked)
        return [refused, *taken, await client.post("/classify", json={"inputs": ["c"] * 4})]

    refused, *taken = talk(to, classifier, max_waiting=4)
    check_error(refused, 503, "busy")
    assert refused.headers["retry-after"] == "1"
    assert [answer.status_code for answer in taken] == [200, 200, 200]


def test_a_text_on_which_the_model_fails_fails_alone_and_shows_the_client_nothing():
    classifier = StandIn()
    texts = ["goal", "poison", "bank", "more poison"]
    answers = talk(ask_at_once(classifier, texts), classifier)
    assert sorted(classifier.batches[2]) == sorted(texts)
    assert [answer.status_code for answer in answers] == [200, 500, 200, 200]
    error = check_error(answers[1], 500, "internal")
    assert "secret" not in answers[1].text
    assert error["allowed"] is None


class Wrong(StandIn):
    """A model that runs, and then computes nonsense."""

    def classify(self, texts, top_k=1):
        scores = super().classify(texts, top_k)
        if texts[0] == "nan":
            scores[0][0]["score"] = float("nan")
        return scores[1:] if texts[0] == "too few" else scores


@pytest.mark.parametrize("text", ["nan", "too few"])
def test_nonsense_from_the_model_is_an_error_and_the_server_goes_on(text: str):
    async def to(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post("/classify", json={"inputs": each}) for each in (text, "goal")]

    wrong, right = talk(to, Wrong())
    check_error(wrong, 500, "internal")
    assert right.json() == StandIn().score("goal")[:1]


def test_a_request_given_up_leaves_its_place_and_its_batch():
    classifier = StandIn()

    async def to(client: httpx.AsyncClient) -> httpx.Response:
        classifier.go_on.clear()
        first = asyncio.create_task(client.post("/classify", json={"inputs": "first"}))
        await until(lambda: len(classifier.batches) == 2)
        given_up = asyncio.create_task(client.post("/classify", json={"inputs": ["x", "y", "z"]}))
        await until(lambda: len(waiting(client)) == 3)
        given_up.cancel()
        await asyncio.wait([given_up])
        last = asyncio.create_task(client.post("/classify", json={"inputs": ["a", "b", "c"]}))
        await until(lambda: len(waiting(client)) == 6)
        classifier.go_on.set()
        await first
        return await last

    assert talk(to, classifier, max_waiting=4).status_code == 200
    assert classifier.batches[1:] == [["first"], ["a", "b", "c"]]


def test_a_request_given_up_while_it_is_computed_leaves_the_server_running():
    classifier = StandIn()

    async def to(client: httpx.AsyncClient) -> httpx.Response:
        classifier.go_on.clear()
        given_up = asyncio.create_task(client.post("/classify", json={"inputs": "goal"}))
        await until(lambda: len(classifier.batches) == 2)
        given_up.cancel()
        await asyncio.wait([given_up])
        classifier.go_on.set()
        return await client.post("/classify", json={"inputs": "bank"})

    assert talk(to, classifier).json() == classifier.score("bank")[:1]


# What it refuses

A_TEXT = "a text, or a list of 1 to 4 texts"
BAD = {
    "nothing": (b"", 400, "not_json", None, "EOF"),
    "a word": (b"goal", 400, "not_json", None, "not JSON"),
    "half": (b'{"inputs": "goal"', 400, "not_json", None, "EOF"),
    "two": (b'{"inputs": "goal"} {}', 400, "not_json", None, "trailing"),
    "not UTF-8": (b'{"inputs": "\xff\xfe"}', 400, "not_json", None, "unicode"),
    "lone surrogate": (b'{"inputs": "\\ud800"}', 400, "not_json", None, "not JSON"),
    "bytes of a surrogate": (b'{"inputs": "\xed\xa0\x80"}', 400, "not_json", None, "unicode"),
    "deep": (b'{"inputs": ' + b"[" * 50_000, 400, "not_json", None, "recursion"),
    "deep objects": (b'{"a":' * 20_000, 400, "not_json", None, "recursion"),
    "long number": (b'{"inputs": "a", "top_k": ' + b"9" * 5000 + b"}", 400, "not_json", None, "number"),
    "a list": (b'["goal"]', 422, "wrong_type", None, "got a list of 1"),
    "a text": (b'"goal"', 422, "wrong_type", None, 'got "goal"'),
    "null": (b"null", 422, "wrong_type", None, "got null"),
    "no inputs": (b'{"top_k": 1}', 422, "missing", "inputs", f"{A_TEXT}, got nothing"),
    "number": (b'{"inputs": 5}', 422, "wrong_type", "inputs", f"{A_TEXT}, got 5"),
    "null inputs": (b'{"inputs": null}', 422, "wrong_type", "inputs", "got null"),
    "object": (b'{"inputs": {"text": "goal"}}', 422, "wrong_type", "inputs", "got an object"),
    "the last one wins": (b'{"inputs": "goal", "inputs": NaN}', 422, "wrong_type", "inputs", "got NaN"),
    "in a list": (b'{"inputs": ["goal", 5]}', 422, "wrong_type", "inputs[1]", "got 5"),
    "lists in a list": (b'{"inputs": [["goal"]]}', 422, "wrong_type", "inputs[0]", "got a list of 1"),
    "top_k 0": (b'{"inputs": "goal", "top_k": 0}', 422, "wrong_type", "top_k", "from 1 on, or null"),
    "top_k true": (b'{"inputs": "goal", "top_k": true}', 422, "wrong_type", "top_k", "got true"),
    "top_k NaN": (b'{"inputs": "goal", "top_k": NaN}', 422, "wrong_type", "top_k", "got NaN"),
    "top_k as text": (b'{"inputs": "goal", "top_k": "2"}', 422, "wrong_type", "top_k", 'got "2"'),
    "long": (b'{"inputs": "goal", "top_k": "' + b"a" * 9000 + b'"}', 422, "wrong_type", "top_k", "aaa..."),
    "long name": (b'{"inputs": "goal", "' + b"a" * 9000 + b'": 1}', 422, "unknown_field", "a" * 60 + "...", "aaa..."),
    "top_k 1.5": (b'{"inputs": "goal", "top_k": 1.5}', 422, "wrong_type", "top_k", "got 1.5"),
    "misspelt": (b'{"inputs": "goal", "topk": 2}', 422, "unknown_field", "topk", "`top_k`"),
    "empty": (b'{"inputs": ""}', 422, "empty", "inputs", "at least one character"),
    "spaces": (b'{"inputs": ["goal", " \\t\\n\\u00a0"]}', 422, "empty", "inputs[1]", "at least one character"),
    "no texts": (b'{"inputs": []}', 422, "empty", "inputs", f"{A_TEXT}, got a list of 0"),
    "texts": (b'{"inputs": ["a", "b", "c", "d", "e"]}', 422, "too_many_texts", "inputs", "got a list of 5"),
    "many": (b'{"inputs": [' + b"1," * 90_000 + b"1]}", 422, "too_many_texts", "inputs", "got a list of 90,001"),
    "tokens": (b'{"inputs": "' + b"a " * 15 + b'"}', 413, "too_long", "inputs", "at most 16 tokens, got 17"),
    "one too long": (b'{"inputs": ["a", "' + b"a " * 15 + b'"]}', 413, "too_long", "inputs[1]", "got 17"),
    "characters": (b'{"inputs": "' + b"a" * 1601 + b'"}', 413, "too_long", "inputs", "1600 characters, got 1601"),
    "bytes": (
        b'{"inputs": "' + b"a" * 200_000 + b'"}',
        413,
        "body_too_large",
        None,
        "at most 200000 bytes, got 200014",
    ),
}


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[httpx.Response, int]]:
    """To each bad body the answer, and how many texts are under way afterwards; then to a good one. One server."""

    async def to(client: httpx.AsyncClient) -> dict[str, tuple[httpx.Response, int]]:
        found = {}
        for name, (body, *_) in BAD.items():
            answer = await client.post("/classify", content=body, headers={"Content-Type": "application/json"})
            found[name] = (answer, (await client.get("/health")).json()["texts_under_way"])
        return found | {"good": (await client.post("/classify", json={"inputs": "goal"}), 0)}

    return talk(to, max_body=200_000)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_refused_by_field_value_and_what_is_allowed(name: str, answers: dict[str, Any]):
    _, status, code, field, words = BAD[name]
    answer, under_way = answers[name]
    error = check_error(answer, status, code)
    assert error["field"] == field
    assert words in error["message"]
    assert error["allowed"]
    assert len(answer.content) < 500
    assert under_way == 0


def test_after_all_bad_bodies_the_server_answers(answers: dict[str, Any]):
    assert answers["good"][0].json() == StandIn().score("goal")[:1]


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\u202e\u200b\ufeff", "e\u0301" * 100, "\U0001f469\u200d\U0001f680", "\uffff"]
)
def test_odd_texts_are_texts(text: str):
    assert ask({"inputs": text}).json() == StandIn().score(text)[:1]


def test_a_body_without_a_length_is_read_no_further_than_allowed():
    sent = []

    async def chunks():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 100

    answer = talk(
        lambda client: client.post("/classify", content=chunks(), headers={"Content-Type": "application/json"}),
        max_body=1000,
    )
    check_error(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "x" * 999]
)
def test_another_content_type_is_refused(kind: str | None):
    headers = {"Content-Type": kind} if kind else {}
    answer = talk(lambda client: client.post("/classify", content=b'{"inputs": "goal"}', headers=headers))
    error = check_error(answer, 415, "wrong_content_type")
    assert error["field"] == "Content-Type"
    assert len(answer.content) < 500


def test_a_content_type_with_a_charset_is_taken():
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = talk(lambda client: client.post("/classify", content=b'{"inputs": "goal"}', headers=headers))
    assert answer.status_code == 200


def test_unknown_paths_and_wrong_methods_are_json_too():
    error = check_error(talk(lambda client: client.get("/classification")), 404, "not_found")
    assert "/classification" in error["message"]
    assert "/classify" in error["allowed"]
    check_error(talk(lambda client: client.post("/classify/", json={"inputs": "goal"})), 404, "not_found")
    answer = talk(lambda client: client.get("/classify"))
    error = check_error(answer, 405, "wrong_method")
    assert answer.headers["allow"] == error["allowed"] == "POST"
    assert "GET" in error["message"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_tokens": 0}, "`max_tokens` must be at least 1, got 0"),
        ({"max_batch": -1}, "`max_batch` must be at least 1, got -1"),
        ({"max_body": 0}, "`max_body` must be at least 1, got 0"),
        ({"max_batch": 64, "max_waiting": 63}, "`max_waiting` must be at least `max_batch`, 64, got 63"),
    ],
)
def test_limits_that_make_no_server_are_refused(limits: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        serve.Limits(**{"max_tokens": 16} | limits)


def test_a_model_that_cannot_run_is_found_out_at_the_start():
    class Broken(StandIn):
        def classify(self, texts, top_k=1):
            raise RuntimeError("no such operator")

    with pytest.raises(RuntimeError, match="no such operator"):
        ask({"inputs": "goal"}, Broken())


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_its_packages_the_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.spec_from_file_location("serve_without", SERVER)
    with pytest.raises(ImportError, match=r'pip install "wave-network\[serve\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# The process

# The real command, with a stand-in for the model that takes its time, and computes nothing until there is a file.
SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {place!r})
import serve

class Slow:
    labels, max_length = ["sport"], 16
    def count_tokens(self, texts):
        return [1 for _ in texts]
    def classify(self, texts, top_k=1):
        time.sleep(0.1)
        while texts == ["goal"] * len(texts) and not Path({go!r}).exists():
            time.sleep(0.01)
        return [[dict(label="sport", score=1.0)] for _ in texts]

serve.load_classifier = lambda folder, threads: Slow()
serve.main()
"""


def alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(command: list[str], log: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server process on a free loopback port, and its address; the log is for who finds it wanting."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", "0"], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())) or not alive(found[1]):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def go(tmp_path: Path) -> Path:
    return tmp_path / "go"


@pytest.fixture
def slow(tmp_path: Path, go: Path) -> list[str]:
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(place=str(SERVER.parent), go=str(go)))
    return [sys.executable, str(script), "folder", "--max_batch", "4"]


def test_on_sigterm_it_takes_no_more_and_answers_what_is_under_way(slow: list[str], go: Path, tmp_path: Path):
    log = tmp_path / "log"
    with ThreadPoolExecutor(12) as threads, running(slow, log) as (process, url):
        post = partial(httpx.post, f"{url}/classify", json={"inputs": "goal"}, timeout=60)
        asked = [threads.submit(post) for _ in range(12)]
        while httpx.get(f"{url}/health").json()["texts_under_way"] < 12:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        while alive(url):
            time.sleep(0.01)
        assert not any(each.done() for each in asked)
        go.touch()
        assert [each.result().status_code for each in asked] == [200] * 12
        assert process.wait(timeout=20) == 0
    assert "Traceback" not in log.read_text()


def test_a_client_that_never_ends_its_request_does_not_keep_it_from_stopping(slow: list[str], go: Path, tmp_path: Path):
    head = b"POST /classify HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    go.touch()
    with running([*slow, "--shutdown_seconds", "1"], tmp_path / "log") as (process, url), socket.socket() as connection:
        connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        connection.sendall(head + b'{"inputs": ')
        assert httpx.post(f"{url}/classify", json={"inputs": "goal"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_under_more_load_than_it_takes_it_refuses_the_rest_and_goes_on(slow: list[str], go: Path, tmp_path: Path):
    """With the clients of the load test, which count what is refused and time what is answered."""
    go.touch()
    with running([*slow, "--max_waiting", "4"], tmp_path / "log") as (_, url):
        found = asyncio.run(serving_clients.load(url, "/classify", ["goal"], connections=16, seconds=1))
        assert set(found["errors"]) == {"503"}
        assert min(found["latencies_ms"]) >= 100
        assert httpx.post(f"{url}/classify", json={"inputs": "goal"}).status_code == 200
        health = asyncio.run(serving_clients.load(url, "/health", ["goal"], connections=2, seconds=0.2))
        assert health["latencies_ms"]
        assert not health["errors"]


# An exported model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights, so large that its scores differ from text to text."""
    folder = tmp_path_factory.mktemp("models") / "run"
    tokenizer = train_wave_tokenizer((row["text"] for row in make_rows(60, seed=0)), 200, show_progress=False)
    tokenizer.model_max_length = 32
    torch.manual_seed(1)
    labels = dict(enumerate(LABELS))
    config = WaveConfig(vocab_size=len(tokenizer), hidden_size=16, id2label=labels, initializer_range=0.5)
    WaveForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason='needs ONNX: pip install "wave-network[onnx]"')
    return export_model(ExportArguments(str(run), output_dir=str(run.with_name("onnx")), report=False))


def close(found: Any, expected: Any) -> bool:
    """Whether two answers are nested alike, with equal labels and nearly equal scores."""
    if isinstance(expected, list):
        return isinstance(found, list) and all(map(close, found, expected)) and len(found) == len(expected)
    return found == expected | {"score": pytest.approx(expected["score"], abs=1e-5)}


def test_an_exported_model_answers_as_the_pipeline_of_the_model_does(run: Path, exported: Path, tmp_path: Path):
    """Two processes behind one port, 50 requests at a time."""
    texts = [row["text"] for row in make_rows(44, seed=3)]
    asked = [{"inputs": text} for text in texts]
    for inputs in (texts[0], texts[:1], texts[:9]):
        asked += [{"inputs": inputs, "top_k": top_k} for top_k in (1, 2, None)]
    asked += [{"inputs": texts[:1]}, {"inputs": texts[:9]}]
    command = [sys.executable, str(SERVER), str(exported), "--workers", "2", "--threads", "1", "--access_log"]
    with running(command, tmp_path / "log") as (process, url):
        with httpx.Client() as client, ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda body: client.post(f"{url}/classify", json=body, timeout=20), asked))
            health = client.get(f"{url}/health").json()
            too_long = client.post(f"{url}/classify", json={"inputs": "goal " * 50})
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    expected = pipeline("text-classification", model=str(run), device="cpu")
    for body, answer in zip(asked, answers, strict=True):
        top_k = {"top_k": body["top_k"]} if "top_k" in body else {}
        assert answer.status_code == 200, answer.text
        assert close(answer.json(), expected(body["inputs"], truncation=True, **top_k)), body
    assert health["model"] == "onnx"
    assert health["labels"] == LABELS
    error = check_error(too_long, 413, "too_long")
    assert error["allowed"] == "at most 32 tokens"
    log = (tmp_path / "log").read_text()
    assert "POST /classify" in log
    assert not any(word in log for words in WORDS.values() for word in words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "config.json"),
        (["--max_batch", "0"], "`max_batch` must be at least 1, got 0"),
        (["--workers", "0"], "`workers` must be at least 1, got 0"),
        (["--port", "99999"], "`port` must be 0 to 65535, got 99999"),
        (["--port", "-1"], "`port` must be 0 to 65535, got -1"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if words:
        monkeypatch.setattr(serve, "load_classifier", lambda *_: StandIn())
    monkeypatch.setattr(sys, "argv", ["serve.py", str(tmp_path), *words])
    with pytest.raises(SystemExit) as exit_:
        serve.main()
    assert exit_.value.code == 2
    assert error in capsys.readouterr().err.splitlines()[-1]


def test_the_server_imports_neither_torch_nor_transformers(exported: Path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import serve; serve.load_classifier(sys.argv[2], 1);"
        "print({'torch', 'transformers', 'wave_network'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(SERVER.parent), str(exported)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


# The load test


def test_a_ratio_is_taken_within_a_round_and_latencies_over_all():
    found = {
        serving.OURS: [
            {"latencies_ms": [1.0, 2.0, 3.0], "errors": {}, "seconds": 1},
            {"latencies_ms": [4.0], "errors": {"503": 2}, "seconds": 1},
        ],
        serving.RIVAL: [
            {"latencies_ms": [2.0], "errors": {}, "seconds": 1},
            {"latencies_ms": [8.0, 8.0], "errors": {"503": 1, "500": 1}, "seconds": 1},
        ],
    }
    ours, rival = serving.summarise_load(found, connections=4)
    assert (ours["requests"], ours["seconds"], ours["rounds"], ours["errors"]) == (4, 2, 2, {"503": 2})
    assert (ours["p50_ms"], rival["p50_ms"]) == (2.5, 8.0)
    assert ours["ratio_to_rival"]["requests_per_second"]["median"] == (3 / 1 + 1 / 2) / 2
    assert ours["ratio_to_rival"]["p50"]["median"] == (2 / 2 + 4 / 8) / 2
    assert rival["errors"] == {"503": 1, "500": 1}
    assert "ratio_to_rival" not in rival


def test_the_load_test_writes_lines_that_the_table_shows(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = write_csv(tmp_path / "texts.csv", make_rows(20, seed=4))
    words = [str(exported), "--rival", str(exported), "--texts", str(texts), "--seconds", "0.4", "--rounds", "1"]
    serving.main([*words, "--connections", "2", "--results", str(tmp_path / "serving.jsonl")])
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    lines = tables.read("serving.jsonl")
    assert [line["case"] for line in lines] == [serving.OURS, serving.RIVAL, serving.NO_MODEL]
    assert all(line["requests"] > 0 and not line["errors"] for line in lines)
    assert lines[0]["parameters"] == lines[1]["parameters"]
    table = tables.serving_table()
    assert f"| 2 | {serving.OURS} |" in table
    assert "texts.csv, 20 texts of" in table


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--rounds", "0"], ["--connections", "1", "0"]])
def test_a_load_test_of_nothing_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        serving.main(["folder", *words])
    assert "must be" in capsys.readouterr().err


def test_the_rival_is_a_bert_with_the_tokenizer_and_the_labels_of_ours(run: Path, tmp_path: Path):
    rival = pipeline("text-classification", model=str(serving.save_rival(run, tmp_path / "rival")), device="cpu")
    config = rival.model.config
    assert config.model_type == "bert"
    assert models.find_bert_shape(serving.count(run)["core"]).items() <= config.to_dict().items()
    assert {each["label"] for each in rival("goal " * 50, truncation=True, top_k=None)} == set(LABELS)
