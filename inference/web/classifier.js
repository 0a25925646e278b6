// Runs what `wave-network export` wrote, as classify.py does in Python:
//   const classifier = await Classifier.load();
//   const [scores] = await classifier.scores([["A text"]]);   // or ["a text", "its pair"]
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./vendor/tokenizers.min.mjs";

const MOST_TOKENS = 4096; // of a batch

ort.env.wasm.numThreads = 1; // more need headers that few static servers send
ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };

export class Classifier {
  static async load() {
    const url = (name) => new URL(name, import.meta.url).href;
    const read = async (name) => (await fetch(url(name))).json();
    const [config, data, settings, session] = await Promise.all([
      ...["config.json", "tokenizer.json", "tokenizer_config.json"].map(read),
      ort.InferenceSession.create(url("onnx/model_quantized.onnx")),
    ]);
    const tokenizer = new Tokenizer(data, settings);
    const labels = Object.keys(config.id2label).map((index) => config.id2label[index]);
    const problem = config.problem_type ?? (labels.length === 1 ? "regression" : "single_label_classification");
    return Object.assign(new Classifier(), { config, tokenizer, session, labels, problem, cut: data.truncation });
  }

  // Token ids and types of a text or a pair, cut off as tokenizers does: of a pair, the longer text first.
  encode(texts) {
    const tokens = texts.map((text) => this.tokenizer.tokenize(text));
    const join = (parts) => this.tokenizer.post_processor?.(...parts) ?? { tokens: parts.flat() };
    const room = Math.max(0, this.cut.max_length - join(tokens.map(() => [])).tokens.length);
    const lengths = tokens.map((part) => part.length);
    const isCut = lengths.reduce((sum, length) => sum + length) > room;
    if (isCut) {
      const shorter = lengths[0] > lengths[1] ? 1 : 0;
      const longer = tokens.length === 1 ? 0 : 1 - shorter;
      const least = tokens.length === 1 ? 0 : Math.min(lengths[shorter], Math.floor(room / 2));
      lengths[shorter] = least;
      lengths[longer] = room - least;
    }
    const { tokens: joined, token_type_ids: types } = join(tokens.map((part, index) =>
      this.cut.direction === "Left" ? part.slice(part.length - lengths[index]) : part.slice(0, lengths[index])));
    const ids = joined.map((token) => this.tokenizer.token_to_id(token) ?? this.tokenizer.model.unk_token_id);
    return { ids, types: types ?? ids.map(() => 0), lengths, isCut };
  }

  // The logits of each, in batches; fewer, if what `isWanted` says changes on the way.
  async logits(items, isWanted = () => true) {
    const logits = [];
    for (let next = 0; next < items.length && isWanted(); ) {
      const rows = [this.encode(items[next++])];
      const most = MOST_TOKENS / Math.max(1, rows[0].ids.length);
      while (next < items.length && rows.length + 1 <= most) rows.push(this.encode(items[next++]));
      logits.push(...(await this.run(rows)));
      await new Promise((resolve) => setTimeout(resolve)); // the page answers keys first
    }
    return logits;
  }

  // The logits of one batch, padded on the right to at least one place.
  async run(rows) {
    const longest = Math.max(1, ...rows.map(({ ids }) => ids.length));
    const fill = (padding, values) => {
      const data = new BigInt64Array(rows.length * longest).fill(BigInt(padding));
      rows.forEach((row, index) => data.set(values(row).map(BigInt), index * longest));
      return new ort.Tensor("int64", data, [rows.length, longest]);
    };
    const inputs = {
      input_ids: fill(this.config.pad_token_id ?? 0, ({ ids }) => ids),
      attention_mask: fill(0, ({ ids }) => ids.map(() => 1)),
      token_type_ids: fill(0, ({ types }) => types),
    };
    const names = this.session.inputNames;
    const { logits } = await this.session.run(Object.fromEntries(names.map((name) => [name, inputs[name]])));
    const count = this.labels.length;
    return rows.map((_, row) => [...logits.data.slice(row * count, (row + 1) * count)]);
  }

  // Probabilities, or values in a regression.
  async scores(items, isWanted) {
    return (await this.logits(items, isWanted)).map((row) => {
      if (this.problem === "regression") return row;
      if (this.problem === "multi_label_classification") return row.map((value) => 1 / (1 + Math.exp(-value)));
      const largest = Math.max(...row);
      const powers = row.map((value) => Math.exp(value - largest));
      const sum = powers.reduce((one, other) => one + other);
      return powers.map((power) => power / sum);
    });
  }
}
