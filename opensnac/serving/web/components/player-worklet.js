// The part of player.js on the audio thread: plays a queue of pieces sample by sample.

const REPORT_SECONDS = 0.05;

class PlayerProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: { lead, keep } }) {
    super();
    this.lead = lead; // samples to buffer before sound begins, and again after an underrun
    this.keep = keep; // played pieces are kept, to seek back to
    this.open = true;
    this.clear();
    this.port.onmessage = ({ data: [call, argument] }) => {
      this[call](argument);
      this.report();
    };
  }

  clear() {
    this.pieces = [];
    this.index = 0; // of the current piece
    this.offset = 0; // samples of it already played
    this.position = 0; // samples from the start of the sound
    this.received = 0;
    this.underruns = 0;
    this.playing = false;
    this.waiting = true; // until `lead` samples are buffered
    this.ended = false;
  }

  push(piece) {
    if (piece.length) this.pieces.push(piece);
    this.received += piece.length;
  }

  end() {
    this.ended = true;
  }

  play() {
    if (this.ended && this.position === this.received) this.seek(0);
    this.playing = true;
  }

  pause() {
    this.playing = false;
  }

  seek(sample) {
    const kept = this.pieces.reduce((sum, piece) => sum + piece.length, 0);
    const first = this.received - kept;
    this.position = Math.min(Math.max(sample, first), this.received);
    this.offset = this.position - first;
    for (this.index = 0; this.offset && this.offset >= this.pieces[this.index].length; this.index++) {
      this.offset -= this.pieces[this.index].length;
    }
    this.waiting = true;
  }

  close() {
    this.open = false;
  }

  process(inputs, [[output]]) {
    const buffered = this.received - this.position;
    if (buffered >= this.lead || (this.ended && buffered)) this.waiting = false;
    if (this.playing && this.ended && !buffered) {
      this.playing = false;
      this.report();
    } else if (this.playing && !this.waiting) {
      this.position += this.fill(output);
      if (buffered < output.length && !this.ended) {
        this.underruns += 1;
        this.waiting = true;
        this.report();
      } else if (currentTime - this.reported >= REPORT_SECONDS) this.report();
    }
    return this.open;
  }

  // Copy the next samples into `output`; returns their number.
  fill(output) {
    let filled = 0;
    while (filled < output.length && this.index < this.pieces.length) {
      const piece = this.pieces[this.index];
      const part = piece.subarray(this.offset, this.offset + output.length - filled);
      output.set(part, filled);
      filled += part.length;
      this.offset += part.length;
      if (this.offset === piece.length) this.next();
    }
    return filled;
  }

  next() {
    this.offset = 0;
    if (this.keep) this.index += 1;
    else this.pieces.shift();
  }

  report() {
    const { position, received, underruns, playing, waiting, ended } = this;
    this.reported = currentTime;
    this.port.postMessage({ position, received, underruns, playing, waiting, ended });
  }
}

registerProcessor("opensnac-player", PlayerProcessor);
