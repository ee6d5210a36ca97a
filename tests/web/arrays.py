"""NumPy arrays to and from a page's typed arrays, as base64 of their bytes."""

import base64

import numpy as np

SCRIPT = """
  window.bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  window.floats = (text) => new Float32Array(bytes(text).buffer);
  window.packed = (numbers) => {
    const raw = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
    return btoa(Array.from(raw, (one) => String.fromCharCode(one)).join(""));
  };
"""


def packed(values: np.ndarray | bytes) -> str:
    """For `floats` in the page, or `bytes`."""
    raw = values if isinstance(values, bytes) else values.astype("<f4").tobytes()
    return base64.b64encode(raw).decode()


def unpacked(text: str, kind: str = "<f4") -> np.ndarray:
    """What `packed` in the page gave."""
    return np.frombuffer(base64.b64decode(text), kind)
