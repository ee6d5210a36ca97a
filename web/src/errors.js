// The errors of bad input, named as in the Python package.

export class OpensnacError extends Error {
  get name() {
    return this.constructor.name;
  }
}

export class AudioError extends OpensnacError {} // audio of the wrong shape, type or content
export class CodesError extends OpensnacError {} // codes that do not fit the model or the header
export class ModelError extends OpensnacError {} // a model that cannot be fetched or is not one of opensnac's
export class ModelMismatchError extends ModelError {} // a file was encoded by a different model
export class BitstreamError extends OpensnacError {} // a .snac stream that cannot be read or written
export class HeaderError extends BitstreamError {} // a value that a header cannot hold
export class NotSnacError extends BitstreamError {} // not a .snac stream, or empty
export class UnsupportedFormatError extends BitstreamError {} // an intact stream of a newer format

// Part of a stream is missing or changed: `problem` says what is wrong, `advice` what can be done.
export class DamagedStreamError extends BitstreamError {
  constructor(problem, advice = "") {
    super(advice ? `${problem}; ${advice}` : problem);
    this.problem = problem;
    this.advice = advice;
  }
}

export class TruncatedStreamError extends DamagedStreamError {} // the stream ends before its end record does
export class CorruptStreamError extends DamagedStreamError {} // bytes contradict each other, or follow the end
