// Compiled, never run: what a user of the package may write, and what the declarations must refuse.
import { Codec, Header, Reader, TruncatedStreamError, Writer, read, resample, write } from "../../web/src/index.js";

export async function speak(samples: Float32Array, bytes: Uint8Array): Promise<number> {
  const codec = await Codec.open({ model: "model", runtime: "ort", threads: 2 });
  const file: Uint8Array = await codec.encode([samples, samples], { originalRate: 44100, numSamples: 9 });
  const { channels, damage } = await codec.decode(file, { salvage: true, seed: 3n, onsamples: ([left]) => left.length });
  const encoder = codec.encoder();
  const decoder = codec.decoder({ channels: 1, noise: 0 });
  const codes = await encoder.push(resample(samples, 48000, codec.samplingRate));
  const writer = new Writer(codec.header(), { coarseFramesPerPacket: 1 });
  const parts = [writer.write(codes), writer.flush(), writer.close(5)];
  const [heard] = await decoder.push([[[1]], [[1, 2]], [[1, 2, 3, 4]]]);
  const reader = new Reader();
  for (const [coarse] of reader.push(bytes)) console.log(coarse[0].length, reader.header?.bitsPerSecond);
  if (damage instanceof TruncatedStreamError) console.log(damage.problem);
  return channels.length + parts.length + heard.length + read(bytes).codes[0][0][0];
}

// @ts-expect-error a header has more fields
new Header({ modelName: "x" });
// @ts-expect-error no such device
void Codec.open({ model: "model", runtime: "ort", device: "tpu" });
// @ts-expect-error codes are numbers
write(null as unknown as Header, [[["a"]]], 0);
// @ts-expect-error a codec is opened
new Codec();
