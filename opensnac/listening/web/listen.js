"use strict";

const test = window.TEST;
const element = (id) => document.getElementById(id);
const STIMULUS_KEYS = "1234567890-=";
const player = new Player();
const session = new Session(test, (text) => (element("status").textContent = text));
let state; // the session's answers
let trial; // the one on the screen, null before and after
let heard; // stimuli of this trial that were played since it was shown
let shownAt;

function show(name) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
}

function loadScript(source) {
  return new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: source });
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${source} is missing; copy the whole folder of the test`));
    document.head.append(script);
  });
}

async function go() {
  trial = state.trials.find((one) => !one.confirmed) ?? null;
  if (!trial) return finish();
  const index = state.trials.indexOf(trial);
  const alike = state.trials.filter((one) => one.training === trial.training);
  const kind = trial.training ? "Training" : "Page";
  element("heading").textContent = `${kind} ${alike.indexOf(trial) + 1} of ${alike.length}`;
  element("hint").textContent = trial.training
    ? "Listen to all of them, set the volume, and try the sliders: find out how you will use the scale. These scores do not count."
    : "How close is each recording to the reference? At least one is the reference itself: 100. The worst need not be 0.";
  element("strips").replaceChildren(...trial.order.map(strip));
  show("trial");
  heard = new Set();
  shownAt = performance.now();
  if (!window.SOUNDS?.[trial.trial]) await loadScript(`trial-${trial.trial}.js`);
  await player.load(window.SOUNDS[trial.trial]);
  drawWave();
  update();
  const next = state.trials[index + 1];
  if (next && !window.SOUNDS[next.trial]) loadScript(`trial-${next.trial}.js`).catch(() => {}); // reported when it is needed
}

function strip(stimulus, index) {
  const box = Object.assign(document.createElement("div"), { className: "strip" });
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: STIMULUS_KEYS[index] });
  const value = document.createElement("output");
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 100, step: 1 });
  slider.value = trial.scores[stimulus] ?? 0;
  slider.setAttribute("aria-label", `score of recording ${STIMULUS_KEYS[index]}`);
  box.dataset.stimulus = stimulus;
  button.addEventListener("click", () => play(stimulus));
  slider.addEventListener("input", () => rate(stimulus, slider, false));
  slider.addEventListener("change", () => rate(stimulus, slider, true));
  slider.addEventListener("pointerup", () => rate(stimulus, slider, true)); // a click that leaves 0 is a score too
  slider.addEventListener("keydown", (event) => {
    if (/^(Arrow|Page|Home|End)/.test(event.key)) setTimeout(() => rate(stimulus, slider, true));
  });
  box.append(button, slider, value);
  return box;
}

function rate(stimulus, slider, final) {
  if (!trial || player.audible !== stimulus) return; // a key event after another stimulus was selected
  const changed = trial.scores[stimulus] !== Number(slider.value);
  trial.scores[stimulus] = Number(slider.value);
  if (final || changed) update();
  if (changed) session.save();
}

function play(name) {
  if (!player.buffers.has(name)) return;
  heard.add(name);
  player.play(name);
  update();
}

function update() {
  const name = trial.order.indexOf(player.audible);
  const isDone = (stimulus) => (trial.training ? heard.has(stimulus) : stimulus in trial.scores);
  const left = trial.order.filter((stimulus) => !isDone(stimulus)).length;
  element("next").disabled = left > 0;
  element("missing").textContent = left ? `${left} to be ${trial.training ? "heard" : "scored"}` : "";
  element("pause").textContent = player.playing ? "Pause" : "Resume";
  element("reference").classList.toggle("playing", player.playing && player.audible !== null && name < 0);
  for (const box of element("strips").children) {
    const stimulus = box.dataset.stimulus;
    const slider = box.querySelector("input");
    slider.disabled = player.audible !== stimulus; // only the playing stimulus can be scored: BS.1534-3, 5.4
    slider.classList.toggle("untouched", !(stimulus in trial.scores));
    box.querySelector("output").textContent = trial.scores[stimulus] ?? "";
    box.querySelector("button").classList.toggle("playing", player.playing && player.audible === stimulus);
  }
}

function confirm() {
  if (!trial || element("next").disabled) return;
  player.stop();
  trial.confirmed = true;
  trial.seconds += Math.round((performance.now() - shownAt) / 1000);
  state.finished = state.trials.every((one) => one.confirmed);
  session.save();
  go();
}

function finish() {
  player.stop();
  trial = null;
  element("outcome").textContent = session.served
    ? "Your answers are stored by the server once the line below confirms it. You may also save them as a file."
    : "Please save your answers as a file and send it to the person who invited you.";
  show("end");
}

function togglePause() {
  if (player.playing) player.pause();
  else if (player.audible) player.begin();
  update();
}

function setLoop(loop) {
  const [start, end] = loop ?? [0, 0];
  player.setLoop(loop && end > start ? [start, end] : null);
  if (player.loop) trial.loops += 1;
}

// The waveform of the reference, the loop and the position. Dragging makes a loop, a click seeks.
let wave = [];
function drawWave() {
  const samples = player.buffers.get(test.trials.find((one) => one.trial === trial.trial).reference).getChannelData(0);
  const columns = element("wave").width;
  wave = Array.from({ length: columns }, (_, column) => {
    const part = samples.subarray((column * samples.length) / columns, ((column + 1) * samples.length) / columns);
    return part.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
  });
}

function paint() {
  requestAnimationFrame(paint);
  if (!trial || !player.duration) return;
  const canvas = element("wave");
  const pen = canvas.getContext("2d");
  const scale = canvas.width / player.duration;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const [start, end] = player.region;
  pen.fillStyle = "#dbeaf5";
  pen.fillRect(start * scale, 0, (end - start) * scale, canvas.height);
  pen.fillStyle = "#557";
  wave.forEach((peak, x) => pen.fillRect(x, (canvas.height * (1 - peak)) / 2, 1, Math.max(1, canvas.height * peak)));
  pen.fillStyle = "#d55e00";
  pen.fillRect(player.position * scale - 1, 0, 2, canvas.height);
}

let dragFrom = null;
const secondsAt = (event) => {
  const box = element("wave").getBoundingClientRect();
  return (Math.min(Math.max(event.clientX - box.left, 0), box.width) / box.width) * player.duration;
};
element("wave").addEventListener("pointerdown", (event) => {
  dragFrom = secondsAt(event);
  element("wave").setPointerCapture(event.pointerId);
});
element("wave").addEventListener("pointerup", (event) => {
  if (dragFrom === null || !trial) return;
  const [start, end] = [dragFrom, secondsAt(event)].sort((a, b) => a - b);
  dragFrom = null;
  if (end - start >= 0.1) return setLoop([start, end]);
  const playing = player.playing;
  player.pause();
  player.offset = start;
  if (playing) player.begin();
});

document.addEventListener("keydown", (event) => {
  if (!trial || event.ctrlKey || event.altKey || event.metaKey || event.target.id === "listener") return;
  const index = STIMULUS_KEYS.indexOf(event.key);
  if (event.key.length === 1 && index >= 0 && index < trial.order.length) {
    play(trial.order[index]);
    element("strips").children[index].querySelector("input").focus();
  } else if (event.key === "r" || event.key === "R") element("reference").click();
  else if (event.key === " ") togglePause();
  else if (event.key === "[") setLoop([player.position, player.region[1]]);
  else if (event.key === "]") setLoop([player.region[0], player.position]);
  else if (event.key === "\\") setLoop(null);
  else if (event.key === "n" || event.key === "N") confirm();
  else return;
  event.preventDefault();
});

element("reference").addEventListener("click", () => play(test.trials.find((one) => one.trial === trial.trial).reference));
element("pause").addEventListener("click", togglePause);
element("next").addEventListener("click", confirm);
element("start").addEventListener("click", () => {
  state.listener = element("listener").value.trim();
  session.save();
  go();
});
element("save").addEventListener("click", () => {
  const file = new Blob([JSON.stringify(state, null, 1)], { type: "application/json" });
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: `${session.id}.json` });
  link.click();
});

(async () => {
  state = await session.open();
  element("simulated").hidden = !state.simulated;
  element("listener").value = state.listener;
  const begun = state.trials.some((one) => one.confirmed || Object.keys(one.scores).length);
  if (begun) await go();
  else show("intro");
  document.body.dataset.ready = "yes";
  paint();
})();
