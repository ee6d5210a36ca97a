// Answers, line by line as JSON, what the JavaScript reader and writer make of a list of calls that a test sends.
import { createInterface } from "node:readline";
import { Header, Reader, Writer, read, write } from "../../web/src/bitstream/index.js";

const bytesOf = (text) => new Uint8Array(Buffer.from(text, "base64"));
const textOf = (bytes) => Buffer.from(bytes).toString("base64");
const plain = (codes) => // of each scale, the bytes of its channels' codes
  codes.map((scale) => textOf(Buffer.concat(scale.map(({ buffer, byteOffset, byteLength }) =>
    new Uint8Array(buffer, byteOffset, byteLength)))));

const calls = {
  // A whole stream at once, as `read` gives it.
  read({ data, salvage }) {
    const { header, codes, damage, ...counts } = read(bytesOf(data), { salvage });
    return { header, codes: plain(codes), damage: damage && { kind: damage.name, problem: damage.problem }, ...counts };
  },
  // The same in pieces: packets as they come, and then what is known.
  stream({ data, size }) {
    const bytes = bytesOf(data);
    const reader = new Reader();
    const packets = [];
    let failure = null;
    try {
      for (let at = 0; at < bytes.length; at += size)
        for (const codes of reader.push(bytes.subarray(at, at + size))) packets.push(plain(codes));
      for (const codes of reader.finish()) packets.push(plain(codes));
    } catch (error) {
      failure = { kind: error.name, problem: error.problem ?? error.message };
    }
    const { numFrames, numPackets, numSamples, numBytes, usableFrames, usableSamples } = reader;
    return { packets, failure, numFrames, numPackets, numSamples, numBytes, usableFrames, usableSamples };
  },
  // One stream from pieces of codes, flushed after each if asked.
  write({ header, pieces, numSamples, coarseFramesPerPacket, flush }) {
    const writer = new Writer(new Header(header), { coarseFramesPerPacket });
    const parts = [];
    for (const codes of pieces) {
      parts.push(writer.write(codes));
      if (flush) parts.push(writer.flush());
    }
    parts.push(writer.close(numSamples));
    return { data: textOf(Buffer.concat(parts)), numBytes: writer.numBytes };
  },
  whole({ header, codes, numSamples }) {
    return { data: textOf(write(new Header(header), codes, numSamples)) };
  },
};

function answer({ call, ...given }) {
  try {
    return calls[call](given);
  } catch (error) {
    return { error: error.name, problem: error.problem ?? error.message };
  }
}

for await (const line of createInterface({ input: process.stdin }))
  process.stdout.write(JSON.stringify(JSON.parse(line).map(answer)) + "\n");
