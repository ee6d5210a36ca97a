// Resamples a signal in chunks: a Kaiser-windowed sinc with its cutoff below half of both rates. Any chunks give the same
// samples as the whole, and n samples become ceil(n · to / from).
//
//   const resampler = new Resampler(48000, 24000);
//   resampler.push(samples) -> Float32Array        // as far as it is determined
//   resampler.finish() -> Float32Array             // the rest, as if silence followed
//
// Tones up to 0.45 of the lower rate pass within 0.05 dB; what would alias is 95 dB down.

const ZERO_CROSSINGS = 48; // of the sinc on each side
const BETA = 9.5; // of the Kaiser window
const CUTOFF = 0.945; // relative to half the lower rate
const MOST_PHASES = 1024;

export class Resampler {
  constructor(from, to) {
    const divisor = greatestCommonDivisor(from, to);
    this.up = to / divisor;
    this.down = from / divisor;
    this.width = CUTOFF * Math.min(1, to / from); // of the pass band, relative to half the old rate
    this.reach = from === to ? 0 : Math.ceil(ZERO_CROSSINGS / this.width);
    this.phases = new Map(); // place between two old samples -> weights
    this.rest = new Float32Array(this.reach); // old samples still needed, initially silence
    this.start = -this.reach; // place of the first of them
    this.made = 0;
  }

  push(samples) {
    const joined = new Float32Array(this.rest.length + samples.length);
    joined.set(this.rest);
    joined.set(samples, this.rest.length);
    const end = this.start + joined.length; // of the samples received
    const known = Math.max(this.made, Math.floor(((end - this.reach - 1) * this.up) / this.down) + 1);
    const output = new Float32Array(known - this.made);
    for (let index = 0; index < output.length; index++) output[index] = this.at(joined, this.made + index);
    this.made = known;
    const needed = Math.min(Math.floor((this.made * this.down) / this.up) - this.reach, end);
    this.rest = joined.slice(needed - this.start);
    this.start = needed;
    return output;
  }

  finish() {
    const length = Math.ceil(((this.start + this.rest.length) * this.up) / this.down) - this.made;
    return this.push(new Float32Array(this.reach + 1)).subarray(0, length);
  }

  // The new sample `index`, from old ones that begin at this.start.
  at(samples, index) {
    const place = Math.floor((index * this.down) / this.up);
    const weights = this.weights((index * this.down) % this.up);
    const first = place - this.reach - this.start;
    let sum = 0;
    for (let tap = 0; tap < weights.length; tap++) sum += weights[tap] * (samples[first + tap] ?? 0);
    return sum;
  }

  weights(phase) {
    const known = this.phases.get(phase);
    if (known) return known;
    const half = this.reach + 1;
    const weights = Float64Array.from({ length: 2 * this.reach + 1 }, (_, tap) => {
      const distance = tap - this.reach - phase / this.up;
      if (!this.reach) return 1;
      return this.width * sinc(this.width * distance) * kaiser(distance / half);
    });
    if (this.phases.size < MOST_PHASES) this.phases.set(phase, weights);
    return weights;
  }
}

export function resample(samples, from, to) {
  const resampler = new Resampler(from, to);
  const [body, rest] = [resampler.push(samples), resampler.finish()];
  const output = new Float32Array(body.length + rest.length);
  output.set(body);
  output.set(rest, body.length);
  return output;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function kaiser(x) {
  return Math.abs(x) > 1 ? 0 : bessel(BETA * Math.sqrt(1 - x * x)) / bessel(BETA);
}

// The modified Bessel function of the first kind and order 0, by its series.
function bessel(x) {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function greatestCommonDivisor(a, b) {
  return b ? greatestCommonDivisor(b, a % b) : a;
}
