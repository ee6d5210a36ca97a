// A live spectrogram on a canvas, in the page's dark or light colours.
//
//   const spectrogram = new Spectrogram(canvas, { sampleRate: 24000, label: "Original", scale: "mel", seconds: 10 });
//   spectrogram.push(samples);    // a Float32Array: the picture scrolls when it gets longer than `seconds`
//   spectrogram.show(samples);    // a whole sound, from its start to its end
//   spectrogram.scale = "linear"; // or "mel"
//   spectrogram.cursor = 1.5;     // position of a line in seconds, null for none
//   spectrogram.clear();
//
// The canvas takes its size from the page's style. Its aria-label describes the content, updated at most once per second:
// the label, the sound's length and level, and the frequency of most energy.

const SIZE = 1024; // samples of a transform
const STEPS_PER_SECOND = 100;
const MOST_STEPS = 4000;
const ROWS = 128;
const FLOOR = -90; // dB of full scale, the lowest colour
const LOWEST = 40; // Hz, on the mel scale
const TICKS = { mel: [100, 250, 500, 1000, 2000, 4000, 8000, 16000], linear: [2000, 4000, 6000, 8000, 10000, 16000] };
const DARK = [[13, 17, 23], [49, 27, 96], [138, 35, 135], [224, 73, 83], [253, 158, 76], [252, 244, 190]];
const LIGHT = [[255, 255, 255], [214, 226, 243], [133, 172, 218], [68, 112, 176], [45, 60, 122], [20, 16, 60]];

const mel = (frequency) => 2595 * Math.log10(1 + frequency / 700);
const hertz = (mels) => 700 * (10 ** (mels / 2595) - 1);

export class Spectrogram {
  #scale;
  #cursor = null;
  #drawing = false;

  constructor(canvas, { sampleRate, label, scale = "mel", seconds = 10 }) {
    this.canvas = canvas;
    this.sampleRate = sampleRate;
    this.label = label;
    this.seconds = seconds;
    this.image = new OffscreenCanvas(1, ROWS);
    canvas.setAttribute("role", "img");
    this.#scale = scale;
    this.clear();
    new ResizeObserver(() => this.draw(false)).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(true));
  }

  get scale() {
    return this.#scale;
  }

  set scale(name) {
    this.#scale = name;
    this.draw(true);
  }

  get cursor() {
    return this.#cursor;
  }

  set cursor(seconds) {
    this.#cursor = seconds;
    this.draw(false);
  }

  clear() {
    this.begin(this.seconds, STEPS_PER_SECOND);
    this.describe();
  }

  show(samples) {
    const span = Math.max(samples.length / this.sampleRate, 0.1);
    this.begin(span, Math.min(STEPS_PER_SECOND, MOST_STEPS / span));
    this.push(samples);
    this.take(new Float32Array(SIZE / 2));
    this.describe();
  }

  begin(span, stepsPerSecond) {
    this.span = span; // seconds that the canvas shows
    this.stepsPerSecond = stepsPerSecond;
    this.spectra = []; // Float32Array of SIZE / 2 levels in dB, one a step
    this.dropped = 0; // steps that have scrolled away
    this.rest = new Float32Array(SIZE / 2); // samples still needed, initially silence
    this.start = 0; // place of the first of them
    this.received = 0;
    this.power = 0;
    this.draw(true);
  }

  push(samples) {
    this.received += samples.length;
    for (const sample of samples) this.power += sample * sample;
    this.take(samples);
    this.describe(1000);
  }

  take(samples) {
    const joined = new Float32Array(this.rest.length + samples.length);
    joined.set(this.rest);
    joined.set(samples, this.rest.length);
    const step = this.sampleRate / this.stepsPerSecond;
    const next = () => Math.round((this.dropped + this.spectra.length) * step) - this.start;
    for (let from = next(); from + SIZE <= joined.length; from = next()) {
      this.spectra.push(levels(joined.subarray(from, from + SIZE)));
    }
    const done = Math.min(next(), joined.length);
    this.rest = joined.slice(done);
    this.start += done;
    const most = Math.ceil(this.span * this.stepsPerSecond) + 1;
    this.dropped += this.spectra.splice(0, Math.max(0, this.spectra.length - most)).length;
    this.draw(true);
  }

  // The frequency where a row of the picture begins, from the lowest up.
  row(index) {
    const [low, high] = this.scale === "mel" ? [mel(LOWEST), mel(this.sampleRate / 2)] : [0, this.sampleRate / 2];
    const place = low + ((high - low) * index) / ROWS;
    return this.scale === "mel" ? hertz(place) : place;
  }

  draw(changed) {
    this.stale ||= changed;
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.paint();
    });
  }

  paint() {
    const { canvas, image } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const stops = isDark(canvas) ? DARK : LIGHT;
    this.stale ||= stops !== this.stops;
    this.stops = stops;
    pen.fillStyle = `rgb(${stops[0]})`;
    pen.fillRect(0, 0, width, height);
    const pixels = width / (this.span * this.stepsPerSecond); // of a step
    if (this.spectra.length) {
      if (this.stale) this.renew(palette(stops));
      pen.drawImage(image, 0, 0, this.spectra.length * pixels, height);
    }
    this.paintScales(pen, width, height);
    if (this.cursor === null) return;
    const accent = getComputedStyle(canvas).accentColor;
    pen.fillStyle = accent === "auto" ? "#d55e00" : accent;
    pen.fillRect((this.cursor * this.stepsPerSecond - this.dropped) * pixels - 1, 0, 2, height);
  }

  renew(colours) {
    this.stale = false;
    const columns = this.spectra.length;
    const picture = new ImageData(columns, ROWS);
    const pixels = new Uint32Array(picture.data.buffer);
    const bin = SIZE / this.sampleRate; // bins of a hertz
    for (let row = 0; row < ROWS; row++) {
      const [low, high] = [this.row(row) * bin, this.row(row + 1) * bin];
      for (let column = 0; column < columns; column++) {
        const level = highest(this.spectra[column], low, high);
        const shade = Math.min(255, Math.max(0, Math.round((255 * (level - FLOOR)) / -FLOOR)));
        pixels[(ROWS - 1 - row) * columns + column] = colours[shade];
      }
    }
    this.image.width = columns;
    this.image.getContext("2d").putImageData(picture, 0, 0);
  }

  paintScales(pen, width, height) {
    const [ink, paper] = isDark(this.canvas) ? ["#f0f3f6", "#0d1117"] : ["#24292f", "#ffffff"];
    Object.assign(pen, { font: "11px system-ui, sans-serif", textBaseline: "middle", lineWidth: 3 });
    const write = (text, x, y) => {
      Object.assign(pen, { strokeStyle: paper, fillStyle: ink });
      pen.strokeText(text, x, y);
      pen.fillText(text, x, y);
    };
    const [low, high] = [this.row(0), this.row(ROWS)];
    const place = this.scale === "mel" ? mel : (frequency) => frequency;
    for (const tick of TICKS[this.scale]) {
      const y = height * (1 - (place(tick) - place(low)) / (place(high) - place(low)));
      if (tick > low && y > 8 && y < height - 18) write(tick < 1000 ? `${tick} Hz` : `${tick / 1000} kHz`, 4, y);
    }
    const every = [0.5, 1, 2, 5, 10, 30, 60, 300, 900].find((seconds) => (width * seconds) / this.span > 60) ?? 3600;
    const start = this.dropped / this.stepsPerSecond;
    for (let time = Math.ceil((start + 0.01) / every) * every; time < start + this.span; time += every) {
      const x = ((time - start) / this.span) * width;
      if (x < width - 24) write(`${time} s`, x - 8, height - 8);
    }
  }

  describe(wait = 0) {
    if (performance.now() - (this.described ?? -Infinity) < wait) return;
    this.described = performance.now();
    this.canvas.setAttribute("aria-label", this.description());
  }

  description() {
    if (!this.received) return `Spectrogram, ${this.label}: nothing yet`;
    const mean = new Float64Array(SIZE / 2);
    for (const spectrum of this.spectra) spectrum.forEach((level, bin) => (mean[bin] += 10 ** (level / 10)));
    const peak = Math.round((mean.indexOf(Math.max(...mean)) * this.sampleRate) / SIZE);
    const level = Math.round(10 * Math.log10(this.power / this.received + 1e-10));
    const seconds = (this.received / this.sampleRate).toFixed(1);
    return `Spectrogram, ${this.label}: ${seconds} s, level ${level} dB, most energy near ${peak} Hz`;
  }
}

// The highest level from position `low` to `high` among the bins; interpolated if there is no bin between them.
function highest(spectrum, low, high) {
  const [first, last] = [Math.ceil(low), Math.min(Math.ceil(high), spectrum.length)];
  if (first >= last) {
    const before = Math.min(Math.floor(low), spectrum.length - 2);
    return spectrum[before] + (low - before) * (spectrum[before + 1] - spectrum[before]);
  }
  let level = spectrum[first];
  for (let bin = first + 1; bin < last; bin++) level = Math.max(level, spectrum[bin]);
  return level;
}

const WINDOW = Float32Array.from({ length: SIZE }, (_, index) => 0.5 - 0.5 * Math.cos((2 * Math.PI * index) / SIZE));
const TURNS = Float64Array.from({ length: SIZE / 2 }, (_, index) => (2 * Math.PI * index) / SIZE);
const [COSINES, SINES] = [TURNS.map(Math.cos), TURNS.map(Math.sin)];
const REVERSED = Uint16Array.from({ length: SIZE }, (_, index) => {
  let reversed = 0;
  for (let bit = 1; bit < SIZE; bit *= 2) reversed = reversed * 2 + (index & bit ? 1 : 0);
  return reversed;
});
const REAL = new Float64Array(SIZE);
const IMAGINARY = new Float64Array(SIZE);

// Levels in dB of SIZE samples under a Hann window: 0 for a sine of full scale.
function levels(samples) {
  for (let index = 0; index < SIZE; index++) REAL[REVERSED[index]] = samples[index] * WINDOW[index];
  IMAGINARY.fill(0);
  for (let half = 1; half < SIZE; half *= 2) {
    const stride = SIZE / 2 / half;
    for (let group = 0; group < SIZE; group += 2 * half) {
      for (let index = 0; index < half; index++) {
        const [a, b] = [group + index, group + index + half];
        const [cosine, sine] = [COSINES[index * stride], SINES[index * stride]];
        const real = REAL[b] * cosine + IMAGINARY[b] * sine;
        const imaginary = IMAGINARY[b] * cosine - REAL[b] * sine;
        REAL[b] = REAL[a] - real;
        IMAGINARY[b] = IMAGINARY[a] - imaginary;
        REAL[a] += real;
        IMAGINARY[a] += imaginary;
      }
    }
  }
  const full = (SIZE / 4) ** 2;
  return Float32Array.from({ length: SIZE / 2 }, (_, bin) => {
    return 10 * Math.log10((REAL[bin] ** 2 + IMAGINARY[bin] ** 2) / full + 1e-12);
  });
}

// 256 colours between the stops, as the pixels of an ImageData.
function palette(stops) {
  return Uint32Array.from({ length: 256 }, (_, shade) => {
    const place = (shade / 255) * (stops.length - 1);
    const index = Math.min(Math.floor(place), stops.length - 2);
    const channel = (number) =>
      Math.round(stops[index][number] + (place - index) * (stops[index + 1][number] - stops[index][number]));
    return 0xff000000 + channel(2) * 65536 + channel(1) * 256 + channel(0);
  });
}

// Whether the element's color-scheme, set or the system's, is dark.
function isDark(element) {
  const scheme = getComputedStyle(element).colorScheme;
  if (scheme === "dark" || scheme === "light") return scheme === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}
