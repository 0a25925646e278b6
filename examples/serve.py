"""Serves an exported classifier over HTTP: `python examples/serve.py FOLDER`, the folder from `wave-network export`.

    curl http://127.0.0.1:8000/classify --json '{"inputs": "Striker scores twice in the cup final"}'

What it answers and what it refuses: docs/serving.md, or `/docs` of the running server.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise ImportError(f'The server needs FastAPI and uvicorn: pip install "wave-network[serve]" ({error})') from error

# A batch of more tokens, with its padding, leaves the caches of a CPU; `wave-network predict` has the same bound.
BATCH_TOKENS = 4096
# WordPiece knows no longer word, so a text of more characters for each token that is allowed need not be tokenised.
CHARACTERS_IN_A_TOKEN = 100
Scores = list[dict[str, Any]]


class TextClassifier(Protocol):
    """What is served: `wave_network.export.runtime.ExportedClassifier`, or anything like it."""

    labels: list[str]
    max_length: int

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...
    def classify(self, texts: Sequence[str], top_k: int | None = 1) -> list[Scores]: ...


@dataclass(frozen=True)
class Limits:
    """
    What the server takes on.

    Attributes:
        max_tokens: Of one text. What the model does not read of a text, it cuts off.
        max_batch: Texts in one request, and in one batch of the model.
        max_waiting: Texts of all requests together; beyond, requests are answered with 503.
        max_body: Bytes of one request.
    """

    max_tokens: int
    max_batch: int = 32
    max_waiting: int = 256
    max_body: int = 1 << 20

    def __post_init__(self):
        for name in ("max_tokens", "max_batch", "max_waiting", "max_body"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.max_waiting < self.max_batch:
            raise ValueError(f"`max_waiting` must be at least `max_batch`, {self.max_batch}, got {self.max_waiting}.")


# ---- What is refused, and how


class RequestError(Exception):
    """A request that is not served, and the answer that says why."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        allowed: Any = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, headers
        self.error = {"code": code, "field": field, "message": message, "allowed": allowed}

    def answer(self) -> JSONResponse:
        return JSONResponse({"error": self.error}, self.status, self.headers)


class ErrorDetail(BaseModel):
    code: str
    field: str | None
    message: str
    allowed: Any


class ErrorAnswer(BaseModel):
    error: ErrorDetail


def shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def show(value: Any) -> str:
    """A JSON value as an error message names it."""
    if isinstance(value, dict):
        return "an object"
    return f"a list of {len(value):,}" if isinstance(value, list) else shorten(json.dumps(value))


def refuse_invalid(error: ValidationError, limits: Limits) -> NoReturn:
    """Of what pydantic found wrong with a body, the most exact, as one refusal."""
    found = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    kind, place, value = found["type"], found["loc"], found["input"]
    if kind == "json_invalid":
        raise RequestError(400, "not_json", f"The body is not JSON: {found['ctx']['error']}.", allowed="a JSON object")
    if not place:
        message = f"The body must be a JSON object, got {show(value)}."
        raise RequestError(422, "wrong_type", message, allowed="a JSON object")
    name = shorten(str(place[0]))
    field = name + "".join(f"[{part}]" for part in place[1:] if isinstance(part, int))
    if kind == "extra_forbidden":
        message = f"`{field}` is not known; a request has `inputs`, and may have `top_k`."
        raise RequestError(422, "unknown_field", message, field=field, allowed=["inputs", "top_k"])
    allowed = {
        "inputs": f"a text, or a list of 1 to {limits.max_batch} texts",
        "top_k": "a whole number from 1 on, or null for all labels",
    }[name]
    code = {"missing": "missing", "too_short": "empty", "too_long": "too_many_texts"}.get(kind, "wrong_type")
    got = "nothing" if kind == "missing" else show(value)
    raise RequestError(422, code, f"`{field}` must be {allowed}, got {got}.", field=field, allowed=allowed)


# ---- What a request holds


class Score(BaseModel):
    label: str
    score: float


def make_request_type(limits: Limits) -> type[BaseModel]:
    """The body of a request. The limits are in the type, and so in the server's own documentation."""

    class ClassifyRequest(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

        inputs: Annotated[list[str], Field(min_length=1, max_length=limits.max_batch)] | str
        top_k: int | None = Field(1, ge=1)

    return ClassifyRequest


async def read_body(request: Request, most: int) -> bytes:
    """The body, of which no more than `most` bytes are ever held."""
    allowed = f"at most {most} bytes"

    def refuse(size: str) -> NoReturn:
        raise RequestError(413, "body_too_large", f"The body must have {allowed}, got {size}.", allowed=allowed)

    kind = request.headers.get("content-type", "")
    # A browser sends other types to any address for any page that it shows, and this one only if the server agrees.
    if kind.partition(";")[0].strip().lower() != "application/json":
        message = f"`Content-Type` must be application/json, got {shorten(kind) or 'none'}."
        raise RequestError(415, "wrong_content_type", message, field="Content-Type", allowed="application/json")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        refuse(shorten(declared))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            refuse("more")
    return bytes(body)


def name_text(asked: Any, index: int) -> str:
    return "inputs" if isinstance(asked.inputs, str) else f"inputs[{index}]"


def check_texts(asked: Any, texts: Sequence[str], limits: Limits) -> None:
    """What can be said of texts before they are tokenised."""
    for index, text in enumerate(texts):
        field = name_text(asked, index)
        if not text.strip():
            allowed = "a text with at least one character that is not a space"
            raise RequestError(422, "empty", f"`{field}` must be {allowed}, got none.", field=field, allowed=allowed)
        characters = limits.max_tokens * CHARACTERS_IN_A_TOKEN
        if len(text) > characters:
            allowed = f"at most {limits.max_tokens} tokens, and {characters} characters"
            message = f"`{field}` must have {allowed}, got {len(text)} characters."
            raise RequestError(413, "too_long", message, field=field, allowed=allowed)


def check_lengths(asked: Any, lengths: Sequence[int], limits: Limits) -> None:
    for index, length in enumerate(lengths):
        if length > limits.max_tokens:
            field, allowed = name_text(asked, index), f"at most {limits.max_tokens} tokens"
            message = f"`{field}` must have {allowed}, got {length}."
            raise RequestError(413, "too_long", message, field=field, allowed=allowed)


def to_answer(asked: Any, scores: list[Scores]) -> Any:
    """The scores of all labels, cut and nested as a text-classification pipeline of transformers does it."""
    if "top_k" not in asked.model_fields_set:
        return [each[0] for each in scores]
    cut = [each[: asked.top_k] for each in scores]
    return cut[0] if isinstance(asked.inputs, str) else cut


# ---- Texts of concurrent requests share batches


@dataclass
class Job:
    """
    A text that waits for its scores.

    Attributes:
        length: Tokens of it that the model reads.
        result: Done before it has the scores, it is that of a request given up.
    """

    text: str
    length: int
    result: asyncio.Future


class Batcher:
    """
    Runs the classifier in one thread of its own, so that the event loop is always free, on batches of whatever waits.

    While a batch is computed, the next ones gather: the more requests, the larger the batches.
    """

    task: asyncio.Task

    def __init__(self, classifier: TextClassifier, limits: Limits):
        self.classifier, self.limits = classifier, limits
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="classifier")
        self.jobs: deque[Job] = deque()
        self.arrived = asyncio.Event()
        self.under_way = 0

    async def start(self) -> None:
        # A model that cannot run is found out now, and the first request is as fast as the next.
        await asyncio.to_thread(self.classifier.classify, ["A first text."], top_k=None)
        self.task = asyncio.create_task(self.run())

    def stop(self) -> None:
        self.task.cancel()
        self.thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Room for the texts of a request, from before they are tokenised until they are answered."""
        if self.under_way + count > self.limits.max_waiting:
            message = f"The server is busy with {self.under_way} texts; it takes {self.limits.max_waiting}. Try again."
            raise RequestError(503, "busy", message, headers={"Retry-After": "1"})
        self.under_way += count
        try:
            yield
        finally:
            self.under_way -= count

    async def classify(self, texts: Sequence[str], lengths: Sequence[int]) -> list[Scores]:
        loop = asyncio.get_running_loop()
        read = [min(length, self.classifier.max_length) for length in lengths]
        jobs = [Job(text, length, loop.create_future()) for text, length in zip(texts, read, strict=True)]
        self.jobs.extend(jobs)
        self.arrived.set()
        return await asyncio.gather(*(job.result for job in jobs))

    async def run(self) -> None:
        """Computes batches for as long as the server runs."""
        while True:
            await self.arrived.wait()
            await self.compute(self.take_batch())

    def take_batch(self) -> list[Job]:
        """The texts that have waited longest, as many as fit."""
        batch: list[Job] = []
        longest = 0
        while self.jobs and len(batch) < self.limits.max_batch:
            job = self.jobs[0]
            longest = max(longest, job.length)
            if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
                break
            self.jobs.popleft()
            if not job.result.done():
                batch.append(job)
        if not self.jobs:
            self.arrived.clear()
        return batch

    async def compute(self, batch: list[Job]) -> None:
        if not batch:
            return
        work = partial(self.classifier.classify, [job.text for job in batch], top_k=None)
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self.thread, work)
            pairs = list(zip(batch, scores, strict=True))
        except Exception as error:
            if len(batch) > 1:  # a text that the classifier fails on must not fail those of other requests
                for job in batch:
                    await self.compute([job])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        for job, found in pairs:
            if not job.result.done():
                job.result.set_result(found)


# ---- The application


def make_app(classifier: TextClassifier, limits: Limits, name: str = "classifier") -> FastAPI:
    """
    The application, for uvicorn or any other ASGI server. It loads nothing and starts no thread until it is run.

    Args:
        name: What `/health` calls the model.
    """
    batcher = Batcher(classifier, limits)
    request_type = make_request_type(limits)

    @contextlib.asynccontextmanager
    async def run_batcher(app: FastAPI):
        await batcher.start()
        yield
        batcher.stop()

    app = FastAPI(
        title="Text classifier",
        version=version("wave-network"),
        lifespan=run_batcher,
        redirect_slashes=False,
        responses={status: {"model": ErrorAnswer} for status in (400, 413, 415, 422, 500, 503)},
    )
    app.state.batcher = batcher
    add_error_handlers(app)

    @app.get("/health", summary="Whether the server can answer, with what, and within which limits")
    async def health() -> dict[str, Any]:
        if batcher.task.done():
            raise RequestError(503, "not_ready", "The server is stopping, or its batching has failed.")
        return {
            "status": "ready",
            "model": name,
            "version": app.version,
            "labels": classifier.labels,
            "limits": asdict(limits),
            "texts_under_way": batcher.under_way,
        }

    @app.post(
        "/classify",
        summary="Labels and scores, as a text-classification pipeline of transformers gives them",
        response_model=list[Score] | list[list[Score]],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request_type.model_json_schema()}},
            }
        },
    )
    async def classify(request: Request) -> JSONResponse:
        try:
            asked: Any = request_type.model_validate_json(await read_body(request, limits.max_body))
        except ValidationError as error:
            refuse_invalid(error, limits)
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        check_texts(asked, texts, limits)
        with batcher.places(len(texts)):
            lengths = await asyncio.to_thread(classifier.count_tokens, texts)
            check_lengths(asked, lengths, limits)
            scores = await batcher.classify(texts, lengths)
        return JSONResponse(to_answer(asked, scores))

    return app


def add_error_handlers(app: FastAPI) -> None:
    """All errors have the shape of a `RequestError`, those of paths, methods and our own mistakes too."""

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        return error.answer()

    @app.exception_handler(HTTPException)
    async def refuse_address(request: Request, error: HTTPException) -> JSONResponse:
        path, headers = shorten(request.url.path), dict(error.headers or {})
        if error.status_code == 405:
            message, allowed = f"{request.method} is not for {path}.", headers.get("Allow")
            return RequestError(405, "wrong_method", message, field="method", allowed=allowed, headers=headers).answer()
        if error.status_code == 404:
            paths = ["/classify", "/health", "/docs", "/openapi.json"]
            return RequestError(404, "not_found", f"There is no {path} here.", field="path", allowed=paths).answer()
        return RequestError(error.status_code, "refused", str(error.detail), headers=headers).answer()

    @app.exception_handler(ClientDisconnect)
    async def forget(_: Request, __: ClientDisconnect) -> JSONResponse:
        return RequestError(400, "disconnected", "The connection ended before the body did.").answer()

    # Starlette raises the error again after the answer, and so the server logs it.
    @app.exception_handler(Exception)
    async def admit(_: Request, __: Exception) -> JSONResponse:
        return RequestError(500, "internal", "The server failed on this request; its log says why.").answer()


# ---- The command


def load_classifier(folder: str, threads: int | None) -> Any:
    """The exported model. Its runtime is loaded as a file: the package around it would import torch."""
    package = importlib.util.find_spec("wave_network")
    if package is None or not package.submodule_search_locations:
        raise ImportError("The server needs the package wave-network: pip install .")
    path = Path(package.submodule_search_locations[0], "export", "runtime.py")
    spec = importlib.util.spec_from_file_location("wave_runtime", path)
    assert spec is not None
    assert spec.loader is not None
    runtime = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = runtime
    spec.loader.exec_module(runtime)
    return runtime.ExportedClassifier(folder, threads=threads)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a model from `wave-network export`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; any other lets others in, unasked")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free; the log names it")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with the model (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the model in a process (default: one for each core)")
    parser.add_argument("--max_tokens", type=int, help="tokens in a text (default: as many as the model reads)")
    parser.add_argument("--max_batch", type=int, default=Limits.max_batch, help="texts in a request (%(default)s)")
    parser.add_argument("--max_waiting", type=int, default=Limits.max_waiting, help="texts under way (%(default)s)")
    parser.add_argument("--max_body", type=int, default=Limits.max_body, help="bytes in a request (%(default)s)")
    parser.add_argument(
        "--shutdown_seconds", type=int, default=30, help="time for requests under way after SIGTERM (%(default)s)"
    )
    parser.add_argument("--access_log", action="store_true", help="log each request: address, path, status; no texts")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= 65535:
        parser.error(f"`port` must be 0 to 65535, got {arguments.port}.")
    for name in ("workers", "shutdown_seconds"):
        if getattr(arguments, name) < 1:
            parser.error(f"`{name}` must be at least 1, got {getattr(arguments, name)}.")
    return arguments


def build_app() -> FastAPI:
    """The application that the command line asks for. A worker process has the command line of its parent."""
    arguments = parse_arguments()
    try:
        classifier = load_classifier(arguments.folder, arguments.threads)
        limits = Limits(
            arguments.max_tokens if arguments.max_tokens is not None else classifier.max_length,
            arguments.max_batch,
            arguments.max_waiting,
            arguments.max_body,
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        sys.exit(2)
    return make_app(classifier, limits, name=Path(arguments.folder).resolve().name)


def main() -> None:
    arguments = parse_arguments()
    app = build_app()
    # uvicorn raises the signal that ended it again. To have answered everything is success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        app if arguments.workers == 1 else f"{Path(__file__).stem}:{build_app.__name__}",
        factory=arguments.workers > 1,
        app_dir=str(Path(__file__).parent),
        workers=arguments.workers,
        host=arguments.host,
        port=arguments.port,
        ws="none",
        access_log=arguments.access_log,
        timeout_graceful_shutdown=arguments.shutdown_seconds,
        timeout_worker_healthcheck=60,  # a process that takes longer than this to start is taken for dead
    )


if __name__ == "__main__":
    main()
