// The page: takes a recording, a file or a link; shows its bytes, spectrograms and sound. All data stays in the browser.

import { Codec, Writer } from "./opensnac/src/index.js";
import { Comparison } from "./opensnac/components/ab.js";
import { Recorder, readFile } from "./opensnac/components/recorder.js";
import { Tokens } from "./opensnac/components/tokens.js";
import { MOST_BYTES, bytesOf, linkOf } from "./link.js";
import { Sound } from "./sound.js";

const PIECE_SECONDS = 0.5; // of a file, per call of the codec
const element = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search); // for experiments: ?device=webgpu&threads=4

let codec;
let original;
let decoded;
let tokens;
let stopRecording = null; // while the microphone is on
let opening = false; // while the browser asks for permission
let comparison = null;
let file = null; // bytes of the current .snac file
let current = new AbortController(); // aborts the current task when a new one begins

// Run a user's request in place of the current task, and report errors.
async function begin(work) {
  current.abort();
  current = new AbortController();
  comparison?.close();
  comparison = null;
  element("compare").hidden = false;
  const { signal } = current;
  element("error").hidden = true;
  element("save").disabled = element("share").disabled = true;
  element("shared").hidden = element("comparison-panel").hidden = true;
  document.body.dataset.state = "working";
  try {
    await original.begin();
    await decoded.begin();
    tokens.clear();
    await work(signal);
    if (signal.aborted) return;
    element("save").disabled = false;
    element("share").disabled = file.length > MOST_BYTES;
    element("share").title = file.length > MOST_BYTES ? `Only ${MOST_BYTES} bytes fit into a link` : "";
    document.body.dataset.state = "done";
  } catch (error) {
    if (signal.aborted) return;
    document.body.dataset.state = "failed";
    element("error").textContent = error.message;
    element("error").hidden = false;
    say("Ready.");
  }
}

// Encode pieces of sound as they come, and decode them immediately.
async function code(pieces, { originalRate, numSamples, signal }) {
  const encoder = codec.encoder();
  const decoder = codec.decoder();
  const writer = new Writer(codec.header({ originalRate }));
  const parts = [];
  const took = { samples: 0, encoding: 0, decoding: 0 };
  const take = async (codes) => {
    parts.push(writer.write(codes));
    tokens.push(codes.map(([channel]) => channel));
    hear(await timed(took, "decoding", decoder.push(codes)));
  };
  element("original-panel").hidden = false;
  try {
    for await (const piece of pieces) {
      signal.throwIfAborted();
      original.push(piece);
      took.samples += piece.length;
      await take(await timed(took, "encoding", encoder.push(piece)));
      tell(writer.numBytes, took);
    }
    if (!took.samples) throw new Error("expected a recording, got an empty one");
    await take(await timed(took, "encoding", encoder.finish()));
    hear(await timed(took, "decoding", decoder.finish()), took.samples);
  } finally {
    encoder.close();
    decoder.close();
  }
  parts.push(writer.close(numSamples() ?? took.samples));
  file = new Uint8Array(await new Blob(parts).arrayBuffer());
  original.end();
  decoded.end();
  tell(file.length, took);
  element("comparison-panel").hidden = false;
}

// Show decoded audio, up to the recording's `samples` in total.
let heard = 0;
function hear([samples], length = Infinity) {
  if (!decoded.pieces.length) heard = 0;
  const part = samples.subarray(0, Math.max(0, length - heard));
  heard += part.length;
  if (part.length) decoded.push(part);
}

async function timed(took, what, work) {
  const start = performance.now();
  const result = await work;
  took[what] += performance.now() - start;
  return result;
}

async function show(bytes, signal) {
  say("Decoding …");
  file = bytes;
  const took = { samples: 0, encoding: 0, decoding: 0 };
  element("original-panel").hidden = true;
  const onsamples = ([samples]) => decoded.push(samples);
  const result = await timed(took, "decoding", codec.decode(bytes, { salvage: true, onsamples, signal }));
  took.samples = result.channels[0].length;
  decoded.end();
  tell(bytes.length, took);
  say(result.damage ? `The file is damaged; this is the part before the damage: ${result.damage.problem}` : "Decoded.");
}

async function open(chosen, signal) {
  say(`Reading ${chosen.name} …`);
  const head = new Uint8Array(await chosen.slice(0, 4).arrayBuffer());
  if (String.fromCharCode(...head) === "SNAC") return show(new Uint8Array(await chosen.arrayBuffer()), signal);
  const { samples, fileRate, fileSamples } = await readFile(chosen, codec.samplingRate);
  say("Coding …");
  const size = Math.round(PIECE_SECONDS * codec.samplingRate);
  const pieces = Array.from({ length: Math.ceil(samples.length / size) }, (_, index) =>
    samples.slice(index * size, (index + 1) * size),
  );
  await code(pieces, { originalRate: fileRate, numSamples: () => fileSamples, signal });
  say(`${chosen.name} is encoded.`);
}

// Pieces from the microphone, until the button is pressed again or another task begins.
async function record(signal) {
  const pieces = [];
  let wake = () => {};
  let stopping = false;
  let ended = false; // all pieces have come
  const onpiece = (piece) => {
    pieces.push(piece);
    wake();
  };
  opening = true;
  const microphone = await Recorder.open({ sampleRate: codec.samplingRate, onpiece }).finally(() => (opening = false));
  const stop = async () => {
    if (stopping) return;
    stopping = true;
    if (stopRecording === stop) showRecording(null);
    await microphone.stop();
    ended = true;
    wake();
  };
  if (signal.aborted) return stop();
  signal.addEventListener("abort", stop);
  showRecording(stop);
  say("Recording …");
  async function* coming() {
    while (pieces.length || !ended) {
      if (pieces.length) yield pieces.shift();
      else await new Promise((resolve) => (wake = resolve));
    }
  }
  try {
    await code(coming(), { originalRate: codec.samplingRate, numSamples: () => undefined, signal });
  } finally {
    await stop(); // the microphone is switched off if encoding fails
  }
  say("Your recording is encoded.");
}

// Update the button: stop the recording, or start one.
function showRecording(stop) {
  stopRecording = stop;
  element("record").textContent = stop ? "Stop" : "Record";
}

function tell(bytes, { samples, encoding, decoding }) {
  const seconds = samples / codec.samplingRate;
  const speed = (milliseconds) => (milliseconds ? `${((1000 * seconds) / milliseconds).toFixed(1)} ×` : "–");
  element("seconds").textContent = `${seconds.toFixed(1)} s`;
  element("bytes").textContent = `${bytes.toLocaleString("en")} bytes`;
  element("rate").textContent = `${Math.round((8 * bytes) / seconds).toLocaleString("en")} b/s`;
  element("ratio").textContent = `1 : ${Math.round((2 * samples) / bytes)}`;
  element("encoding").textContent = speed(encoding);
  element("decoding").textContent = speed(decoding);
}

function say(text) {
  element("status").textContent = text;
}

function share() {
  const link = linkOf(file);
  history.replaceState(null, "", link);
  element("link").value = link;
  element("shared").hidden = false;
  element("link").select();
  navigator.clipboard?.writeText(link).then(
    () => (element("copied").textContent = "Copied."),
    () => (element("copied").textContent = ""),
  );
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file], { type: "application/octet-stream" }));
  link.download = "recording.snac";
  link.click();
  URL.revokeObjectURL(link.href);
}

function compare() {
  original.player.pause();
  decoded.player.pause();
  element("compare").hidden = true;
  comparison?.close();
  comparison = new Comparison(element("comparison"), {
    original: original.samples,
    other: decoded.samples,
    sampleRate: codec.samplingRate,
    ondone: () => (element("compare").hidden = false),
  });
}

element("file").addEventListener("change", ({ target }) => target.files[0] && begin((signal) => open(target.files[0], signal)));
element("record").addEventListener("click", () => {
  if (stopRecording) stopRecording();
  else if (!opening) begin(record);
});
element("share").addEventListener("click", share);
element("save").addEventListener("click", save);
element("compare").addEventListener("click", compare);
element("scale").addEventListener("change", ({ target }) => {
  original.picture.scale = decoded.picture.scale = target.value;
});
const drop = element("drop");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [dropped] = event.dataTransfer.files;
  if (dropped && codec) begin((signal) => open(dropped, signal));
});
window.addEventListener("hashchange", () => codec && showLink());

function showLink() {
  return begin((signal) => show(bytesOf(), signal));
}

try {
  navigator.serviceWorker?.register("service-worker.js");
  const device = query.get("device") ?? "wasm";
  codec = await Codec.open({ model: "model", runtime: "ort", device, threads: Number(query.get("threads") ?? 1) });
  [original, decoded] = ["original", "decoded"].map((name) => new Sound(name, codec.samplingRate));
  tokens = new Tokens(element("codes"), { strides: codec.strides, size: codec.codebookSize, shown: innerWidth < 600 ? 5 : 12 });
  element("file").disabled = element("record").disabled = false;
  say("Ready.");
  document.body.dataset.state = "ready";
  if (location.hash) await showLink();
} catch (error) {
  element("error").textContent = error.message;
  element("error").hidden = false;
  say("The codec could not be loaded.");
  document.body.dataset.state = "failed";
}
