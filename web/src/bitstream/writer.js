// Codes -> .snac stream, packet by packet.

import { BitstreamError, CodesError } from "../errors.js";
import { crc16, crc32 } from "./checksums.js";
import { bigEndian, number } from "./header.js";
import {
  CHECKSUM_BYTES,
  END_OF_STREAM,
  MAX_COARSE_FRAMES,
  NUM_SAMPLES_BYTES,
  countCoarseFrames,
  joinCodes,
  pack,
} from "./packets.js";

//   const writer = new Writer(header, { coarseFramesPerPacket: 1 });
//   send(writer.write(codes)); send(writer.flush()); send(writer.close(numSamples));
//
// Every call gives the bytes that are next in the stream, a Uint8Array; the first begins with the header.
export class Writer {
  numFrames = 0; // written, those that wait for a full packet not counted
  numBytes = 0;
  #header;
  #perPacket;
  #pending; // codes that wait
  #waiting = 0; // coarse frames of them
  #crc32 = 0;
  #preceding;
  #begun = false;
  #closed = false;

  constructor(header, { coarseFramesPerPacket = 64 } = {}) {
    if (!(coarseFramesPerPacket >= 1 && coarseFramesPerPacket <= MAX_COARSE_FRAMES))
      throw new BitstreamError(`coarseFramesPerPacket: expected 1 to ${MAX_COARSE_FRAMES}, got ${coarseFramesPerPacket}`);
    this.#header = header;
    this.#perPacket = coarseFramesPerPacket;
    this.#pending = joinCodes([], 0, header);
  }

  // Append codes, an array of scales of channels of whole numbers, whole coarse frames. CodesError if they do not fit.
  write(codes) {
    this.#requireOpen();
    const coming = countCoarseFrames(codes, this.#header);
    const added = codes.map((scale) => scale.map((channel) => Uint16Array.from(channel)));
    const frames = (this.#waiting + coming) * this.#header.coarseStride;
    this.#pending = joinCodes([this.#pending, added], frames, this.#header);
    this.#waiting += coming;
    return this.#take(this.#waiting - (this.#waiting % this.#perPacket));
  }

  // What waits for a full packet, as a packet of its own.
  flush() {
    this.#requireOpen();
    return this.#take(this.#waiting);
  }

  // The rest and the end record. CodesError if the codes cannot be those of so many samples at the original rate.
  close(numSamples) {
    this.#requireOpen();
    const frames = this.numFrames + this.#waiting * this.#header.coarseStride;
    const counted = Number.isInteger(numSamples) && numSamples >= 0 && numSamples < 256 ** NUM_SAMPLES_BYTES;
    if (!counted || !this.#header.fits(frames, numSamples))
      throw new CodesError(
        counted
          ? `close: expected ${this.#header.numFrames(numSamples)} frames for ${numSamples} samples at ` +
              `${this.#header.originalRate} Hz, got ${frames}`
          : `close: expected a whole number of samples, got ${numSamples}`,
      );
    const rest = this.#take(this.#waiting);
    const end = this.#put([END_OF_STREAM, ...bigEndian(numSamples, NUM_SAMPLES_BYTES)]);
    this.#closed = true;
    return joined([rest, end, this.#put(bigEndian(this.#crc32, 4))]);
  }

  #requireOpen() {
    if (this.#closed) throw new BitstreamError("the stream is closed; start another Writer for another recording");
  }

  // The header, if it was not given yet, and the first `stop` coarse frames that wait, as packets.
  #take(stop) {
    const parts = [];
    if (!this.#begun) parts.push(this.#put(this.#header.toBytes()));
    this.#begun = true;
    for (let start = 0; start < stop; start += this.#perPacket)
      parts.push(this.#packet(start, Math.min(start + this.#perPacket, stop)));
    const counts = this.#header.codesPerCoarseFrame;
    this.#pending = this.#pending.map((scale, index) => scale.map((channel) => channel.slice(stop * counts[index])));
    this.#waiting -= stop;
    this.numFrames += stop * this.#header.coarseStride;
    return joined(parts);
  }

  #packet(start, stop) {
    const body = joined([Uint8Array.of(stop - start), pack(this.#pending, start, stop, this.#header)]);
    return this.#put([...body, ...bigEndian(crc16(body, this.#preceding), CHECKSUM_BYTES)]);
  }

  #put(bytes) {
    this.#crc32 = crc32(bytes, this.#crc32);
    this.#preceding = number(bytes.slice(-CHECKSUM_BYTES));
    this.numBytes += bytes.length;
    return Uint8Array.from(bytes);
  }
}

// A whole recording as the bytes of a .snac file.
export function write(header, codes, numSamples, options) {
  const writer = new Writer(header, options);
  return joined([writer.write(codes), writer.close(numSamples)]);
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let filled = 0;
  for (const part of parts) {
    bytes.set(part, filled);
    filled += part.length;
  }
  return bytes;
}
