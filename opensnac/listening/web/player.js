"use strict";

// Plays one of several recordings of the same length and switches between them: all run in step, and all but one are
// muted. A loop repeats a part of them. Fades are those of ITU-R BS.1534-3, 5.3: a raised cosine of 5 ms wherever sound
// begins or ends, one out and then one in at a switch, and never two recordings at once.
class Player {
  static fade = 0.005; // seconds
  static margin = 0.001; // seconds between fades, so that they do not overlap
  static shortest = 0.5; // seconds of a loop
  static rising = Float32Array.from({ length: 65 }, (_, index) => (1 - Math.cos((Math.PI * index) / 64)) / 2);
  static falling = Player.rising.map((value) => 1 - value);

  constructor() {
    this.context = new AudioContext();
    this.buffers = new Map();
    this.voices = new Map(); // name -> {source, gain}, while playing
    this.audible = null;
    this.loop = null; // [start, end] in seconds, or null for all
    this.offset = 0; // seconds, the position when it last started or paused
    this.startedAt = 0;
    this.settled = 0; // the context's time when the last fade is over
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
    this.buffers = new Map(await Promise.all(decoded)); // all together, so that they stay in step
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
    const before = this.audible;
    this.audible = name;
    if (!this.playing) return this.begin();
    if (name === before) return;
    const out = this.fadeVoice(before, Player.falling, this.context.currentTime);
    this.fadeVoice(name, Player.rising, out);
  }

  // Fade a voice from `when` on, or after the previous fade; returns the time when the fade ends.
  fadeVoice(name, curve, when) {
    const start = Math.max(when, this.settled);
    const level = this.voices.get(name).gain.gain;
    try {
      level.setValueCurveAtTime(curve, start, Player.fade);
    } catch {
      // On a busy machine the voice's last fade began late and is not over: end it.
      level.cancelScheduledValues(0);
      level.setValueAtTime(curve[curve.length - 1], start);
    }
    this.settled = start + Player.fade + Player.margin;
    return this.settled;
  }

  begin() {
    this.context.resume();
    const [start, end] = this.region;
    if (this.offset < start || this.offset >= end - 0.01) this.offset = start;
    this.startedAt = this.context.currentTime;
    for (const [name, buffer] of this.buffers) {
      const source = new AudioBufferSourceNode(this.context, { buffer: Player.part(buffer, start, end), loop: true });
      const gain = new GainNode(this.context, { gain: 0 });
      source.connect(gain).connect(this.context.destination);
      source.start(this.startedAt, this.offset - start);
      this.voices.set(name, { source, gain });
    }
    this.settled = 0; // these voices are new
    this.fadeVoice(this.audible, Player.rising, this.startedAt);
  }

  // From start to end, in seconds, faded at both ends, so that repeating it does not click.
  static part(buffer, start, end) {
    const rate = buffer.sampleRate;
    const samples = buffer.getChannelData(0).slice(Math.round(start * rate), Math.round(end * rate));
    const length = Math.min(Math.round(Player.fade * rate), samples.length >> 1);
    for (let index = 0; index < length; index++) {
      const level = (1 - Math.cos((Math.PI * (index + 0.5)) / length)) / 2;
      samples[index] *= level;
      samples[samples.length - 1 - index] *= level;
    }
    const part = new AudioBuffer({ length: samples.length, numberOfChannels: 1, sampleRate: rate });
    part.copyToChannel(samples, 0);
    return part;
  }

  pause() {
    this.offset = this.position;
    this.stop();
  }

  stop() {
    if (!this.playing) return;
    const silent = this.fadeVoice(this.audible, Player.falling, this.context.currentTime);
    for (const { source } of this.voices.values()) source.stop(silent);
    this.voices.clear();
  }

  // Extend a loop to the minimum length.
  longEnough([start, end]) {
    const length = Math.min(Math.max(end - start, Player.shortest), this.duration);
    const from = Math.min(start, this.duration - length);
    return [from, from + length];
  }

  setLoop(loop) {
    const playing = this.playing;
    this.pause();
    this.loop = loop && this.longEnough(loop);
    if (playing) this.begin();
  }
}
