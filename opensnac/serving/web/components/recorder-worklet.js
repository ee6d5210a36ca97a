// The part of recorder.js on the audio thread: mixes down, resamples, and emits pieces.

import { mixed } from "./mixing.js";
import { Resampler } from "./resampler.js";

class RecorderProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate, pieceSamples } }) {
    super();
    this.resampler = new Resampler(sampleRate, rate);
    this.piece = new Float32Array(pieceSamples);
    this.filled = 0;
    this.open = true;
    this.port.onmessage = () => this.finish();
  }

  process([channels]) {
    if (this.open && channels.length) this.take(this.resampler.push(mixed(channels)));
    return this.open;
  }

  take(samples) {
    for (let start = 0; start < samples.length; ) {
      const part = samples.subarray(start, start + this.piece.length - this.filled);
      this.piece.set(part, this.filled);
      this.filled += part.length;
      start += part.length;
      if (this.filled === this.piece.length) this.hand();
    }
  }

  hand() {
    this.port.postMessage(this.piece.slice(0, this.filled));
    this.filled = 0;
  }

  finish() {
    this.take(this.resampler.finish());
    if (this.filled) this.hand();
    this.port.postMessage(null); // all pieces are emitted
    this.open = false;
  }
}

registerProcessor("opensnac-recorder", RecorderProcessor);
