// Classifies what is typed, and shows the words that decided.
import { Classifier } from "./classifier.js";

const MOST_ROWS = 20; // labels that are shown
const MOST_PARTS = 128; // of a text; a longer one has parts of several words
const WORDS = /[\p{L}\p{N}](?:[\p{L}\p{M}\p{N}_\u200c\u200d]|['’](?=\p{L}))*|[^\s\p{L}\p{N}]+/gu;
const UNSPACED = /[\p{sc=Thai}\p{sc=Lao}\p{sc=Mymr}\p{sc=Khmr}\p{sc=Hira}\p{sc=Kana}\p{sc=Hani}]/u;

const segmenter = Intl.Segmenter && new Intl.Segmenter([], { granularity: "word" }); // older browsers have none

let classifier, isNumber;
let asked = 0; // counts what was typed: an answer to an older text is dropped
let working = Promise.resolve(); // the model runs one batch at a time

const element = (id) => document.getElementById(id);

function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function start() {
  classifier = await Classifier.load();
  isNumber = classifier.problem === "regression";
  const columns = classifier.config.text_columns ?? [];
  for (const [index, column] of (columns.length === 2 ? columns : ["Text"]).entries()) {
    const field = make("textarea", { id: `text${index}`, dir: "auto", placeholder: "Type or paste a text" });
    field.addEventListener("input", answer);
    element("fields").append(make("label", { htmlFor: field.id, textContent: column }), field);
  }
  element("status").textContent = "";
  navigator.serviceWorker?.register("worker.js").catch(() => {}); // without it the page opens only with its server
}

async function answer() {
  const mine = ++asked;
  const isWanted = () => mine === asked;
  const texts = [...document.querySelectorAll("textarea")].map((field) => field.value);
  const isEmpty = texts.every((text) => !text.trim());
  element("results").hidden = isEmpty;
  element("status").textContent = "";
  if (isEmpty) return;
  let finish;
  const previous = working;
  working = new Promise((resolve) => (finish = resolve));
  await previous;
  try {
    const [scores] = await classifier.scores([texts], isWanted);
    if (!isWanted()) return;
    const { isCut, lengths } = classifier.encode(texts);
    const { max_length } = classifier.cut;
    if (isCut) element("status").textContent = `Only ${max_length} tokens are read. The text is longer.`;
    showScores(scores);
    const best = scores.indexOf(Math.max(...scores));
    const parts = texts.flatMap((text, place) => findParts(text, lengths[place]).map((part) => ({ ...part, place })));
    const without = await classifier.scores(parts.map((part) => leaveOut(texts, part)), isWanted);
    if (!isWanted()) return;
    showWords(texts, parts.map((part, index) => ({ ...part, weight: scores[best] - without[index][best] })));
  } catch (error) {
    element("status").textContent = `No answer: ${error.message}`;
  } finally {
    finish();
  }
}

// The words of what is read of a text, or as many runs of words as may be left out.
function findParts(text, tokens) {
  const words = [];
  for (const { 0: found, index } of text.matchAll(WORDS)) {
    const isSpaced = !segmenter || !UNSPACED.test(found);
    const inside = isSpaced ? [{ segment: found, index: 0 }] : segmenter.segment(found);
    for (const { segment, index: shift } of inside)
      words.push({ start: index + shift, end: index + shift + segment.length, glue: isSpaced ? " " : "" });
    tokens -= classifier.tokenizer.tokenize(found).length;
    if (tokens < 0 && classifier.cut.direction !== "Left") break;
  }
  const size = Math.ceil(words.length / MOST_PARTS);
  const firsts = words.filter((_, index) => index % size === 0);
  return firsts.map((word, index) => ({ ...word, end: words[Math.min((index + 1) * size, words.length) - 1].end }));
}

function leaveOut(texts, { place, start, end, glue }) {
  const cutOut = (text) => (text.slice(0, start).trimEnd() + glue + text.slice(end).trimStart()).trim();
  return texts.map((text, index) => (index === place ? cutOut(text) : text));
}

function write(score) {
  return isNumber ? String(Number(score.toPrecision(6))) : `${(100 * score).toFixed(1)} %`;
}

function showScores(scores) {
  const { config, labels, problem } = classifier;
  const order = labels.map((_, index) => index).sort((one, other) => scores[other] - scores[one]);
  const threshold = (index) => config.classifier_thresholds?.[index] ?? 0.5;
  const isChosen = (index) =>
    problem === "multi_label_classification" ? scores[index] > threshold(index) : index === order[0];
  const names = order.filter(isChosen).map((index) => labels[index]);
  element("answer").textContent = isNumber ? scores.map(write).join(", ") : names.join(", ") || "None of the labels";
  element("labels").replaceChildren(...(isNumber ? [] : order.slice(0, MOST_ROWS)).map((index) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * scores[index]}%`;
    const name = make("span", { dir: "auto", textContent: labels[index] });
    const number = make("span", { textContent: write(scores[index]) });
    return make("li", { className: isChosen(index) ? "chosen" : "" }, name, bar, number);
  }));
  element("more").textContent = labels.length > MOST_ROWS ? `and ${labels.length - MOST_ROWS} more labels` : "";
  element("words").textContent = element("strongest").textContent = "";
}

function showWords(texts, parts) {
  const most = Math.max(...parts.map(({ weight }) => Math.abs(weight)), Number.MIN_VALUE);
  const name = ({ place, start, end }) => texts[place].slice(start, end);
  const describe = (weight) => (weight > 0 ? "+" : "−") + write(Math.abs(weight));
  const nodes = [];
  for (const [place, text] of texts.entries()) {
    let end = 0;
    nodes.push(place ? "\n" : "");
    for (const part of parts.filter((each) => each.place === place)) {
      const share = Math.abs(part.weight) / most;
      const kind = share < 0.1 ? "" : part.weight > 0 ? "for" : "against";
      const mark = make(kind ? "mark" : "span", { className: kind, title: describe(part.weight) }, name(part));
      mark.style.setProperty("--share", 0.7 * share);
      nodes.push(text.slice(end, part.start), mark);
      end = part.end;
    }
    nodes.push(text.slice(end));
  }
  element("words").replaceChildren(...nodes);
  const strongest = parts.sort((one, other) => Math.abs(other.weight) - Math.abs(one.weight)).slice(0, 3);
  element("strongest").textContent = strongest.map((part) => `${name(part)} ${describe(part.weight)}`).join(" · ");
}

start().catch((error) => (element("status").textContent = `The model did not load: ${error.message}`));
