// One sound on the page: its spectrogram, a player, a button and a slider.

import { Player } from "./opensnac/components/player.js";
import { Spectrogram } from "./opensnac/components/spectrogram.js";

export class Sound {
  constructor(name, sampleRate) {
    this.name = name;
    this.sampleRate = sampleRate;
    this.button = document.getElementById(`${name}-play`);
    this.slider = document.getElementById(`${name}-place`);
    this.picture = new Spectrogram(document.getElementById(`${name}-picture`), { sampleRate, label: name });
    this.pieces = [];
    this.button.addEventListener("click", () => (this.player.playing ? this.player.pause() : this.player.play()));
    this.slider.addEventListener("input", () => this.player.seek(Number(this.slider.value)));
  }

  // Reset; the first time must be in answer to a click, as browsers do not start sound otherwise.
  async begin() {
    this.player ??= await Player.open({ sampleRate: this.sampleRate, onstate: () => this.update() });
    this.player.pause();
    this.player.clear();
    this.pieces = [];
    this.picture.clear();
    this.picture.cursor = null;
  }

  push(samples) {
    this.pieces.push(samples);
    this.picture.push(samples);
    this.player.push(samples);
  }

  end() {
    this.player.end();
    this.picture.show(this.samples);
  }

  get samples() {
    const samples = new Float32Array(this.pieces.reduce((length, piece) => length + piece.length, 0));
    let filled = 0;
    for (const piece of this.pieces) {
      samples.set(piece, filled);
      filled += piece.length;
    }
    return samples;
  }

  update() {
    const { player } = this;
    this.button.disabled = this.slider.disabled = !player.duration;
    this.button.textContent = `${player.playing ? "Pause" : "Play"} ${this.name}`;
    this.slider.max = player.duration;
    this.slider.value = player.position;
    this.picture.cursor = player.ended && player.position ? player.position : null;
  }
}
