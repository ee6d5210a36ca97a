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
  /** What computes; "auto" is WebGPU where the browser has it. "wasm" if left out. */
  device?: "wasm" | "webgpu" | "auto";
  /** Of wasm; more than one only on a page that is cross-origin isolated. */
  threads?: number;
  /** Which files of the model; "fp16" if left out. */
  weights?: "fp32" | "fp16" | "int8";
}

export class Codec {
  static open(options: CodecOptions): Promise<Codec>;
  private constructor();
  /** Of the samples that go in and come out. */
  readonly samplingRate: number;
  /** Frames of a code, scale by scale, coarse to fine. */
  readonly strides: readonly number[];
  readonly codebookSize: number;
  /** Samples of a group of frames: a stream goes on by whole ones. */
  readonly groupSamples: number;
  readonly device: "wasm" | "webgpu";
  encoder(options?: { channels?: number }): EncoderStream;
  decoder(options?: { channels?: number; seed?: number | bigint; noise?: number }): DecoderStream;
  /** The header of a file of this model's codes. */
  header(options?: { channels?: number; originalRate?: number }): Header;
  /** The bytes of a .snac file. */
  encode(samples: Channels, options?: EncodeOptions): Promise<Uint8Array>;
  decode(bytes: Uint8Array, options?: DecodeOptions): Promise<Decoded>;
  /** Throws ModelMismatchError where a file's codes are another model's. */
  requireFits(header: Header): void;
  /** Ends the worker; what it has not answered fails. */
  close(): void;
}

export interface EncodeOptions {
  /** Of the recording, where it was resampled before. */
  originalRate?: number;
  /** Of one channel at the original rate. */
  numSamples?: number;
  /** Called with the codes of each part as they come, and the share that is done. */
  oncodes?: (codes: CodesOut, done: number) => void;
  signal?: AbortSignal;
}

export interface DecodeOptions {
  /** Keep what precedes the damage of a damaged file. */
  salvage?: boolean;
  /** Names the decoder's noise; 0 if left out. */
  seed?: number | bigint;
  /** Scales the decoder's noise: 1 as trained, 0 none. */
  noise?: number;
  /** Called with the channels of each part as they come, and the share that is done. */
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
  /** The codes that are certain now. */
  push(samples: Channels): Promise<CodesOut>;
  /** The rest, padded with zeros to whole groups of frames. */
  finish(): Promise<CodesOut>;
  close(): Promise<void>;
}

export interface DecoderStream {
  /** The samples that are certain now, of each channel. */
  push(codes: Codes): Promise<Float32Array[]>;
  finish(): Promise<Float32Array[]>;
  close(): Promise<void>;
}

/** Changes the sampling rate of a sound that comes in pieces. */
export class Resampler {
  constructor(from: number, to: number);
  push(samples: Float32Array): Float32Array;
  finish(): Float32Array;
}

export function resample(samples: Float32Array, from: number, to: number): Float32Array;
