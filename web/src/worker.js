// Runs a model in a Worker: opens its graphs, holds the page's streams, and answers one call after the other.
// codec.js is the other end.

import { ModelError } from "./errors.js";
import { DecoderStream, EncoderStream } from "./streams.js";

const RUNTIMES = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

let ort;
let about; // opensnac.json
let graphs;
const streams = new Map();

const calls = {
  async open({ model, runtime, device, threads, weights }) {
    about = await described(model);
    ort = await import(new URL(RUNTIMES[device], runtime));
    ort.env.wasm.wasmPaths = runtime;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    graphs = {
      encoder: await opened("encoder_stream", model, device, weights),
      decoder: await opened("decoder_stream", model, device, weights),
    };
    return about;
  },

  async begin({ stream, kind, channels, options }) {
    const Stream = kind === "encoder" ? EncoderStream : DecoderStream;
    streams.set(stream, new Stream(graphs[kind], about, channels, options));
  },

  async push({ stream, piece }) {
    return streams.get(stream).push(piece);
  },

  async finish({ stream }) {
    try {
      return await streams.get(stream).finish();
    } finally {
      streams.delete(stream);
    }
  },

  async close({ stream }) {
    streams.delete(stream);
  },
};

let last = Promise.resolve(); // the current call; a session runs one at a time
self.onmessage = ({ data: { id, call, given } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, result: await calls[call](given) });
    } catch (error) {
      self.postMessage({ id, error: { name: error.name, message: error.message } });
    }
  });
};

async function described(model) {
  const description = JSON.parse(new TextDecoder().decode(await fetched(new URL("opensnac.json", model))));
  if (!description.graphs) throw new ModelError(`${model}: expected a folder that 'opensnac export --stream' wrote, got one without graphs`);
  return description;
}

async function opened(name, model, device, weights) {
  const file = weights === "fp32" ? `${name}.onnx` : `${name}_${weights}.onnx`;
  const facts = about.graphs[file];
  if (!facts) throw new ModelError(`${model}: expected one of ${Object.keys(about.graphs).join(", ")}, got ${file}`);
  const bytes = await fetched(new URL(`onnx/${file}`, model));
  const executionProviders = device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"];
  const session = await ort.InferenceSession.create(bytes, { executionProviders });
  return { ort, session, facts: { ...about, ...facts } };
}

async function fetched(address) {
  const response = await fetch(address).catch(() => null);
  if (!response?.ok) throw new ModelError(`${address}: expected a file to fetch, got ${response ? response.status : "no connection"}`);
  return new Uint8Array(await response.arrayBuffer());
}
