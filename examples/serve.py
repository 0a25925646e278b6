"""A server for an exported model, without torch: `python examples/serve.py runs/bbc_news-onnx`, then open /."""

import json
import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from wave_network.inference.classify import ExportedClassifier

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Labels</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<main id="fields" style="font: 1rem system-ui"></main><pre id="answer" role="status"></pre>
<script>
for (const name of COLUMNS)
  fields.append(name, Object.assign(document.createElement("textarea"),
    {rows: 6, style: "width: 100%; font: inherit", ariaLabel: name, oninput: classify}));
let asked = 0;
async function classify() {
  const mine = ++asked, texts = Array.from(document.querySelectorAll("textarea"), (field) => field.value);
  const body = JSON.stringify({inputs: [texts.length > 1 ? texts : texts[0]], top_k: null});
  const request = {method: "POST", headers: {"Content-Type": "application/json"}, body};
  const [scores] = await (await fetch("classify", request)).json();
  if (mine === asked) answer.textContent = scores.map((each) => each.score.toFixed(3) + "  " + each.label).join("\\n");
}
</script>"""


class Request(BaseModel):
    """Texts, or pairs of texts as lists of two. Long texts are cut off. `top_k`: null for all labels."""

    inputs: Annotated[list[str | tuple[str, str]], Field(min_length=1, max_length=256)]
    top_k: Annotated[int, Field(ge=1)] | None = 1


def make_app(folder: str) -> FastAPI:
    # FastAPI's pages of the API load scripts from elsewhere; /openapi.json says the same.
    app, classifier = FastAPI(title="Wave Network", docs_url=None, redoc_url=None), ExportedClassifier(folder)

    # Plain functions: FastAPI runs each request in a thread of its own.
    @app.post("/classify")
    def classify(request: Request) -> list[list[dict[str, str | float]]]:
        return classifier.classify(request.inputs, request.top_k)

    @app.get("/health")
    def health() -> dict[str, list[str]]:
        return {"labels": classifier.labels}

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.replace("COLUMNS", json.dumps(classifier.text_columns).replace("<", "\\u003c"))

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]))
