// The two checksums of a .snac stream, over bytes that come in pieces.

const CRC32 = table((index) => {
  let crc = index;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc >>> 0;
});

const CRC16 = table((index) => {
  let crc = index << 8;
  for (let bit = 0; bit < 8; bit++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  return crc;
});

function table(entry) {
  return Uint32Array.from({ length: 256 }, (_, index) => entry(index));
}

// CRC-32 of zlib, gzip and PNG; `crc` is that of the bytes before.
export function crc32(bytes, crc = 0) {
  crc = ~crc;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC32[(crc ^ byte) & 0xff];
  return ~crc >>> 0;
}

// CRC-16 of polynomial 1021 (XMODEM), begun from `crc`.
export function crc16(bytes, crc) {
  for (const byte of bytes) crc = ((crc << 8) & 0xffff) ^ CRC16[(crc >>> 8) ^ byte];
  return crc;
}
