// A blind comparison of two sounds: which of A and B is the original? Asked several times, in random order.
//
//   const comparison = new Comparison(element, {
//     original: samples, other: samples, sampleRate: 24000, trials: 8,
//     ondone: ({ right, trials, chance }) => ...,      // chance: p-value of guessing, 0 to 1
//   });
//   comparison.close();
//
// The sounds are Float32Arrays; the longer one is cut. They run in step, and a switch fades from one to the other, so
// that only the sound distinguishes them. Keys while the focus is inside: 1 and 2 play A and B, space pauses,
// Enter on a button answers. Results are shown only at the end.

const FADE = 0.005; // seconds

export class Comparison {
  constructor(element, { original, other, sampleRate, trials = 8, ondone = () => {} }) {
    const length = Math.min(original.length, other.length);
    this.sounds = [original, other].map((samples) => samples.slice(0, length));
    this.element = element;
    this.trials = trials;
    this.ondone = ondone;
    this.context = new AudioContext({ sampleRate });
    this.buffers = this.sounds.map((samples) => {
      const buffer = new AudioBuffer({ length: Math.max(length, 1), numberOfChannels: 1, sampleRate });
      buffer.copyToChannel(samples, 0);
      return buffer;
    });
    this.right = 0;
    this.trial = 0;
    this.voices = null;
    this.build();
    this.next();
  }

  build() {
    const button = (text, action) => {
      const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      made.addEventListener("click", action);
      return made;
    };
    const row = (...children) => {
      const made = Object.assign(document.createElement("div"), { className: "row" });
      made.append(...children);
      return made;
    };
    this.heading = Object.assign(document.createElement("p"), { className: "note" });
    this.heading.setAttribute("aria-live", "polite");
    this.players = [button("Play A", () => this.play(0)), button("Play B", () => this.play(1))];
    this.pauser = button("Pause", () => this.stop());
    this.answers = [button("A is the original", () => this.answer(0)), button("B is the original", () => this.answer(1))];
    this.element.classList.add("comparison");
    this.element.replaceChildren(this.heading, row(...this.players, this.pauser), row(...this.answers));
    this.onkey = (event) => {
      if (event.key === "1" || event.key === "2") this.play(Number(event.key) - 1);
      else if (event.key === " " && event.target.tagName !== "BUTTON") this.stop();
    };
    this.element.addEventListener("keydown", this.onkey);
  }

  next() {
    this.stop();
    this.heard = new Set();
    this.order = crypto.getRandomValues(new Uint8Array(1))[0] % 2 ? [1, 0] : [0, 1]; // indices of the sounds behind A and B
    this.heading.textContent = `${this.trial + 1} of ${this.trials}: which is the original?`;
    this.update();
  }

  play(letter) {
    if (this.trial >= this.trials) return;
    this.context.resume();
    if (!this.voices) this.begin();
    this.audible = letter;
    this.heard.add(letter);
    const now = this.context.currentTime;
    this.voices.forEach(({ gain }, index) => gain.gain.setTargetAtTime(index === this.order[letter] ? 1 : 0, now, FADE / 3));
    this.update();
  }

  begin() {
    this.voices = this.buffers.map((buffer) => {
      const source = new AudioBufferSourceNode(this.context, { buffer, loop: true });
      const gain = new GainNode(this.context, { gain: 0 });
      source.connect(gain).connect(this.context.destination);
      return { source, gain };
    });
    const start = this.context.currentTime + FADE;
    for (const { source } of this.voices) source.start(start);
  }

  stop() {
    const now = this.context.currentTime;
    for (const { source, gain } of this.voices ?? []) {
      gain.gain.setTargetAtTime(0, now, FADE / 3);
      source.stop(now + 2 * FADE);
    }
    this.voices = null;
    this.audible = null;
    this.update();
  }

  answer(letter) {
    if (this.order[letter] === 0) this.right += 1;
    this.trial += 1;
    if (this.trial < this.trials) {
      this.next();
      this.players[0].focus();
    } else this.finish();
  }

  finish() {
    this.stop();
    const { right, trials } = this;
    const chance = guessing(right, trials);
    const percent = chance < 0.01 ? "less than 1" : Math.round(100 * chance);
    this.heading.textContent = `You found the original ${right} of ${trials} times; guessing does as well ${percent} % of the time.`;
    for (const row of this.element.querySelectorAll(".row")) row.remove();
    this.ondone({ right, trials, chance });
  }

  update() {
    this.players.forEach((button, letter) => button.setAttribute("aria-pressed", String(this.audible === letter)));
    this.pauser.disabled = !this.voices;
    for (const button of this.answers) button.disabled = this.heard?.size !== 2; // both must have been played
  }

  close() {
    this.stop();
    this.element.removeEventListener("keydown", this.onkey);
    this.element.replaceChildren();
    this.context.close();
  }
}

// The probability that guessing is right at least `right` times out of `trials`.
function guessing(right, trials) {
  let [sum, ways] = [0, 1]; // ways to be right k times
  for (let k = 0; k <= trials; k++) {
    if (k >= right) sum += ways;
    ways = (ways * (trials - k)) / (k + 1);
  }
  return sum / 2 ** trials;
}
