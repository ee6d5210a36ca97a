// The errors of bad input, named as in the Python package.

export class OpensnacError extends Error {}
export class AudioError extends OpensnacError {}
export class CodesError extends OpensnacError {}
export class ModelError extends OpensnacError {}
export class ModelMismatchError extends ModelError {}
export class BitstreamError extends OpensnacError {}
export class HeaderError extends BitstreamError {}
export class NotSnacError extends BitstreamError {}
export class UnsupportedFormatError extends BitstreamError {}

export class DamagedStreamError extends BitstreamError {
  constructor(problem: string, advice?: string);
  /** What is wrong, and where. */
  readonly problem: string;
  /** What can be done. */
  readonly advice: string;
}

export class TruncatedStreamError extends DamagedStreamError {}
export class CorruptStreamError extends DamagedStreamError {}
