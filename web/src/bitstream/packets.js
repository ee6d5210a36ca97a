// Codes <-> bits of a packet: for each coarse frame, each channel, each scale, in order of time; highest bit first.
//
// Codes are an array of scales, coarse to fine, of arrays of channels, of whole numbers.

import { CodesError, CorruptStreamError } from "../errors.js";

export const MAX_COARSE_FRAMES = 255; // of one packet: their number is one byte
export const END_OF_STREAM = 0; // stands where a packet has its number of coarse frames
export const NUM_SAMPLES_BYTES = 5;
export const CHECKSUM_BYTES = 2;

// Bytes of this many coarse frames' codes.
export function payloadBytes(coarseFrames, header) {
  return Math.ceil((coarseFrames * header.bitsPerCoarseFrame) / 8);
}

// Coarse frames that all scales and channels of `codes` agree on; CodesError where they do not fit the header.
export function countCoarseFrames(codes, header) {
  const each = header.codesPerCoarseFrame;
  if (codes.length !== each.length)
    throw new CodesError(`codes: expected ${each.length} scales, got ${codes.length}`);
  codes.forEach((scale, index) => checkScale(scale, index, header));
  const lengths = codes.map((scale) => scale[0].length);
  const coarseFrames = Math.floor(lengths[0] / each[0]);
  if (lengths.some((length, index) => length !== coarseFrames * each[index]))
    throw new CodesError(
      `codes: expected whole coarse frames, a common multiple of [${each.join(", ")}] codes per channel, ` +
        `got [${lengths.join(", ")}]`,
    );
  return coarseFrames;
}

function checkScale(scale, index, header) {
  if (scale.length !== header.channels || scale.some((channel) => channel.length !== scale[0].length))
    throw new CodesError(`codes of scale ${index}: expected ${header.channels} channels of one length, got ${scale.length}`);
  for (const channel of scale) {
    for (const code of channel) {
      if (!Number.isInteger(code) || code < 0 || code >= header.codebookSize)
        throw new CodesError(
          `codes of scale ${index}: expected 0 to ${header.codebookSize - 1}, got ${code}: are they from this model?`,
        );
    }
  }
}

// Coarse frames `start` to `stop` of the codes as bits, zero bits up to a whole byte.
export function pack(codes, start, stop, header) {
  const bytes = new Uint8Array(payloadBytes(stop - start, header));
  const width = header.bitsPerCode;
  let [at, held, bits] = [0, 0, 0]; // bytes written; bits that wait, and how many
  forEachCode(start, stop, header, (scale, channel, place) => {
    held = (held << width) | codes[scale][channel][place]; // never more than 7 + 16 bits
    for (bits += width; bits >= 8; bits -= 8) bytes[at++] = held >>> (bits - 8);
    held &= (1 << bits) - 1;
  });
  if (bits) bytes[at] = held << (8 - bits);
  return bytes;
}

// The inverse of `pack`. CorruptStreamError for a code out of range or padding bits that are not zero.
export function unpack(payload, coarseFrames, header) {
  const width = header.bitsPerCode;
  const codes = header.codesPerCoarseFrame.map((count) =>
    Array.from({ length: header.channels }, () => new Uint16Array(coarseFrames * count)),
  );
  let [at, held, bits, largest] = [0, 0, 0, 0];
  const padding = 8 * payload.length - coarseFrames * header.bitsPerCoarseFrame;
  const last = payload[payload.length - 1] & ((1 << padding) - 1);
  if (last) {
    const digits = last.toString(2).padStart(padding, "0");
    throw new CorruptStreamError(`expected zero padding bits, got [${[...digits].join(", ")}]`);
  }
  forEachCode(0, coarseFrames, header, (scale, channel, place) => {
    for (; bits < width; bits += 8) held = (held << 8) | payload[at++];
    bits -= width;
    const code = held >>> bits;
    held &= (1 << bits) - 1;
    largest = Math.max(largest, code);
    codes[scale][channel][place] = code;
  });
  if (largest >= header.codebookSize)
    throw new CorruptStreamError(`expected codes of 0 to ${header.codebookSize - 1}, got ${largest}`);
  return codes;
}

// Where each code of a packet stands, in the stream's order.
function forEachCode(start, stop, header, visit) {
  const counts = header.codesPerCoarseFrame;
  for (let frame = start; frame < stop; frame++)
    for (let channel = 0; channel < header.channels; channel++)
      counts.forEach((count, scale) => {
        for (let place = frame * count; place < (frame + 1) * count; place++) visit(scale, channel, place);
      });
}

// Packets' codes end to end, scale by scale and channel by channel, cut to `frames` frames.
export function joinCodes(packets, frames, header) {
  return header.vqStrides.map((stride, scale) =>
    Array.from({ length: header.channels }, (_, channel) => {
      const joined = new Uint16Array(frames / stride);
      let filled = 0;
      for (const packet of packets) {
        const part = packet[scale][channel].subarray(0, joined.length - filled);
        joined.set(part, filled);
        filled += part.length;
      }
      return joined;
    }),
  );
}
