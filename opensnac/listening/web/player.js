"use strict";

// Plays one of several recordings of the same length and switches between them without a gap: all run in step, and all
// but one are mute. A loop repeats a part of them.
class Player {
  static fade = 0.005; // seconds, so that switching does not click

  constructor() {
    this.context = new AudioContext();
    this.buffers = new Map();
    this.voices = new Map(); // name -> {source, gain}, while playing
    this.audible = null;
    this.loop = null; // [start, end] in seconds, or null for all
    this.offset = 0; // seconds, where it was when it last started or paused
    this.startedAt = 0;
  }

  async load(sounds) {
    this.stop();
    this.buffers = new Map();
    this.loop = null;
    this.audible = null;
    this.offset = 0;
    const decoded = Object.entries(sounds).map(async ([name, text]) => {
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      return [name, await this.context.decodeAudioData(bytes.buffer)];
    });
    this.buffers = new Map(await Promise.all(decoded)); // all at once: what starts together stays in step
  }

  get duration() {
    return Math.max(0, ...[...this.buffers.values()].map((buffer) => buffer.duration));
  }

  get playing() {
    return this.voices.size > 0;
  }

  get region() {
    return this.loop ?? [0, this.duration];
  }

  get position() {
    if (!this.playing) return this.offset;
    const [start, end] = this.region;
    const reached = this.offset + this.context.currentTime - this.startedAt;
    return reached < end ? reached : start + ((reached - start) % (end - start));
  }

  play(name) {
    this.audible = name;
    if (!this.playing) return this.begin();
    const now = this.context.currentTime;
    for (const [other, { gain }] of this.voices) {
      gain.gain.cancelScheduledValues(now);
      gain.gain.setTargetAtTime(other === name ? 1 : 0, now, Player.fade / 3);
    }
  }

  begin() {
    this.context.resume();
    const [start, end] = this.region;
    if (this.offset < start || this.offset >= end - 0.01) this.offset = start;
    this.startedAt = this.context.currentTime;
    for (const [name, buffer] of this.buffers) {
      const source = new AudioBufferSourceNode(this.context, { buffer, loop: true, loopStart: start, loopEnd: end });
      const gain = new GainNode(this.context, { gain: name === this.audible ? 1 : 0 });
      source.connect(gain).connect(this.context.destination);
      source.start(this.startedAt, this.offset);
      this.voices.set(name, { source, gain });
    }
  }

  pause() {
    this.offset = this.position;
    this.stop();
  }

  stop() {
    for (const { source } of this.voices.values()) source.stop();
    this.voices.clear();
  }

  setLoop(loop) {
    const playing = this.playing;
    this.pause();
    this.loop = loop;
    if (playing) this.begin();
  }
}
