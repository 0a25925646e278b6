"""A server for an exported model, without torch: `python examples/serve.py runs/bbc_news-onnx`, then open /."""

import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from wave_network.inference.classify import ExportedClassifier

PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Labels</title>
<textarea id="text" rows="6" style="width: 100%" placeholder="A text"></textarea><pre id="answer"></pre>
<script>
const text = document.getElementById("text"), answer = document.getElementById("answer");
text.oninput = async () => {
  const body = JSON.stringify({inputs: [text.value], top_k: null}), sent = text.value;
  const reply = await fetch("classify", {method: "POST", headers: {"Content-Type": "application/json"}, body});
  const [scores] = await reply.json();
  if (sent === text.value)
    answer.textContent = scores.map(({label, score}) => score.toFixed(3) + "  " + label).join("\\n");
};
</script>"""


class Request(BaseModel):
    """Texts, or pairs of texts as lists of two. Long texts are cut off. `top_k`: null for all labels."""

    inputs: Annotated[list[str | tuple[str, str]], Field(min_length=1, max_length=256)]
    top_k: Annotated[int, Field(ge=1)] | None = 1


def make_app(folder: str) -> FastAPI:
    app, classifier = FastAPI(title="Wave Network"), ExportedClassifier(folder)

    # Plain functions: FastAPI runs each request in a thread of its own.
    @app.post("/classify")
    def classify(request: Request) -> list[list[dict[str, str | float]]]:
        return classifier.classify(request.inputs, request.top_k)

    @app.get("/health")
    def health() -> dict[str, list[str]]:
        return {"labels": classifier.labels}

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]))
