// SNAC in the browser: .snac files, and a codec that encodes and decodes as streams.

import type { Codes, CodesOut, Header } from "./bitstream/index.js";

export * from "./bitstream/index.js";
export * from "./errors.js";

/** One channel, or an array of channels of one length. */
export type Channels = Float32Array | readonly Float32Array[];

export interface CodecOptions {
  /** Address of a folder that `opensnac export MODEL --stream` wrote. */
  model: string;
  /** Address of a folder with the files of onnxruntime-web's `dist/`. */
  runtime: string;
  /** What computes; "auto" is WebGPU if the browser has it. Default: "wasm". */
  device?: "wasm" | "webgpu" | "auto";
  /** Threads of wasm; more than one only on a cross-origin isolated page. */
  threads?: number;
  /** Which files of the model; default: "fp16". */
  weights?: "fp32" | "fp16" | "int8";
}

export class Codec {
  static open(options: CodecOptions): Promise<Codec>;
  private constructor();
  /** Of input and output samples, in Hz. */
  readonly samplingRate: number;
  /** Frames per code of each scale, coarse to fine. */
  readonly strides: readonly number[];
  readonly codebookSize: number;
  /** Samples per group of frames: streams advance by whole groups. */
  readonly groupSamples: number;
  readonly device: "wasm" | "webgpu";
  encoder(options?: { channels?: number }): EncoderStream;
  decoder(options?: { channels?: number; seed?: number | bigint; noise?: number }): DecoderStream;
  /** A .snac header for codes of this model. */
  header(options?: { channels?: number; originalRate?: number }): Header;
  /** The bytes of a .snac file. */
  encode(samples: Channels, options?: EncodeOptions): Promise<Uint8Array>;
  decode(bytes: Uint8Array, options?: DecodeOptions): Promise<Decoded>;
  /** Throws ModelMismatchError if a file's codes are of a different model. */
  requireFits(header: Header): void;
  /** Ends the worker; pending calls fail. */
  close(): void;
}

export interface EncodeOptions {
  /** Of the recording, if it was resampled. */
  originalRate?: number;
  /** Of one channel at the original rate. */
  numSamples?: number;
  /** Called with the codes of each part, and the fraction done. */
  oncodes?: (codes: CodesOut, done: number) => void;
  signal?: AbortSignal;
}

export interface DecodeOptions {
  /** Keep the part before the damage in a damaged file. */
  salvage?: boolean;
  /** Selects the decoder's noise; default: 0. */
  seed?: number | bigint;
  /** Scales the decoder's noise: 1 as trained, 0 none. */
  noise?: number;
  /** Called with the channels of each part, and the fraction done. */
  onsamples?: (channels: Float32Array[], done: number) => void;
  signal?: AbortSignal;
}

export interface Decoded {
  header: Header;
  /** Of one channel at the header's original rate. */
  numSamples: number;
  damage: Error | null;
  /** At the codec's rate. */
  channels: Float32Array[];
}

export interface EncoderStream {
  /** The codes that are now determined. */
  push(samples: Channels): Promise<CodesOut>;
  /** The remaining codes, of the signal zero-padded to whole groups of frames. */
  finish(): Promise<CodesOut>;
  close(): Promise<void>;
}

export interface DecoderStream {
  /** The samples that are now determined, of each channel. */
  push(codes: Codes): Promise<Float32Array[]>;
  finish(): Promise<Float32Array[]>;
  close(): Promise<void>;
}

/** Resamples a signal that comes in chunks. */
export class Resampler {
  constructor(from: number, to: number);
  push(samples: Float32Array): Float32Array;
  finish(): Float32Array;
}

export function resample(samples: Float32Array, from: number, to: number): Float32Array;
