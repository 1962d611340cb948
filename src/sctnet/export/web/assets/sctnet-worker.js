// Computes for sctnet.js: opens the model in onnxruntime-web, and labels one picture after the other.

import { labelMap, workingSize } from "./label-map.js";

const MOST_THREADS = 4; // of many cores the others are slow ones, or busy
const LARGE = 12_000_000; // pixels; a larger picture would not fit into WebAssembly's memory as floats

let ort, session, model;
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(() => answer(data));
};

async function answer({ number, task, ...content }) {
  try {
    const result = await (task === "load" ? load(content) : label(content));
    self.postMessage({ number, result }, result.labels ? [result.labels.buffer] : []);
  } catch (error) {
    self.postMessage({ number, sentence: error instanceof Sentence ? error.message : inWords(task, error) });
  }
}

class Sentence extends Error {}

const inWords = (task, error) => {
  const reason = String(error?.message ?? error).split("\n")[0].slice(0, 200);
  if (task === "load") return `The model could not be opened (${reason}).`;
  return /memory|allocat/i.test(reason)
    ? `This picture does not fit into the browser's memory (${reason}): take a smaller one.`
    : `The picture could not be labelled (${reason}).`;
};

async function load({ folder, options }) {
  model = await (await fetched(new URL("model.json", folder))).json();
  const content = await (await fetched(new URL("model.onnx", folder))).arrayBuffer();
  const { backend = "auto", threads } = options;
  const wanted = threads ?? Math.min(navigator.hardwareConcurrency ?? 1, MOST_THREADS);
  const many = self.crossOriginIsolated ? wanted : 1;
  let chosen = "wasm";
  if (backend === "webgpu" || (backend === "auto" && (await hasGraphics()))) {
    try {
      await open("ort.webgpu.min.mjs", "webgpu", content, many);
      chosen = "webgpu";
    } catch (error) {
      if (backend === "webgpu") throw error;
      console.warn(`WebGPU does not run this model, so WebAssembly does: ${error.message}`);
    }
  }
  if (chosen === "wasm") await open("ort.wasm.min.mjs", "wasm", content, many);
  const { classes, name, precision, terms } = model;
  return { classes, name, precision, terms, backend: chosen, threads: many };
}

async function fetched(address) {
  const answer = await fetch(address).catch(() => null);
  if (!answer?.ok) {
    const why = answer ? `status ${answer.status}` : "no answer";
    throw new Sentence(`${address.pathname} cannot be fetched (${why}): is the folder complete, and its server running?`);
  }
  return answer;
}

// A graphics processor; where a program plays one, WebAssembly is faster.
async function hasGraphics() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return false;
  const played = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  return !played && adapter.info?.architecture !== "swiftshader";
}

async function open(file, provider, content, threads) {
  const runtime = new URL("runtime/", import.meta.url);
  ort = await import(new URL(file, runtime));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = runtime.href;
  session = await ort.InferenceSession.create(content, { executionProviders: [provider] });
  await logitsOf(new Uint8Array(3 * 64 * 64), 64, 64); // what a backend cannot compute shows here
}

async function logitsOf(pixels, height, width) {
  const images = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const { logits } = await session.run({ images });
  const found = { data: await logits.getData(), size: logits.dims.slice(2) };
  logits.dispose();
  return found;
}

async function label({ image, width, height }) {
  const start = performance.now();
  const scale = Math.min(1, Math.sqrt(LARGE / (image.width * image.height)));
  const seen = [image.height, image.width].map((length) => Math.max(1, Math.round(length * scale)));
  const pixels = pixelsOf(image, ...seen);
  image.close(); // this worker's copy
  const { data, size } = await logitsOf(pixels, ...seen);
  const working = workingSize(model.working_size, ...seen);
  const found = labelMap(data, model.classes.length, [size, working, [height, width]]);
  return { width, height, ...found, milliseconds: performance.now() - start };
}

let canvas = null;

function pixelsOf(image, height, width) {
  if (canvas?.width !== width || canvas?.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
  }
  return pixels;
}
