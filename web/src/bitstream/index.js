// The .snac stream: codes <-> bytes, without a model. docs/bitstream.md defines it.

export { FORMAT_VERSION, Header } from "./header.js";
export { Reader, read } from "./reader.js";
export { Writer, write } from "./writer.js";
