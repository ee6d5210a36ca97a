// The .snac stream: codes <-> bytes, without a model. docs/bitstream.md defines it.

import type { DamagedStreamError } from "../errors.js";

/** Scales, coarse to fine, of channels of codes. */
export type Codes = readonly (readonly ArrayLike<number>[])[];
/** Codes as they come out. */
export type CodesOut = Uint16Array[][];

export const FORMAT_VERSION: number;

export interface HeaderFields {
  /** Bundled name, folder's name or hub id: 1 to 255 bytes of UTF-8. */
  modelName: string;
  /** First 16 hex digits of the model's fingerprint. */
  weightsHash: string;
  samplingRate: number;
  originalRate: number;
  channels: number;
  hopLength: number;
  vqStrides: readonly number[];
  codebookSize: number;
  /** In frames. */
  frameMultiple: number;
}

export class Header implements HeaderFields {
  /** Throws HeaderError for a value out of bounds. */
  constructor(fields: HeaderFields);
  readonly modelName: string;
  readonly weightsHash: string;
  readonly samplingRate: number;
  readonly originalRate: number;
  readonly channels: number;
  readonly hopLength: number;
  readonly vqStrides: readonly number[];
  readonly codebookSize: number;
  readonly frameMultiple: number;
  readonly bitsPerCode: number;
  readonly coarseStride: number;
  readonly codesPerCoarseFrame: number[];
  readonly bitsPerCoarseFrame: number;
  readonly bitsPerSecond: number;
  numFrames(samples: number): number;
  numSamples(frames: number): number;
  fits(frames: number, samples: number): boolean;
  toBytes(): Uint8Array;
}

/** Takes a stream as its bytes come, and gives each packet's codes. */
export class Reader {
  /** Null until it has come. */
  readonly header: Header | null;
  readonly numFrames: number;
  readonly numPackets: number;
  readonly numBytes: number;
  /** Null before the end record was read. */
  readonly numSamples: number | null;
  readonly usableFrames: number;
  readonly usableSamples: number;
  push(bytes: Uint8Array): Generator<CodesOut, void>;
  finish(): Generator<CodesOut, void>;
}

/** Every call gives the bytes that are next in the stream. */
export class Writer {
  constructor(header: Header, options?: WriterOptions);
  readonly numFrames: number;
  readonly numBytes: number;
  write(codes: Codes): Uint8Array;
  flush(): Uint8Array;
  close(numSamples: number): Uint8Array;
}

export interface WriterOptions {
  /** 1 to 255; 64 if left out. */
  coarseFramesPerPacket?: number;
}

export interface Recording {
  header: Header;
  codes: CodesOut;
  numSamples: number;
  numFrames: number;
  numPackets: number;
  numBytes: number;
  damage: DamagedStreamError | null;
}

export function read(bytes: Uint8Array, options?: { salvage?: boolean }): Recording;
export function write(header: Header, codes: Codes, numSamples: number, options?: WriterOptions): Uint8Array;
