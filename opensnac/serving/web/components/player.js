// Plays mono sound in pieces, without gaps and without changing any sample.
//
//   const player = await Player.open({ sampleRate: 24000, lead: 0.1, onstate: (player) => ... });
//   player.play();                     // in answer to a click or a key, as browsers require
//   player.push(samples);              // a Float32Array, any number of times
//   player.end();                      // no more pieces: silence after this is not an underrun
//   player.pause(); player.seek(1.5);  // seconds; within what was pushed
//   player.clear();                    // reset, for another sound
//   await player.close();
//
// lead       seconds to buffer before sound begins, and again after an underrun
// keep       false for an endless stream: played sound is discarded, without seeking back
// onstate    called 20 times per second while sound plays, and at every change
//
// player.position, .duration and .buffered are seconds played, pushed, and still to play; .underruns counts the waits
// for a piece; .playing is true after play(), .waiting while it waits for pieces, .ended after end(), .finished when all
// was played. player.node is the AudioNode, for a meter or a recording of it.

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
