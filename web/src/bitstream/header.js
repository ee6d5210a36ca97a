// The first record of a .snac stream: which model its codes need and how they are laid out.

import {
  CorruptStreamError,
  DamagedStreamError,
  HeaderError,
  NotSnacError,
  TruncatedStreamError,
  UnsupportedFormatError,
} from "../errors.js";
import { crc32 } from "./checksums.js";

export const FORMAT_VERSION = 1;
const MAGIC = [0x53, 0x4e, 0x41, 0x43]; // "SNAC"
const PAYLOAD_FIXED_WIDTH = 0;
const FIXED_BYTES = 14; // from the payload type to the number of scales
const HASH_BYTES = 8;
const MAX_RATE = 2 ** 24 - 1;
const MAX_CODES_PER_COARSE_FRAME = 4096; // of all channels and scales
const CONTROL = /[\u0000-\u001f\u007f-\u009f\ud800-\udfff]/u;
const FOREIGN = [
  ["RIFF", "a WAV file"],
  ["RF64", "a WAV file"],
  ["OggS", "an Ogg file (Opus or Vorbis)"],
  ["fLaC", "a FLAC file"],
  ["ID3", "an MP3 file"],
  ["\xff\xfb", "an MP3 file"],
];

// Made of the fields that docs/bitstream.md names: modelName, weightsHash (16 hex digits), samplingRate, originalRate,
// channels, hopLength, vqStrides, codebookSize, frameMultiple (in frames). HeaderError names a value out of bounds.
export class Header {
  constructor(fields) {
    this.modelName = fields.modelName;
    this.weightsHash = fields.weightsHash;
    this.samplingRate = fields.samplingRate;
    this.originalRate = fields.originalRate;
    this.channels = fields.channels;
    this.hopLength = fields.hopLength;
    this.vqStrides = Object.freeze(Array.from(fields.vqStrides));
    this.codebookSize = fields.codebookSize;
    this.frameMultiple = fields.frameMultiple;
    this.#check();
    Object.freeze(this);
  }

  #check() {
    checkName(this.modelName);
    if (!/^[0-9a-f]{16}$/.test(this.weightsHash))
      throw new HeaderError(`weightsHash: expected the first 16 lower-case hex digits of the model's fingerprint, got ${this.weightsHash}`);
    checkRange("samplingRate", this.samplingRate, 1, MAX_RATE);
    checkRange("originalRate", this.originalRate, 1, MAX_RATE);
    checkRange("channels", this.channels, 1, 255);
    checkRange("hopLength", this.hopLength, 1, 65535);
    checkRange("codebookSize", this.codebookSize, 2, 65536);
    checkRange("number of vqStrides", this.vqStrides.length, 1, 16);
    for (const stride of this.vqStrides) checkRange("vqStrides entry", stride, 1, 255);
    const codes = this.channels * sum(this.codesPerCoarseFrame);
    if (codes > MAX_CODES_PER_COARSE_FRAME)
      throw new HeaderError(
        `expected at most ${MAX_CODES_PER_COARSE_FRAME} codes per coarse frame, got ${codes} from ${this.channels} ` +
          `channels with vqStrides [${this.vqStrides.join(", ")}]; mix down to fewer channels`,
      );
    checkRange("frameMultiple", this.frameMultiple, 1, 255 * this.coarseStride);
    if (this.frameMultiple % this.coarseStride)
      throw new HeaderError(
        `frameMultiple: expected a multiple of ${this.coarseStride}, the frames of a coarse frame, got ${this.frameMultiple}`,
      );
  }

  // Bits per code.
  get bitsPerCode() {
    return 32 - Math.clz32(this.codebookSize - 1);
  }

  // Frames of a coarse frame, the shortest stretch that holds whole codes of every scale.
  get coarseStride() {
    return leastCommonMultiple(this.vqStrides);
  }

  // Codes of one channel in a coarse frame, scale by scale.
  get codesPerCoarseFrame() {
    return this.vqStrides.map((stride) => this.coarseStride / stride);
  }

  // Bits of a coarse frame's codes, all channels and scales.
  get bitsPerCoarseFrame() {
    return this.channels * sum(this.codesPerCoarseFrame) * this.bitsPerCode;
  }

  // Bit rate of the codes, without the stream's own bytes.
  get bitsPerSecond() {
    return (this.bitsPerCoarseFrame * this.samplingRate) / (this.coarseStride * this.hopLength);
  }

  // Frames that code `samples` samples of one channel at the original rate, padding included.
  numFrames(samples) {
    const [, above] = this.#atCodecRate(samples);
    const multiple = BigInt(this.hopLength * this.frameMultiple);
    return Number((above + multiple - 1n) / multiple) * this.frameMultiple;
  }

  // Whole samples of one channel at the original rate that `frames` frames last.
  numSamples(frames) {
    return Number((BigInt(frames) * BigInt(this.hopLength) * BigInt(this.originalRate)) / BigInt(this.samplingRate));
  }

  // Whether `samples` samples at the original rate can have been coded as `frames` frames, however they were resampled.
  fits(frames, samples) {
    if (frames % this.frameMultiple) return false;
    const coded = BigInt(frames) * BigInt(this.hopLength);
    const [below, above] = this.#atCodecRate(samples);
    const shortest = samples && !below ? 1n : below;
    return shortest <= coded && coded < above + BigInt(this.frameMultiple * this.hopLength);
  }

  // So many samples at the codec's rate, rounded down and up.
  #atCodecRate(samples) {
    const [scaled, rate] = [BigInt(samples) * BigInt(this.samplingRate), BigInt(this.originalRate)];
    return [scaled / rate, (scaled + rate - 1n) / rate];
  }

  // The header record, its checksum included.
  toBytes() {
    const name = new TextEncoder().encode(this.modelName);
    const body = [
      ...MAGIC,
      FORMAT_VERSION,
      PAYLOAD_FIXED_WIDTH,
      this.channels,
      ...bigEndian(this.samplingRate, 3),
      ...bigEndian(this.originalRate, 3),
      ...bigEndian(this.hopLength, 2),
      ...bigEndian(this.codebookSize - 1, 2),
      this.frameMultiple / this.coarseStride,
      this.vqStrides.length,
      ...this.vqStrides,
      ...this.weightsHash.match(/../g).map((digits) => parseInt(digits, 16)),
      name.length,
      ...name,
    ];
    return Uint8Array.from([...body, ...bigEndian(crc32(body), 4)]);
  }
}

// Take the header from the start of a stream; a generator, as ByteSource's are.
export function* readHeader(source) {
  try {
    yield* checkMagic(source);
    const [version] = yield* source.take(1, "the header");
    checkVersion(version);
    return yield* readFields(source);
  } catch (error) {
    if (!(error instanceof DamagedStreamError)) throw error;
    const advice = "without its header nothing of a stream can be decoded: fetch or encode it again";
    throw new error.constructor(error.problem, advice);
  }
}

function* readFields(source) {
  const fixed = yield* source.take(FIXED_BYTES, "the header");
  const strides = yield* source.take(fixed[FIXED_BYTES - 1], "the header");
  const hash = yield* source.take(HASH_BYTES, "the header");
  const [length] = yield* source.take(1, "the header");
  const name = yield* source.take(length, "the header");
  yield* checkChecksum(source);
  if (fixed[0] !== PAYLOAD_FIXED_WIDTH)
    throw new UnsupportedFormatError(
      `payload type: expected ${PAYLOAD_FIXED_WIDTH}, got ${fixed[0]}, which needs a newer opensnac`,
    );
  try {
    return new Header({
      modelName: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(name),
      weightsHash: Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join(""),
      samplingRate: number(fixed.subarray(2, 5)),
      originalRate: number(fixed.subarray(5, 8)),
      channels: fixed[1],
      hopLength: number(fixed.subarray(8, 10)),
      vqStrides: strides,
      codebookSize: number(fixed.subarray(10, 12)) + 1,
      frameMultiple: fixed[12] * leastCommonMultiple(strides),
    });
  } catch (error) {
    throw new CorruptStreamError(`the header has an invalid value: ${error.message}`);
  }
}

function* checkMagic(source) {
  const magic = yield* source.takeUpTo(MAGIC.length);
  if (!magic.length) throw new NotSnacError("expected a .snac stream, got an empty input (0 bytes)");
  if (!magic.every((byte, index) => byte === MAGIC[index])) {
    const text = String.fromCharCode(...magic);
    const [, kind] = FOREIGN.find(([start]) => text.startsWith(start)) ?? [];
    const looks = kind ? `, apparently ${kind}: encode it first` : "";
    throw new NotSnacError(`expected a .snac stream, which starts with "SNAC", got ${JSON.stringify(text)}${looks}`);
  }
  if (magic.length < MAGIC.length)
    throw new TruncatedStreamError(`the stream ends at byte ${magic.length}, inside the header`);
}

function checkVersion(version) {
  if (version > FORMAT_VERSION)
    throw new UnsupportedFormatError(
      `format version: expected ${FORMAT_VERSION}, got ${version}; install a newer opensnac (or fetch the file ` +
        "again, if that byte is damaged)",
    );
  if (version < FORMAT_VERSION)
    throw new CorruptStreamError(`format version: expected ${FORMAT_VERSION}, got ${version}, which never existed`);
}

function* checkChecksum(source) {
  const computed = source.crc32;
  const stored = number(yield* source.take(4, "the header"));
  if (stored !== computed)
    throw new CorruptStreamError(
      `the header (bytes 0 to ${source.position - 1}) is corrupt: expected the checksum ${hex(computed, 8)} of its ` +
        `content, got ${hex(stored, 8)}`,
    );
}

function checkName(name) {
  const size = new TextEncoder().encode(name).length;
  if (typeof name !== "string" || size < 1 || size > 255)
    throw new HeaderError(`modelName: expected 1 to 255 bytes of UTF-8, got ${size}`);
  if (CONTROL.test(name))
    throw new HeaderError(`modelName: expected no control characters, got ${JSON.stringify(name)}`);
}

function checkRange(field, value, low, high) {
  if (!Number.isInteger(value) || value < low || value > high)
    throw new HeaderError(`${field}: expected an integer from ${low} to ${high}, got ${value}`);
}

// The number that big-endian bytes make.
export function number(bytes) {
  return bytes.reduce((value, byte) => value * 256 + byte, 0);
}

export function bigEndian(value, size) {
  return Array.from({ length: size }, (_, index) => Math.floor(value / 256 ** (size - 1 - index)) % 256);
}

export function hex(value, digits) {
  return value.toString(16).padStart(digits, "0");
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function leastCommonMultiple(values) {
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  return values.reduce((multiple, value) => (value ? (multiple / divisor(multiple, value)) * value : 0), 1);
}
