// Sound from a microphone or a file, as mono float32 at a codec's rate.
//
//   const recorder = await Recorder.open({ sampleRate: 24000, pieceSeconds: 0.1, onpiece: (samples) => ... });
//   await recorder.stop();                         // resolves after the last piece, which may be shorter
//
//   const { samples, fileRate, fileSamples } = await readFile(file, 24000);
//
// `Recorder.open` asks for the unprocessed microphone: without echo cancellation, noise suppression or gain control,
// unless `constraints` request them. It records at the sound device's rate and resamples with resampler.js, as not every
// browser connects a microphone to a context of another rate. Pieces have round(pieceSeconds · sampleRate) samples, except
// the last. `stream` replaces the microphone by another MediaStream.
//
// `readFile` takes a File, Blob or ArrayBuffer of any kind that the browser plays, mixes it down, and gives its samples at
// the codec's rate, its own rate and its number of samples at that.

import { mixed } from "./mixing.js";
import { resample } from "./resampler.js";

const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const USUAL_RATE = 48000; // if a file's rate is unknown; browsers resample poorly, but upwards with the least harm

export class Recorder {
  static async open({ sampleRate, pieceSeconds = 0.1, onpiece, constraints = AS_IT_IS, stream }) {
    const media = stream ?? (await navigator.mediaDevices.getUserMedia({ audio: constraints }));
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
    await context.resume();
    return new Recorder(context, media, sampleRate, Math.round(pieceSeconds * sampleRate), onpiece);
  }

  constructor(context, media, rate, pieceSamples, onpiece) {
    this.context = context;
    this.media = media;
    this.source = new MediaStreamAudioSourceNode(context, { mediaStream: media });
    this.node = new AudioWorkletNode(context, "opensnac-recorder", {
      numberOfOutputs: 0,
      processorOptions: { rate, pieceSamples },
    });
    this.finished = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => (data ? onpiece(data) : resolve());
    });
    this.source.connect(this.node);
  }

  async stop() {
    this.node.port.postMessage("finish");
    await this.finished;
    for (const track of this.media.getTracks()) track.stop();
    await this.context.close();
  }
}

export async function readFile(file, sampleRate) {
  const bytes = file instanceof ArrayBuffer ? file : await file.arrayBuffer();
  const fileRate = rateOf(new DataView(bytes)) ?? USUAL_RATE;
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, fileRate).decodeAudioData(bytes.slice(0));
  } catch {
    throw new Error(`${file.name ?? "the file"}: expected a recording that this browser plays, got something else`);
  }
  const mono = mixed(Array.from({ length: sound.numberOfChannels }, (_, index) => sound.getChannelData(index)));
  return { samples: resample(mono, fileRate, sampleRate), fileRate, fileSamples: mono.length };
}

// The rate in the header of a WAV, FLAC or Ogg file, undefined for others.
function rateOf(view) {
  const text = (offset, length) => String.fromCharCode(...new Uint8Array(view.buffer, offset, length));
  if (view.byteLength < 64) return undefined;
  if (text(0, 4) === "RIFF" && text(12, 4) === "fmt ") return view.getUint32(24, true);
  if (text(0, 4) === "fLaC") return view.getUint32(18) >>> 12;
  if (text(0, 4) === "OggS" && text(28, 7) === "\x01vorbis") return view.getUint32(40, true);
  return undefined;
}
