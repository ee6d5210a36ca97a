// SNAC in the browser: .snac files, and a codec that encodes and decodes as streams.

export * from "./bitstream/index.js";
export { Codec } from "./codec.js";
export * from "./errors.js";
export { resample, Resampler } from "../components/resampler.js";
