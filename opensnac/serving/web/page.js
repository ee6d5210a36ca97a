// The page: sound from the microphone or a file goes to the server as it comes, its codes come back and go there again,
// and the sound of these is shown and played. Pieces are float32 all the way, so what is heard is what was decoded.

import { Comparison } from "./components/ab.js";
import { Player } from "./components/player.js";
import { Recorder, readFile } from "./components/recorder.js";
import { Spectrogram } from "./components/spectrogram.js";
import { Tokens } from "./components/tokens.js";
import { Stream } from "./stream.js";

const PIECE_SECONDS = 0.05;
const FILE_PIECE = 24000; // samples of a file that are sent at a time
const MOST_UNCODED = 10; // pieces of a file that may be on their way
const at = (id) => document.getElementById(id);

export const page = { state: "idle", original: [], coded: [], codes: [], latencies: [] };
window.page = page; // for whoever looks behind the curtain

let views = null; // of the rate that the model has
let comparison = null;

function say(text) {
  at("status").textContent = text;
}

function fail(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
  at("token-row").hidden &&= error.code !== "token";
  say("That did not work.");
  reset("idle");
}

function joined(pieces) {
  const all = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  pieces.reduce((start, piece) => (all.set(piece, start), start + piece.length), 0);
  return all;
}

function reset(state) {
  page.state = state;
  document.body.dataset.state = state;
  at("record").textContent = state === "recording" ? "Stop" : "Record";
  at("record").ariaDisabled = String(state === "waiting" || state === "file"); // it keeps the focus
  at("file").disabled = state !== "idle";
  const heard = state === "idle" && page.coded.length > 0;
  at("play").disabled = !(heard || page.player?.playing);
  at("compare").disabled = !heard;
}

// Open both streams, and whatever shows what comes; what was there before is gone.
async function begin(state) {
  at("error").hidden = true;
  reset("waiting");
  comparison?.close();
  comparison = null;
  await page.player?.close();
  Object.assign(page, { original: [], coded: [], codes: [], latencies: [], sent: [], state });
  const token = at("token").value;
  page.encoding = await Stream.open("encode", { output: "codes", format: "float32" }, token, { onmessage: coded });
  const { model, rate, strides, codebook_size: size } = page.encoding.ready;
  page.decoding = await Stream.open("decode", { format: "float32", rate }, token, { onmessage: heard });
  page.player = await Player.open({ sampleRate: rate, lead: 0.15, onstate: moved });
  Object.assign(page, { rate, strides, size, bits: Math.ceil(Math.log2(size)) });
  at("model").textContent = model;
  if (!views || views.rate !== rate) {
    const spectrogram = (id, label) => new Spectrogram(at(id), { sampleRate: rate, label });
    const shown = matchMedia("(max-width: 600px)").matches ? 4 : 12;
    const tokens = new Tokens(at("tokens"), { strides, size, shown });
    views = { rate, original: spectrogram("original", "original"), coded: spectrogram("coded", "decoded"), tokens };
  }
  for (const view of [views.original, views.coded, views.tokens]) view.clear();
  reset(state);
}

function send(samples) {
  page.original.push(samples);
  const end = (page.sent.at(-1)?.end ?? 0) + samples.length;
  page.sent.push({ end, time: performance.now() });
  views.original.push(samples);
  page.encoding.send(samples);
  const total = end / page.rate;
  at("seconds").textContent = `${total.toFixed(1)} s`;
}

// Codes came: show them, and have them decoded.
function coded(message) {
  if (message.type !== "codes") return;
  page.codes.push(message.codes);
  views.tokens.push(message.codes);
  const { tokens_per_group: count, group } = page.encoding.ready;
  at("bits").textContent = Math.round((page.bits * count) / group);
  page.decoding.send(tokensOf(message.codes));
}

// The tokens of coarse frames, in the order of a walk down the tree of strides, a range for each slot.
function tokensOf(codes) {
  const slots = walk(page.strides, 0);
  const tokens = [];
  for (let frame = 0; frame < codes[0].length; frame++) {
    const taken = page.strides.map((stride) => (frame * page.strides[0]) / stride);
    slots.forEach((scale, slot) => tokens.push(slot * page.size + codes[scale][taken[scale]++]));
  }
  return tokens;
}

function walk(strides, scale) {
  if (scale === strides.length - 1) return [scale];
  const below = walk(strides, scale + 1);
  return [scale, ...Array.from({ length: strides[scale] / strides[scale + 1] }, () => below).flat()];
}

// Sound came back.
function heard(message) {
  if (!(message instanceof ArrayBuffer)) return;
  const samples = new Float32Array(message);
  const before = page.coded.reduce((sum, piece) => sum + piece.length, 0);
  page.coded.push(samples);
  views.coded.push(samples);
  page.player.push(samples.slice());
  const source = page.sent.find(({ end }) => end > before); // where the first sample of the piece was sent
  if (source && page.state === "recording") {
    page.latencies.push(performance.now() - source.time);
    at("latency").textContent = `${Math.round(page.latencies.at(-1))} ms`;
  }
}

function moved(player) {
  at("play").textContent = player.playing ? "Pause" : "Play";
  views.coded.cursor = player.playing ? player.position : null;
  views.original.cursor = views.coded.cursor;
}

// All is sent: wait for the rest.
async function finish() {
  reset("waiting");
  say("Waiting for the rest.");
  await page.encoding.finish();
  await page.decoding.finish();
  page.player.end();
  page.encoding.close();
  page.decoding.close();
  for (const [name, view] of [["original", views.original], ["coded", views.coded]]) view.show(joined(page[name]));
  say("Done: play it, or compare it with the original.");
  reset("idle");
}

async function record() {
  await begin("recording");
  if (at("live").checked) page.player.play();
  page.recorder = await Recorder.open({ sampleRate: page.rate, pieceSeconds: PIECE_SECONDS, onpiece: send });
  say("Recording.");
}

async function stop() {
  reset("waiting");
  await page.recorder.stop();
  await finish();
}

async function take(file) {
  await begin("file");
  say(`Reading ${file.name}.`);
  const { samples } = await readFile(file, page.rate);
  for (let start = 0; start < samples.length; start += FILE_PIECE) {
    send(samples.slice(start, start + FILE_PIECE));
    const most = MOST_UNCODED * FILE_PIECE * Float32Array.BYTES_PER_ELEMENT;
    await page.encoding.until(() => page.encoding.unsent < most);
  }
  await finish();
}

const guarded = (action) => async (...given) => {
  try {
    await action(...given);
  } catch (error) {
    fail(error);
  }
};

const pressed = { idle: record, recording: stop };
at("record").addEventListener("click", guarded(() => pressed[page.state]?.()));
at("play").addEventListener("click", () => (page.player.playing ? page.player.pause() : page.player.play()));
at("file").addEventListener("change", guarded(async ({ target }) => target.files[0] && take(target.files[0])));
at("compare").addEventListener("click", () => {
  comparison?.close();
  const [original, other] = [joined(page.original), joined(page.coded)];
  comparison = new Comparison(at("comparison"), { original, other, sampleRate: page.rate });
  at("comparison").querySelector("button").focus();
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", over);
  });
}
at("drop").addEventListener("drop", guarded(async ({ dataTransfer }) => {
  if (page.state === "idle" && dataTransfer.files[0]) await take(dataTransfer.files[0]);
}));
reset("idle");
document.body.dataset.ready = "yes";
