"""The errors opensnac raises for bad input: every message says what was expected, what came instead, and what to do."""


class OpensnacError(Exception):
    """Base of every error that opensnac raises on purpose."""


class ConfigError(OpensnacError, ValueError):
    """A configuration has an unknown key or an impossible value."""


class AudioError(OpensnacError, ValueError):
    """Audio of the wrong shape, type or content, or an audio file that cannot be read or written."""


class CodesError(OpensnacError, ValueError):
    """Codes that do not fit the model: wrong number of scales, lengths, type or range."""


class TensorError(OpensnacError, ValueError):
    """A tensor of the wrong type, device or shape for a kernel."""


class ModelError(OpensnacError):
    """A model cannot be found, or its weights do not fit its configuration."""


class LimitError(OpensnacError):
    """Valid input that is larger, longer or slower than a limit allows."""


class BackendError(OpensnacError):
    """An engine cannot be created here: no such backend, type or device."""


class ModelMismatchError(ModelError):
    """A file was encoded by a different model from the one decoding it."""


class BitstreamError(OpensnacError):
    """A `.snac` stream that cannot be read or written."""


class HeaderError(BitstreamError, ValueError):
    """A value that the header of a `.snac` stream cannot hold."""


class NotSnacError(BitstreamError):
    """The bytes are not a `.snac` stream, or there are none."""


class UnsupportedFormatError(BitstreamError):
    """An intact stream in a newer format than this version reads."""


class DamagedStreamError(BitstreamError):
    """Part of a stream is missing or changed: `problem` says what is wrong, `advice` what can be done."""

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(problem, advice)
        self.problem = problem
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.problem}; {self.advice}" if self.advice else self.problem


class TruncatedStreamError(DamagedStreamError):
    """The stream ends before its end record is complete."""


class CorruptStreamError(DamagedStreamError):
    """Bytes of the stream contradict each other or a checksum, or follow its end."""
