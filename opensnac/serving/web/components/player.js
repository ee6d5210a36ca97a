// Plays mono sound that comes in pieces, without a gap between them and without a change of any sample.
//
//   const player = await Player.open({ sampleRate: 24000, lead: 0.1, onstate: (player) => ... });
//   player.play();                     // in answer to a click or a key, as browsers want it
//   player.push(samples);              // a Float32Array, as often as there is one
//   player.end();                      // no more will come: silence after this is no underrun
//   player.pause(); player.seek(1.5);  // seconds; within what has come
//   player.clear();                    // forget all, for another sound
//   await player.close();
//
// lead       seconds that must have come before sound begins, and again after an underrun
// keep       false for a stream without end: what was heard is forgotten, and cannot be sought back to
// onstate    called 20 times a second while sound plays, and at every change
//
// player.position, .duration and .buffered are seconds: heard, come, and not heard yet; .underruns counts how often
// the sound had to wait for a piece; .playing says that it was asked to play, .waiting that it waits for pieces, .ended
// that `end` was called, .finished that all was heard. player.node is the AudioNode, for a meter or a recording of it.

export class Player {
  static async open({ sampleRate, lead = 0.1, keep = true, onstate = () => {} }) {
    const context = new AudioContext({ sampleRate });
    await context.audioWorklet.addModule(new URL("player-worklet.js", import.meta.url));
    return new Player(context, Math.round(lead * sampleRate), keep, onstate);
  }

  constructor(context, lead, keep, onstate) {
    this.context = context;
    this.onstate = onstate;
    this.state = { position: 0, received: 0, underruns: 0, playing: false, waiting: true, ended: false };
    this.node = new AudioWorkletNode(context, "opensnac-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { lead, keep },
    });
    this.node.port.onmessage = ({ data }) => {
      this.state = data;
      this.onstate(this);
    };
    this.node.connect(context.destination);
  }

  get position() {
    return this.state.position / this.context.sampleRate;
  }

  get duration() {
    return this.state.received / this.context.sampleRate;
  }

  get buffered() {
    return this.duration - this.position;
  }

  get underruns() {
    return this.state.underruns;
  }

  get playing() {
    return this.state.playing;
  }

  get waiting() {
    return this.state.waiting;
  }

  get ended() {
    return this.state.ended;
  }

  get finished() {
    return this.ended && this.state.position === this.state.received;
  }

  push(samples) {
    this.send("push", samples);
  }

  end() {
    this.send("end");
  }

  play() {
    this.context.resume();
    this.send("play");
  }

  pause() {
    this.send("pause");
  }

  seek(seconds) {
    this.send("seek", Math.round(seconds * this.context.sampleRate));
  }

  clear() {
    this.send("clear");
  }

  async close() {
    this.send("close");
    this.node.disconnect();
    await this.context.close();
  }

  send(call, argument) {
    this.node.port.postMessage([call, argument]);
  }
}
