// A stream of the server over a WebSocket, as docs/serving.md has it.
//
//   const stream = await Stream.open("decode", { offset: 128266 }, token, { onmessage: (message) => ... });
//   stream.send([1, 2, 3]);        // tokens, or a Float32Array of sound
//   await stream.finish();         // after the server has said `done`
//   stream.close();
//
// `onmessage` gets ArrayBuffers, and what JSON says. What the server refuses is an Error with its code.

export class Stream {
  static async open(kind, options, token, { onmessage }) {
    const address = new URL(`v1/${kind}`, document.baseURI.replace(/^http/, "ws"));
    const stream = new Stream(new WebSocket(address, ["opensnac", ...(token ? [protocolOf(token)] : [])]), onmessage);
    await stream.until(() => stream.socket.readyState === WebSocket.OPEN);
    stream.socket.send(JSON.stringify({ type: "start", ...options }));
    await stream.until(() => stream.ready);
    return stream;
  }

  constructor(socket, onmessage) {
    Object.assign(this, { socket, onmessage, ready: null, done: null, error: null, waiting: [] });
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.look();
    socket.onmessage = ({ data }) => this.take(data instanceof ArrayBuffer ? data : JSON.parse(data));
    socket.onclose = () => {
      const refused = !this.ready && !this.error;
      const text = refused ? "the server refused: it is full or needs a token" : "the connection was lost";
      if (!this.done) this.error ??= Object.assign(new Error(text), { code: refused ? "token" : "closed" });
      this.look();
    };
  }

  get unsent() {
    return this.socket.bufferedAmount;
  }

  send(what) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(Array.isArray(what) ? JSON.stringify(what) : what);
  }

  async finish() {
    this.socket.send('{"type": "flush"}');
    await this.until(() => this.done);
  }

  close() {
    this.socket.close();
  }

  take(message) {
    if (message.type === "error") this.error = Object.assign(new Error(message.message), { code: message.code });
    else if (message.type === "ready") this.ready = message;
    else if (message.type === "done") this.done = message;
    else this.onmessage(message);
    this.look();
  }

  // When the condition holds; an Error where the stream fails before.
  until(condition) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ condition, resolve, reject });
      this.look();
    });
  }

  look() {
    clearTimeout(this.again);
    this.waiting = this.waiting.filter(({ condition, resolve, reject }) => {
      if (condition()) resolve();
      else if (this.error) reject(this.error);
      else return true;
      return false;
    });
    if (this.waiting.length) this.again = setTimeout(() => this.look(), 50); // what is unsent tells nobody
  }
}

function protocolOf(token) {
  const bytes = Array.from(new TextEncoder().encode(token), (byte) => String.fromCharCode(byte)).join("");
  return `bearer.${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}
