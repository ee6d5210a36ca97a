// Exact reads of bytes that come in pieces of any size, counted and checksummed on the way.

import { TruncatedStreamError } from "../errors.js";
import { crc32 } from "./checksums.js";

// `takeUpTo` and `take` are generators that yield null as long as they wait for more bytes: memory follows what came,
// not what a length promises.
export class ByteSource {
  position = 0; // bytes taken so far
  crc32 = 0; // and their checksum
  #pieces = [];
  #waiting = 0; // bytes in the pieces
  #ended = false;

  add(bytes) {
    if (bytes.length) this.#pieces.push(bytes.slice()); // a caller may use its buffer again
    this.#waiting += bytes.length;
  }

  end() {
    this.#ended = true;
  }

  // The next `count` bytes, which are `part` of the stream; TruncatedStreamError if it ends before.
  *take(count, part) {
    const bytes = yield* this.takeUpTo(count);
    if (bytes.length === count) return bytes;
    throw new TruncatedStreamError(
      `the stream ends at byte ${this.position}, inside ${part}: expected at least ${count - bytes.length} more`,
    );
  }

  // The next `count` bytes, or fewer where the stream ends.
  *takeUpTo(count) {
    while (this.#waiting < count && !this.#ended) yield null;
    const bytes = new Uint8Array(Math.min(count, this.#waiting));
    for (let filled = 0; filled < bytes.length; ) {
      const part = this.#pieces[0].subarray(0, bytes.length - filled);
      bytes.set(part, filled);
      filled += part.length;
      if (part.length === this.#pieces[0].length) this.#pieces.shift();
      else this.#pieces[0] = this.#pieces[0].subarray(part.length);
    }
    this.#waiting -= bytes.length;
    this.position += bytes.length;
    this.crc32 = crc32(bytes, this.crc32);
    return bytes;
  }
}
