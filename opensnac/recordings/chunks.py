"""WAV, RF64, AIFF, Wave64, CAF and AU: containers with the samples in one chunk that declares its size."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from opensnac.recordings.containers import Found
from opensnac.recordings.views import Bytes, View

W64_GUID = bytes.fromhex("2e91cf11a5d628db04c10000")  # end of the first chunk's name in Wave64
LONGEST_NAME = 16
WRAPPED = 1 << 32  # where 32-bit sizes wrap around


@dataclass(frozen=True)
class _Form:
    """A container's chunk layout: name, then size, from byte `first` on."""

    kind: str
    magic: bytes
    first: int
    data: bytes  # name of the samples' chunk
    size: str = "<I"  # struct format
    align: int = 2
    preamble: int = 0  # bytes of the chunk before the samples
    size_holds_header: bool = False
    outer_at: int | None = 4  # position of the size of the whole
    type_at: int = 8

    @property
    def header(self) -> int:
        """Bytes before a chunk's content."""
        return len(self.data) + struct.calcsize(self.size)


_FORMS = (
    _Form("WAV", b"RIFF", 12, b"data"),
    _Form("WAV", b"RF64", 12, b"data"),
    _Form("WAV", b"BW64", 12, b"data"),
    _Form("WAV", b"RIFX", 12, b"data", size=">I"),
    _Form("AIFF", b"FORM", 12, b"SSND", size=">I", preamble=8),
    _Form("W64", b"riff" + W64_GUID, 40, b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a"), "<Q", 8, 0, True, 16),
    _Form("CAF", b"caff", 8, b"data", size=">q", align=1, preamble=4, outer_at=None),
)
_WAVE_KINDS = {"WAV": (b"WAVE",), "AIFF": (b"AIFF", b"AIFC")}
MAGICS = (*(form.magic for form in _FORMS), b".snd")
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class _Samples:
    """Where the samples begin, how many bytes of them are declared, and where that size is."""

    start: int
    promised: int
    size_at: int
    outer_end: int | None  # end of the whole according to its header


def examine(content: Bytes, start: int) -> Found:
    """Find the samples' chunk and compare its declared size with the bytes present."""
    if content.at(start, 4) == b".snd":
        return _examine_au(content, start)
    form = next(form for form in _FORMS if content.at(start, LONGEST_NAME).startswith(form.magic))
    kinds = _WAVE_KINDS.get(form.kind)
    if kinds and content.at(start + form.type_at, 4) not in kinds:
        return Found("", [View(content, start)])  # such as AVI
    samples, ds64 = _find_samples(content, form, start)
    if samples is None:
        return Found(form.kind, [View(content, start)])
    return _HeaderRepair(content, form, start, samples, ds64).found()


def _find_samples(content: Bytes, form: _Form, start: int) -> tuple[_Samples | None, int | None]:
    """The samples' chunk, and the position of an RF64 file's 64-bit sizes."""
    outer_end, ds64, long_size = None, None, None
    if form.outer_at is not None:
        outer = _number(content, start + form.outer_at, form.size)
        outer_end = start + outer + (0 if form.size_holds_header else 8)
    position = start + form.first
    while position + form.header <= content.size:
        name = content.at(position, len(form.data))
        size = _number(content, position + len(name), form.size)
        if name == b"ds64":
            ds64 = position + 8
            riff_size, long_size = struct.unpack("<QQ", content.at(ds64, 16).ljust(16, b"\0"))
            outer_end = start + riff_size + 8
        begin = position + form.header
        if name == form.data:
            promised = size - (form.header if form.size_holds_header else 0) - form.preamble
            if long_size is not None and size in (0xFFFFFFFF, 0):
                promised = long_size
            return _Samples(begin + form.preamble, promised, position + len(name), outer_end), ds64
        if (after := _after(form, position, size)) <= position:
            break
        position = after
    return None, ds64


class _HeaderRepair:
    """Compares one container's header with the bytes present, and makes a view with a corrected header."""

    def __init__(self, content: Bytes, form: _Form, start: int, samples: _Samples, ds64: int | None) -> None:
        self.content, self.form, self.start, self.samples, self.ds64 = content, form, start, samples, ds64

    def found(self) -> Found:
        """The samples that are present, with remarks where the header says otherwise."""
        samples, there = self.samples, self.content.size - self.samples.start
        if (wrapped := self._wrapped(there)) is not None:
            what = "its header's 32-bit size wrapped around at 4 GiB; the samples that match it were read"
            return Found(self.form.kind, [self._view(wrapped)], [what])
        if _is_open_end(self.form, samples.promised, there):
            return Found(self.form.kind, [self._view(there)])
        if samples.promised > there:
            return Found(self.form.kind, [self._view(there)], [], samples.promised, there)
        unpadded = samples.start + max(0, samples.promised)
        end = unpadded + -(unpadded - self.start) % self.form.align
        tail = _Tail(self.content, self.form, end)
        if tail.more_samples and not (other := _Tail(self.content, self.form, unpadded)).more_samples:
            tail = other  # from a writer that omits the padding byte after an odd size
        if tail.another is not None:
            what = f"another {self.form.kind} file follows at byte {tail.another} and is not read; split the file there"
            return Found(self.form.kind, [View(self.content, self.start, tail.another)], [what])
        if (tail.more_samples or (tail.zeros and samples.promised <= 0)) and self._was_left_open(end):
            if samples.promised <= 0:
                what = (
                    "its header was never completed, as when a recorder is interrupted; the samples after it were read"
                )
            else:
                what = f"it has {there - samples.promised} bytes more than its header declares, which were read too"
            return Found(self.form.kind, [self._view(there)], [what])
        remarks = ["it has several chunks of samples; only the first was read"] if tail.samples_again else []
        if tail.unknown:
            remarks.append(f"{tail.unknown} bytes at its end are neither samples nor a known chunk; they were skipped")
        return Found(self.form.kind, [View(self.content, self.start)], remarks)

    def _wrapped(self, there: int) -> int | None:
        """Bytes of samples of a WAV beyond 4 GiB whose size wrapped modulo 2^32; None if it did not."""
        if self.form.size != "<I" or self.ds64 is not None or self.samples.promised <= 0 or there < WRAPPED:
            return None
        size = self.samples.promised + (there - self.samples.promised) // WRAPPED * WRAPPED
        outer_end = self.samples.outer_end or 0
        whole = (self.content.size - outer_end) % WRAPPED == 0 or (self.samples.start + size - outer_end) % WRAPPED <= 1
        return size if whole else None

    def _was_left_open(self, end: int) -> bool:
        """Whether no samples are declared, or the size of the whole does not extend beyond them."""
        outer_end = self.samples.outer_end
        return self.samples.promised <= 0 or (outer_end is not None and outer_end <= end + 1)

    def _view(self, there: int) -> View:
        """The same file with a header that declares `there` bytes of samples."""
        form, samples = self.form, self.samples
        stop = samples.start + there
        if self.ds64 is not None:
            sizes = struct.pack("<QQ", stop - self.start - 8, there)
            return View(self.content, self.start, stop, patches={self.ds64: sizes, samples.size_at: b"\xff" * 4})
        size = there + form.preamble + (form.header if form.size_holds_header else 0)
        whole = stop - self.start - (0 if form.size_holds_header else 8)
        if form.size == "<I" and whole > 0xFFFF_FFFF:  # RF64 is WAV with 64-bit sizes
            prefix = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, whole + 36, there, 0, 0)
            return View(self.content, self.start + 12, stop, prefix, {samples.size_at: b"\xff" * 4})
        patches = {samples.size_at: struct.pack(form.size, min(size, _largest(form)))}
        if form.outer_at is not None:
            patches[self.start + form.outer_at] = struct.pack(form.size, min(whole, _largest(form)))
        if form.kind == "AIFF":
            patches |= _aiff_frames(self.content, self.start, there)
        return View(self.content, self.start, stop, patches=patches)


class _Tail:
    """What follows the samples: chunks, tags, zeros, another file, or samples that the header does not declare."""

    def __init__(self, content: Bytes, form: _Form, start: int) -> None:
        self.another: int | None = None
        self.samples_again = self.more_samples = self.zeros = False
        self.unknown = 0
        position = start
        while content.size - position >= form.header:
            name = content.at(position, LONGEST_NAME)
            if name.startswith(form.magic):
                self.another = position
                return
            if name.startswith(TAGS):
                return
            if not any(content.at(position, 4096)):  # padding, or silence at the start of a recording
                self.zeros = position == start
                return
            size = _number(content, position + len(form.data), form.size)
            after = _after(form, position, size)
            if not _is_name(name[:4]) or not position < after <= content.size + form.align:
                self.more_samples = position == start
                self.unknown = content.size - position
                return
            self.samples_again |= name.startswith(form.data)
            position = after


def _is_open_end(form: _Form, promised: int, there: int) -> bool:
    """Whether a size is a placeholder, as from a pipe: the largest value, or nearly."""
    if promised <= there and form.kind != "CAF":
        return form.size == "<I" and there >= WRAPPED and promised >= 0xFFFF_0000 - 64
    if struct.calcsize(form.size) == 8:
        return promised == -1 - form.preamble or promised >= 1 << 61
    return promised >= 0xFFFF_0000 - 64 or 0x7FFF_0000 - 64 <= promised <= 0x8000_0FFF


def _examine_au(content: Bytes, start: int) -> Found:
    offset, promised = struct.unpack(">II", content.at(start + 4, 8).ljust(8, b"\0"))
    there = content.size - start - offset
    mended = View(content, start, patches={start + 8: b"\xff" * 4})
    if promised == 0xFFFF_FFFF or promised == there or there <= 0:
        return Found("AU", [View(content, start)])
    if promised > there:
        return Found("AU", [mended], [], promised, there)
    end = start + offset + promised
    if content.at(end, 4) == b".snd":
        what = f"another AU file follows at byte {end} and is not read; split the file there"
        return Found("AU", [View(content, start, end)], [what])
    what = f"it has {there - promised} bytes more than its header declares, which were read too"
    return Found("AU", [mended], [what])


def _aiff_frames(content: Bytes, start: int, num_bytes: int) -> dict[int, bytes]:
    """A patch with the right number of sample frames for the chunk COMM."""
    position = start + 12
    while position + 26 <= content.size:
        name, size = struct.unpack(">4sI", content.at(position, 8))
        if name == b"COMM":
            channels, _, bits = struct.unpack(">HIH", content.at(position + 8, 8))
            frame = max(1, channels * -(-bits // 8))
            return {position + 10: struct.pack(">I", min(num_bytes // frame, 0xFFFF_FFFF))}
        position += 8 + size + size % 2
    return {}


def _number(content: Bytes, position: int, form: str) -> int:
    size = struct.calcsize(form)
    return int(struct.unpack(form, content.at(position, size).ljust(size, b"\0"))[0])


def _largest(form: _Form) -> int:
    return (1 << 8 * struct.calcsize(form.size) - form.size.endswith("q")) - 1


def _after(form: _Form, position: int, size: int) -> int:
    """Where the chunk after one of `size` bytes at `position` begins."""
    end = position + size + (0 if form.size_holds_header else form.header)
    return end + -end % form.align if form.align != 2 else end + size % 2


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)
