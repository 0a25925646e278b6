// node pipeline.cjs TEXTS.json FOLDER...: what the pipeline of transformers.js makes of each folder, as JSON.
const fs = require("node:fs");
const { pipeline } = require("@huggingface/transformers");

async function main([file, ...folders]) {
  const texts = JSON.parse(fs.readFileSync(file, "utf-8"));
  const results = [];
  for (const folder of folders) {
    const classifier = await pipeline("text-classification", folder);
    const labels = (await classifier(texts)).map(({ label }) => label);
    const { logits } = await classifier.model(classifier.tokenizer(texts, { padding: true, truncation: true }));
    results.push({ labels, logits: logits.tolist() });
  }
  console.log(JSON.stringify(results));
}

main(process.argv.slice(2));
