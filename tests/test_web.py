"""Exports where JavaScript runs them: transformers.js under Node, and the page in Chromium."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_predict import make_texts

from wave_network.inference import export as export_module
from wave_network.inference import web
from wave_network.inference.classify import ExportedClassifier, to_scores
from wave_network.inference.export import ExportArguments, export_model

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="needs the extra onnx")
pytest.importorskip("transformers.exporters.metadata", reason="needs transformers 5.23 or newer")

TESTS = Path(__file__).parent
NODE_MODULES = TESTS.parent / ".cache" / "npm" / "node_modules"
TEXT = "one striker's goal, with this bank"
TEXTS = [text for text in make_texts() if text.isascii() and len(text) < 200]
TEXTS += ["\u03a3\u0391\u03a3 \u03a3", "\u0130x \u017f \ufb01 a\u00f1o", "[CLS] goal [MASK]", "a\0b"]
MINUS = "\u2212"


def run_node(script: str, *words: Any) -> Any:
    node = shutil.which("node")
    if node is None or not NODE_MODULES.is_dir():
        pytest.skip("needs Node.js, and npm's packages in .cache: `make test` fetches them")
    command = [node, str(TESTS / "npm" / script), *map(str, words)]
    environment = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
    result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=500)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_pipeline_of_transformers_js(run: Path, tmp_path: Path):
    folders = [export_model(ExportArguments(str(run), name, str(tmp_path / name))) for name in ("onnx", "onnx-int8")]
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    for folder, found in zip(folders, run_node("pipeline.cjs", tmp_path / "texts.json", *folders), strict=True):
        classifier = ExportedClassifier(folder, 1)
        np.testing.assert_allclose(found["logits"], classifier.logits(TEXTS), rtol=0, atol=1e-4)
        assert found["labels"] == [best[0]["label"] for best in classifier.classify(TEXTS)]


@pytest.fixture
def site(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if not NODE_MODULES.is_dir():
        pytest.skip("needs npm's packages in .cache: `make test` fetches them")
    files = [NODE_MODULES / archive.split("/-/")[0] / name for archive, _, names in web.RUNTIME for name in names]
    for module in (web, export_module):
        monkeypatch.setattr(module, "fetch_runtime", lambda: files)
    return export_model(ExportArguments(str(shutil.copytree(run, tmp_path / "R&D")), "web"))


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a static server for a folder, which a request for /stop ends."""
    servers = []

    def stop(server: Any) -> None:
        server.shutdown()
        server.server_close()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            super().do_GET() if self.path != "/stop" else self.send_error(404)
            if self.path == "/stop":
                threading.Thread(target=stop, args=[self.server]).start()

        def log_message(self, *_: Any) -> None:
            pass

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        stop(server)


@pytest.mark.timeout(600)
def test_the_page(site: Path, serve: Any, tmp_path: Path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("needs Chromium")
    classifier = ExportedClassifier(site, 1)
    labels = classifier.labels
    texts = [TEXT, *make_texts(), *TEXTS, ("goal", "bank"), ("goal " * 9, "bank " * 40), ("", "bank")]
    long = "goal " * 5000
    multi = {"problem_type": "multi_label_classification", "classifier_thresholds": [1.0, 0.0, 0.0]}
    hostile = {"id2label": {"0": "<img src=x onerror=alert(1)>", "1": "<script>", "2": "ü"}}
    cases = [
        {"config": {"text_columns": ["question", "<b>"]}, "typed": ["goal", "bank shares"]},
        {"config": multi, "typed": [TEXT]},
        {"config": {**multi, "classifier_thresholds": [1.0] * 3}, "typed": ["กินข้าว goal"]},
        {"config": {"problem_type": "regression"}, "typed": [long]},
        {"config": hostile, "typed": ["<img src=x onerror=alert(1)>"]},
    ]
    (tmp_path / "task.json").write_text(json.dumps({"texts": texts, "cases": cases}), encoding="utf-8")
    found = run_node("browse.cjs", browser, serve(site), tmp_path / "task.json", tmp_path)
    assert found["requests"] == []  # none elsewhere, none that failed
    np.testing.assert_allclose(found["logits"], classifier.logits(texts), rtol=0, atol=1e-4)

    words = ["one", "striker's", "goal", ",", "with", "this", "bank"]
    without = [TEXT.replace(word, "", 1) for word in words]
    scores = to_scores(classifier.logits([TEXT, *without]), classifier.problem)
    best = scores[0].argmax()
    falls = scores[0, best] - scores[1:, best]
    most = np.abs(falls).argmax()
    for name in ("desktop", "phone", "offline"):
        shown = found[name]
        assert (shown["answer"], shown["parts"], shown["isWide"]) == (labels[best], words, False)
        assert shown["strongest"].startswith(f"{words[most]} {'+' if falls[most] > 0 else MINUS}")
        assert f"{abs(100 * falls[most]):.1f} %" in shown["strongest"]
        assert f"{labels[best]}\n{100 * scores[0, best]:.1f} %" == shown["labels"][0]

    pair, several, none, number, escaped = found["cases"]
    assert pair["names"] == ["question", "<b>"]
    assert pair["answer"] == classifier.classify([("goal", "bank shares")])[0][0]["label"]
    assert set(several["answer"].split(", ")) == set(labels[1:])
    assert none["answer"] == "None of the labels"
    assert none["parts"] == ["กิน", "ข้าว", "goal"]
    values = classifier.logits([long])[0]
    assert [float(value) for value in number["answer"].split(", ")] == pytest.approx(values.tolist(), abs=1e-4)
    assert number["status"].startswith("Only 32 tokens are read")
    assert len(number["parts"]) < 40
    assert (escaped["made"], escaped["parts"][1]) == (0, "img")
    assert "<h1>R&amp;D</h1>" in (site / "index.html").read_text(encoding="utf-8")
    assert "sdk: static" in (site / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "phone.png").stat().st_size > 10_000


def test_the_runtime_is_what_npm_has():
    """npm has checked the packages that the page is tested with against these hashes."""
    lock = json.loads((TESTS / "npm" / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for archive, expected, _ in web.RUNTIME:
        name, _, file = archive.partition("/-/")
        package = lock[f"node_modules/{name}"]
        assert package["integrity"] == f"sha512-{expected}"
        assert file == f"{name.split('/')[-1]}-{package['version']}.tgz"


def test_the_runtime_is_fetched_once_and_checked(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with tarfile.open(tmp_path / "one.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("package/dist/one.mjs")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"one"))
    good = base64.b64encode(hashlib.sha512((tmp_path / "one.tgz").read_bytes()).digest()).decode()
    url = serve(tmp_path)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", url)
    monkeypatch.setattr(web, "get_session", httpx.Client)
    monkeypatch.setattr(web, "cached_assets_path", lambda *names: tmp_path / "cache" / names[-1])
    for name, expected, error, message in (
        ("one.tgz", "other", ValueError, "one.tgz is not the file that .* its sha512 must be other"),
        ("two.tgz", good, OSError, "needs .*two.tgz once, which cannot be had: .*404"),
    ):
        (tmp_path / "cache" / name).mkdir(parents=True)
        monkeypatch.setattr(web, "RUNTIME", ((name, expected, ("dist/one.mjs",)),))
        with pytest.raises(error, match=message):
            web.fetch_runtime()
        assert list((tmp_path / "cache" / name).iterdir()) == []
    monkeypatch.setattr(web, "RUNTIME", (("one.tgz", good, ("dist/one.mjs",)),))
    assert [file.read_bytes() for file in web.fetch_runtime()] == [b"one"]
    httpx.get(f"{url}stop")
    assert [file.read_bytes() for file in web.fetch_runtime()] == [b"one"]
