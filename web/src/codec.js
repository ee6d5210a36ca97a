// The codec on a page: a Worker with a model in it, streams through it, and whole .snac files.

import { Header, Writer, read } from "./bitstream/index.js";
import * as errors from "./errors.js";

const PIECE_SECONDS = 1; // of a whole recording, per call of the Worker

export class Codec {
  // model     address of a folder that `opensnac export MODEL --stream` wrote
  // runtime   address of a folder with the files of onnxruntime-web's dist/
  // device    "wasm", "webgpu", or "auto": WebGPU if the browser has it, which needs more of those files
  // threads   of wasm; more than one only on a page that is cross-origin isolated
  // weights   which files of the model: "fp32", "fp16" or "int8"
  static async open({ model, runtime, device = "wasm", threads = 1, weights = "fp16" }) {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    const codec = new Codec(worker);
    const folder = (address) => new URL(address.replace(/\/?$/, "/"), document.baseURI).href;
    codec.device = device === "auto" ? await bestDevice() : device;
    try {
      codec.about = await codec.call("open", {
        model: folder(model),
        runtime: folder(runtime),
        device: codec.device,
        threads: self.crossOriginIsolated ? threads : 1,
        weights,
      });
    } catch (error) {
      codec.close();
      throw error;
    }
    return codec;
  }

  constructor(worker) {
    this.worker = worker;
    this.calls = new Map(); // number of a call -> its promise's callbacks
    this.count = 0;
    worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.calls.get(id);
      this.calls.delete(id);
      if (error) reject(revived(error));
      else resolve(result);
    };
    worker.onerror = (event) => this.fail(new errors.ModelError(`the codec's worker failed: ${event.message}`));
  }

  get samplingRate() {
    return this.about.sampling_rate;
  }

  get strides() {
    return this.about.config.vq_strides;
  }

  get codebookSize() {
    return this.about.config.codebook_size;
  }

  // Samples per group of frames: streams advance by whole groups.
  get groupSamples() {
    return this.about.group_samples;
  }

  // A stream of samples to codes: push(channels), finish(). docs/web.md describes the timing.
  encoder({ channels = 1 } = {}) {
    return new Stream(this, "encoder", channels, {});
  }

  // A stream of codes to samples: push(codes), finish().
  decoder({ channels = 1, seed = 0, noise = 1 } = {}) {
    return new Stream(this, "decoder", channels, { seed, noise });
  }

  // A .snac header for codes of this model.
  header({ channels = 1, originalRate = this.samplingRate } = {}) {
    return new Header({
      modelName: this.about.name,
      weightsHash: this.about.fingerprint.slice(0, 16),
      samplingRate: this.samplingRate,
      originalRate,
      channels,
      hopLength: this.about.hop_length,
      vqStrides: this.strides,
      codebookSize: this.codebookSize,
      frameMultiple: this.groupSamples / this.about.hop_length,
    });
  }

  // Samples at the codec's rate, a Float32Array or one for each channel -> the bytes of a .snac file.
  // originalRate, numSamples   of the recording, if it was resampled
  // oncodes                    called with the codes of each part, and the fraction done
  // signal                     an AbortSignal
  async encode(samples, { originalRate = this.samplingRate, numSamples, oncodes = () => {}, signal } = {}) {
    const channels = samples instanceof Float32Array ? [samples] : samples;
    const writer = new Writer(this.header({ channels: channels.length, originalRate }));
    const parts = [];
    const take = (codes, done) => {
      parts.push(writer.write(codes));
      oncodes(codes, done);
    };
    const { length } = channels[0];
    if (length) {
      const pieces = this.#pieces([channels], [1]).map(([piece]) => piece);
      await through(this.encoder({ channels: channels.length }), pieces, take, signal);
    }
    parts.push(writer.close(numSamples ?? length));
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  // The bytes of a .snac file -> {header, numSamples, damage, channels}: a Float32Array per channel, at the codec's rate.
  // salvage     keep the part before the damage in a damaged file
  // onsamples   called with the channels of each part, and the fraction done
  async decode(bytes, { salvage = false, seed, noise, onsamples = () => {}, signal } = {}) {
    const { header, codes, numSamples, damage } = read(bytes, { salvage });
    this.requireFits(header);
    const length = Math.ceil((numSamples * header.samplingRate) / header.originalRate);
    const channels = Array.from({ length: header.channels }, () => new Float32Array(length));
    let filled = 0;
    const take = (came, done) => {
      const part = came.map((channel) => channel.subarray(0, length - filled));
      part.forEach((samples, index) => channels[index].set(samples, filled));
      filled += part[0].length;
      onsamples(part, done);
    };
    if (length) {
      const stream = this.decoder({ channels: header.channels, seed, noise });
      await through(stream, this.#pieces(codes, this.ticks), take, signal);
    }
    return { header, numSamples, damage, channels };
  }

  // ModelMismatchError if a file's codes are of a different model.
  requireFits(header) {
    const [came, needed] = [header.weightsHash, this.about.fingerprint.slice(0, 16)];
    if (came !== needed)
      throw new errors.ModelMismatchError(
        `expected a file encoded by ${this.about.name} (${needed}), got one by ${header.modelName} (${came})`,
      );
  }

  close() {
    this.fail(new errors.OpensnacError("the codec is closed"));
    this.worker.terminate();
  }

  fail(error) {
    for (const { reject } of this.calls.values()) reject(error);
    this.calls.clear();
  }

  call(call, given) {
    const id = (this.count += 1);
    const answer = new Promise((resolve, reject) => this.calls.set(id, { resolve, reject }));
    this.worker.postMessage({ id, call, given });
    return answer;
  }

  // Samples per code of each scale.
  get ticks() {
    return this.strides.map((stride) => stride * this.about.hop_length);
  }

  // Signals, an array for each tick of an array for each channel, cut into parts of whole groups of frames.
  #pieces(signals, ticks) {
    const size = Math.max(1, Math.round((PIECE_SECONDS * this.samplingRate) / this.groupSamples)) * this.groupSamples;
    const count = Math.ceil((signals[0][0].length * ticks[0]) / size);
    const part = (index) => (channels, signal) => {
      const [start, end] = [index * size, (index + 1) * size].map((place) => place / ticks[signal]);
      return channels.map((channel) => channel.slice(start, end));
    };
    return Array.from({ length: count }, (_, index) => signals.map(part(index)));
  }
}

class Stream {
  constructor(codec, kind, channels, options) {
    this.codec = codec;
    this.number = codec.count + 1;
    this.begun = codec.call("begin", { stream: this.number, kind, channels, options });
    this.begun.catch(() => {}); // the first push reports it
  }

  async push(piece) {
    await this.begun;
    return this.codec.call("push", { stream: this.number, piece: piece instanceof Float32Array ? [piece] : piece });
  }

  async finish() {
    await this.begun;
    return this.codec.call("finish", { stream: this.number });
  }

  close() {
    return this.codec.call("close", { stream: this.number });
  }
}

// Push all chunks and end the stream; on an error, close it.
async function through(stream, pieces, take, signal) {
  try {
    for (const [index, piece] of pieces.entries()) {
      signal?.throwIfAborted();
      take(await stream.push(piece), (index + 1) / (pieces.length + 1));
    }
    take(await stream.finish(), 1);
  } catch (error) {
    stream.close().catch(() => {});
    throw error;
  }
}

async function bestDevice() {
  return (await navigator.gpu?.requestAdapter().catch(() => null)) ? "webgpu" : "wasm";
}

// An error of the Worker, as an instance of its class.
function revived({ name, message }) {
  return new (errors[name] ?? errors.OpensnacError)(message);
}
