// Exact streams through a model's graphs: samples -> codes and codes -> samples, in chunks. docs/export.md describes how
// to run a stream's graph.

import { AudioError, CodesError } from "./errors.js";

const ENDLESS = 2n ** 62n; // the end of a signal until it is known

// The common base of both streams. An input or output is {name, tick}: each of its numbers lasts `tick` samples. Chunks
// are an array for each input of an array for each channel.
class GraphStream {
  constructor(graph, channels, inputs, outputs, extra = {}) {
    this.graph = graph; // {ort, session, facts}: the runtime, its session, the graph's entry in opensnac.json
    this.channels = channels;
    this.inputs = inputs;
    this.outputs = outputs;
    this.extra = extra;
    this.group = graph.facts.group_samples;
    this.position = graph.facts.first_sample;
    this.state = new Float32Array(channels * graph.facts.state_size);
    this.pushed = 0; // samples of the signal, or the duration of the codes in samples
    this.waiting = inputs.map(({ tick }) => Array.from({ length: channels }, () => new Array(-this.position / tick).fill(0)));
  }

  async push(piece) {
    this.pushed += piece[0][0].length * this.inputs[0].tick;
    this.waiting = this.waiting.map((parts, index) => parts.map((part, channel) => joined(part, piece[index][channel])));
    const samples = this.waiting[0][0].length * this.inputs[0].tick;
    return this.run(samples - (samples % this.group), null);
  }

  async finish() {
    const length = Math.ceil(this.pushed / this.group) * this.group;
    const samples = length + this.graph.facts.look_ahead - this.position;
    return this.run(Math.max(0, Math.ceil(samples / this.group) * this.group), length);
  }

  // Process that many samples' worth of the queue, zero-padded at the end; returns the output inside the signal.
  async run(samples, length) {
    const begin = this.position - this.graph.facts.look_ahead; // of the output
    const stop = Math.max(0, Math.min(samples, (length ?? Infinity) - begin));
    const results = samples ? await this.graph.session.run(this.feeds(samples, length)) : {};
    if (samples) this.state = results.next_state.data;
    this.position += samples;
    return this.outputs.map(({ name, tick }) => {
      const [first, end] = [Math.min(stop, Math.max(0, -begin)) / tick, stop / tick];
      return Array.from({ length: this.channels }, (_, channel) => {
        const start = (channel * samples) / tick;
        return samples ? results[name].data.slice(start + first, start + end) : new Float32Array(0);
      });
    });
  }

  feeds(samples, length) {
    const { Tensor } = this.graph.ort;
    const { channels } = this;
    const each = (value) => new Tensor("int64", new BigInt64Array(channels).fill(value), [channels]);
    const feeds = {
      state: new Tensor("float32", this.state, [channels, this.graph.facts.state_size]),
      position: each(BigInt(this.position)),
      length: each(length === null ? ENDLESS : BigInt(length)),
    };
    this.inputs.forEach(({ name, tick }, index) => {
      feeds[name] = this.tensor(this.waiting[index], samples / tick);
      this.waiting[index] = this.waiting[index].map((part) => part.slice(samples / tick));
    });
    for (const [name, make] of Object.entries(this.extra))
      if (this.graph.session.inputNames.includes(name)) feeds[name] = make(Tensor, channels);
    return feeds;
  }
}

export class EncoderStream extends GraphStream {
  constructor(graph, about, channels) {
    super(graph, channels, [{ name: "input_values", tick: 1 }], codesOf(about));
  }

  // Float32Arrays, one per channel, of one length -> the codes now determined, scales of channels of Uint16Arrays.
  async push(channels) {
    checkChannels(channels, this.channels);
    return asCodes(await super.push([channels]));
  }

  // The remaining codes, of the signal zero-padded to whole groups of frames.
  async finish() {
    if (!this.pushed) throw new AudioError("expected at least one sample, got the end of the stream");
    return asCodes(await super.finish());
  }

  tensor(parts, count) {
    const values = new Float32Array(this.channels * count);
    parts.forEach((part, channel) => values.set(part.slice(0, count), channel * count));
    return new this.graph.ort.Tensor("float32", values, [this.channels, 1, count]);
  }
}

export class DecoderStream extends GraphStream {
  // `noise` scales the decoder's noise, which `seed` selects: 1 as trained, 0 none.
  constructor(graph, about, channels, { seed = 0, noise = 1 } = {}) {
    super(graph, channels, codesOf(about), [{ name: "audio_values", tick: 1 }], {
      seed: (Tensor, count) => new Tensor("int64", new BigInt64Array(count).fill(BigInt(seed)), [count]),
      noise_gain: (Tensor, count) => new Tensor("float32", new Float32Array(count).fill(noise), [count]),
    });
    this.size = about.config.codebook_size;
  }

  // Codes, scales of channels, whole coarse frames -> the samples now determined, a Float32Array per channel.
  async push(codes) {
    checkCodes(codes, this);
    const [channels] = await super.push(codes.map((scale) => scale.map((channel) => Uint16Array.from(channel))));
    return channels;
  }

  async finish() {
    if (this.pushed % this.group)
      throw new CodesError(`expected codes of a multiple of ${this.group} samples, got ${this.pushed} at the end of the stream`);
    const [channels] = await super.finish();
    return channels;
  }

  tensor(parts, count) {
    const values = new BigInt64Array(this.channels * count);
    parts.forEach((part, channel) => {
      for (let index = 0; index < Math.min(count, part.length); index++) values[channel * count + index] = BigInt(part[index]);
    });
    return new this.graph.ort.Tensor("int64", values, [this.channels, count]);
  }
}

function codesOf({ config, hop_length: hop }) {
  return config.vq_strides.map((stride, index) => ({ name: `audio_codes.${index}`, tick: hop * stride }));
}

function asCodes(scales) {
  return scales.map((scale) => scale.map((channel) => Uint16Array.from(channel, Number)));
}

function joined(first, second) {
  const both = new second.constructor(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

function checkChannels(channels, count) {
  if (channels.length !== count) throw new AudioError(`expected ${count} channels of audio, got ${channels.length}`);
  for (const channel of channels) {
    if (!(channel instanceof Float32Array) || channel.length !== channels[0].length)
      throw new AudioError("expected Float32Arrays of one length as channels, got others");
    if (!channel.every(Number.isFinite)) throw new AudioError("expected finite audio, got NaN or infinity");
  }
}

function checkCodes(codes, { inputs, channels, size }) {
  if (codes.length !== inputs.length) throw new CodesError(`expected codes of ${inputs.length} scales, got ${codes.length}`);
  const samples = codes[0][0].length * inputs[0].tick;
  codes.forEach((scale, index) => {
    if (scale.length !== channels) throw new CodesError(`scale ${index}: expected ${channels} channels, got ${scale.length}`);
    for (const channel of scale) {
      if (channel.length * inputs[index].tick !== samples)
        throw new CodesError(`scale ${index}: expected ${samples / inputs[index].tick} codes, got ${channel.length}`);
      const wrong = channel.find((code) => !(Number.isInteger(code) && code >= 0 && code < size));
      if (wrong !== undefined) throw new CodesError(`scale ${index}: expected codes from 0 to ${size - 1}, got ${wrong}`);
    }
  });
}
