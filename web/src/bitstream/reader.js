// .snac stream -> codes, packet by packet, as its bytes come.

import { CorruptStreamError, DamagedStreamError, TruncatedStreamError } from "../errors.js";
import { crc16 } from "./checksums.js";
import { hex, number, readHeader } from "./header.js";
import { CHECKSUM_BYTES, END_OF_STREAM, NUM_SAMPLES_BYTES, joinCodes, payloadBytes, unpack } from "./packets.js";
import { ByteSource } from "./source.js";

const PIECE = 65536; // bytes after the end that are counted

//   const reader = new Reader();
//   for await (const bytes of response.body) for (const codes of reader.push(bytes)) ...
//   for (const codes of reader.finish()) ...
//
// Each packet's codes come as soon as it has; a packet is an array of scales of channels of Uint16Arrays. `header` is
// null until it has come. `numFrames`, `numPackets` and `numBytes` count what was read so far; `numSamples` is null
// before the end record was read. `finish` that gives no error has seen the whole stream intact.
export class Reader {
  header = null;
  numFrames = 0;
  numPackets = 0;
  numSamples = null;
  #source = new ByteSource();
  #steps = this.#read();
  #failure = null;

  *push(bytes) {
    this.#source.add(bytes);
    yield* this.#advance();
  }

  *finish() {
    this.#source.end();
    yield* this.#advance();
  }

  get numBytes() {
    return this.#source.position;
  }

  // Frames read so far, cut to a multiple of the header's: what a model can decode.
  get usableFrames() {
    return this.header ? this.numFrames - (this.numFrames % this.header.frameMultiple) : 0;
  }

  // Samples of one channel, at the original rate, of the usable frames; exact at the end.
  get usableSamples() {
    return this.numSamples ?? this.header?.numSamples(this.usableFrames) ?? 0;
  }

  *#advance() {
    if (this.#failure) throw this.#failure;
    try {
      for (let step = this.#steps.next(); !step.done && step.value; step = this.#steps.next()) yield step.value;
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  *#read() {
    this.header = yield* readHeader(this.#source);
    let preceding = number(this.header.toBytes().subarray(-CHECKSUM_BYTES));
    try {
      for (;;) {
        const coarseFrames = yield* this.#takeCount();
        if (coarseFrames === END_OF_STREAM) break;
        const start = this.#source.position - 1;
        const payload = yield* this.#source.take(payloadBytes(coarseFrames, this.header), this.#packetName);
        preceding = yield* this.#takeChecksum(payload, crc16(payload, crc16([coarseFrames], preceding)), start);
        yield this.#accept(payload, coarseFrames, start + 1);
      }
      yield* this.#takeEndRecord();
      yield* this.#requireNothingMore();
    } catch (error) {
      if (!(error instanceof DamagedStreamError)) throw error;
      throw new error.constructor(error.problem, this.#advice());
    }
  }

  *#takeCount() {
    const count = yield* this.#source.takeUpTo(1);
    if (count.length) return count[0];
    const where = this.numPackets ? `after packet ${this.numPackets}` : "after the header";
    throw new TruncatedStreamError(`the stream ends at byte ${this.numBytes}, ${where}, without end record`);
  }

  *#takeChecksum(payload, computed, start) {
    const stored = number(yield* this.#source.take(CHECKSUM_BYTES, this.#packetName));
    if (stored === computed) return stored;
    throw new CorruptStreamError(
      `${this.#packetName} (bytes ${start} to ${this.numBytes - 1}) is corrupt, or one before it is missing: expected ` +
        `the checksum ${hex(computed, 4)} of its content, got ${hex(stored, 4)}`,
    );
  }

  #accept(payload, coarseFrames, start) {
    let codes;
    try {
      codes = unpack(payload, coarseFrames, this.header);
    } catch (error) {
      throw new CorruptStreamError(`${this.#packetName}, payload at byte ${start}: ${error.problem}`);
    }
    this.numPackets += 1;
    this.numFrames += coarseFrames * this.header.coarseStride;
    return codes;
  }

  *#takeEndRecord() {
    const start = this.numBytes - 1;
    const samples = number(yield* this.#source.take(NUM_SAMPLES_BYTES, "the end record"));
    const computed = this.#source.crc32;
    const stored = number(yield* this.#source.take(4, "the end record"));
    if (stored !== computed)
      throw new CorruptStreamError(
        `the end record at byte ${start} does not match the stream: expected the checksum ${hex(computed, 8)} of the ` +
          `bytes before it, got ${hex(stored, 8)}`,
      );
    if (!this.header.fits(this.numFrames, samples))
      throw new CorruptStreamError(
        `the end record at byte ${start} declares ${samples} samples at ${this.header.originalRate} Hz: expected ` +
          `${this.header.numFrames(samples)} frames, got ${this.numFrames}`,
      );
    this.numSamples = samples;
  }

  *#requireNothingMore() {
    const end = this.numBytes;
    const { length: more } = yield* this.#source.takeUpTo(PIECE);
    if (!more) return;
    const count = more === 1 ? "1 byte follows" : `${more}${more === PIECE ? " or more" : ""} bytes follow`;
    throw new CorruptStreamError(`${count} the end of the stream at byte ${end}`);
  }

  get #packetName() {
    return `packet ${this.numPackets + 1}`;
  }

  #advice() {
    if (!this.usableFrames) return "nothing before the damage can be decoded: fetch or encode it again";
    const seconds = (this.usableSamples / this.header.originalRate).toFixed(1);
    return `read with salvage to keep the first ${seconds} s`;
  }
}

// Read a whole stream, of which every byte must be intact: {header, codes, numSamples, numFrames, numPackets, numBytes,
// damage}. With `salvage` a damaged one gives what precedes the damage, cut to whole frame multiples, and the error as
// `damage`; the error is thrown where nothing can be kept.
export function read(bytes, { salvage = false } = {}) {
  const reader = new Reader();
  const packets = [];
  let damage = null;
  try {
    for (const codes of reader.push(bytes)) packets.push(codes);
    for (const codes of reader.finish()) packets.push(codes);
  } catch (error) {
    if (!(salvage && error instanceof DamagedStreamError && reader.usableFrames)) throw error;
    damage = error;
  }
  const { header, usableFrames: numFrames, usableSamples: numSamples, numPackets, numBytes } = reader;
  return { header, codes: joinCodes(packets, numFrames, header), numSamples, numFrames, numPackets, numBytes, damage };
}
