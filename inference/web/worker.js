// Keeps what the page needs, so that it opens without a network once it was open. A server that answers goes first.
const RUNTIME = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm", "tokenizers.min.mjs"];
const MODEL = ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model_quantized.onnx"];
const FILES = ["./", "page.js", "classifier.js", ...MODEL, ...RUNTIME.map((name) => `vendor/${name}`)];

self.addEventListener("install", (event) => event.waitUntil(caches.open("wave").then((cache) => cache.addAll(FILES))));
self.addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const cache = await caches.open("wave");
  try {
    const response = await fetch(request);
    if (response.ok && request.method === "GET") await cache.put(request, response.clone());
    return response;
  } catch (error) {
    return (await cache.match(request)) ?? Promise.reject(error);
  }
}
