"""The errors opensnac raises for bad input: every message says what came, what was needed and what to do."""


class OpensnacError(Exception):
    """Base of every error that opensnac raises on purpose."""


class ConfigError(OpensnacError, ValueError):
    """A configuration has an unknown key or an impossible value."""


class AudioError(OpensnacError, ValueError):
    """Audio of the wrong shape, type or content, or an audio file that cannot be read or written."""


class CodesError(OpensnacError, ValueError):
    """Codes that do not fit the model: wrong number of scales, lengths, type or range."""


class ModelError(OpensnacError):
    """A model cannot be found, or its weights do not fit its configuration."""


class ModelMismatchError(ModelError):
    """A file was coded by another model than the one that shall decode it."""


class BitstreamError(OpensnacError):
    """Bytes that are no intact `.snac` stream."""
