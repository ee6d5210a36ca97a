"""Codes as samples arrive, samples as codes arrive; the state of a stream is an object that can be kept and moved.

Streams give what the whole recording gives: the same codes, and audio to the rounding of sums. The price is the
look-ahead, which follows from the layers: so many samples must be known beyond the newest one that is given out.
With a smaller `look_ahead` the newest part is computed as if the recording ended where its knowledge ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.engine.engine import Engine
from opensnac.engine.row import Row, newest_input
from opensnac.engine.state import State
from opensnac.errors import AudioError, CodesError, OpensnacError
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.model.codec import Audio, Codes
from opensnac.model.layers import Signal

__all__ = ["State", "StreamDecoder", "StreamEncoder"]

MOST_SAMPLES = 2**53  # that a state from elsewhere may have seen


class _Stream:
    """A row of layers that gives steps out as soon as they are known, or `look_ahead` samples after their own."""

    def __init__(self, engine: Engine, row: Row, exact: int, look_ahead: int, out_channels: int) -> None:
        self.engine = engine
        self.exact_look_ahead = exact
        self.look_ahead = look_ahead
        self._row = row
        self._out_channels = out_channels

    def _resumed(self, state: State, new: State) -> State:
        """The state if it is one that streams like `new` come to; OpensnacError for any other, values included."""
        row, waiting = self._row, state.waiting
        shapes, expected = ([(tuple(t.shape), t.dtype) for t in s.tails] for s in (state, new))
        if shapes != expected or waiting.dtype != new.waiting.dtype or waiting.shape[2:] != new.waiting.shape[2:]:
            raise OpensnacError("the state is of another model or kind of stream; open it where it was saved")
        if any(length is not None for length in state.lengths):
            raise OpensnacError("the state is of a stream that has ended; start another one")
        pieces = row.multiple * row.tick
        if not all(type(n) is int and 0 <= n < MOST_SAMPLES and n % pieces == 0 for n in state.pushed):
            raise OpensnacError(f"the state has {state.pushed} samples pushed; expected multiples of {pieces}")
        stops = [(row.offset * row.tick + n - self.look_ahead) // row.out_tick * row.out_tick for n in state.pushed]
        if state.given != [max(0, stop) for stop in stops] or waiting.shape[1] >= row.multiple:
            raise OpensnacError(
                f"the state has {state.given} samples given out, which do not follow from {state.pushed}"
            )
        if not all(torch.isfinite(tensor).all() for tensor in (*state.tails, waiting)):
            raise OpensnacError("the state holds NaN or infinity; expected finite numbers")
        return state.to(self.engine.device)

    def _take(self, x: Signal, state: State) -> list[Signal]:
        """Push what fills pieces; each signal's new steps but for the newest `look_ahead`, guessed if need be."""
        row = self._row
        x = torch.cat((state.waiting, x), dim=1)
        steps = x.shape[1] // row.multiple * row.multiple
        piece, state.waiting = x[:, :steps], x[:, steps:].clone()
        if not steps:
            return [x.new_zeros(0, self._out_channels)] * x.shape[0]
        first = row.first_step(state)
        y = row.push(piece, state)
        known = [row.offset * row.tick + pushed for pushed in state.pushed]
        stops = [(end - self.look_ahead) // row.out_tick for end in known]
        if self.look_ahead < self.exact_look_ahead:
            guess = state.fork()
            guess.lengths = list(known)
            y = torch.cat((y, row.drain(piece, guess)), dim=1)
        return self._given_out(y, first, stops, state)

    def _end(self, state: State, lengths: list[int]) -> list[Signal]:
        """The rest of each signal, which is now known to be of so many samples."""
        row, waiting = self._row, state.waiting
        state.lengths = [*lengths]
        first = row.first_step(state)
        y = row.push(F.pad(waiting, (0, 0, 0, -waiting.shape[1] % row.multiple)), state)
        y = torch.cat((y, row.drain(waiting, state)), dim=1)
        return self._given_out(y, first, [length // row.out_tick for length in lengths], state)

    def _given_out(self, y: Signal, first: list[int], stops: list[int], state: State) -> list[Signal]:
        """Each signal's steps up to `stops` that were not given out before."""
        pieces, tick = [], self._row.out_tick
        for i, (start, stop) in enumerate(zip(first, stops, strict=True)):
            given = state.given[i] // tick
            stop = max(stop, given)
            pieces.append(y[i, given - start : stop - start])
            state.given[i] = stop * tick
        return pieces


class StreamEncoder(_Stream):
    """Samples in, codes out as soon as they are certain, a group of frames at a time.

    `look_ahead`, in samples beyond a group's last, is `exact_look_ahead` unless less is asked for. A model's weights
    are taken as they are now; later changes do not reach the stream.

        encoder = StreamEncoder(model)
        state = encoder.start()
        for block in blocks:  # (1, 1, samples), any number of them
            (codes,) = encoder.push(block, state)
        (codes,) = encoder.flush(state)
    """

    def __init__(self, model: Coder, look_ahead: int | None = None) -> None:
        engine = frozen(model)
        group = engine.config.frame_multiple * engine.hop_length
        exact = newest_input(engine.encoder_row().layers, 0) - group + 1
        look_ahead = _checked(look_ahead, exact)
        # Pieces end where a group becomes certain, so that nothing waits longer than it must.
        row = engine.encoder_row(-(-look_ahead % group))
        super().__init__(engine, row, exact, look_ahead, engine.latent_dim)

    def start(self, streams: int = 1) -> State:
        """The state of `streams` streams that have not begun."""
        waiting = self.engine.nothing(streams, 1, steps=-self._row.offset)
        return self._row.start([None] * streams, [None] * streams, waiting)

    def resume(self, state: State) -> State:
        """The state, on the engine's device, if it may be pushed to; OpensnacError for one that no stream comes to."""
        if any(seed is not None for seed in state.seeds):
            raise OpensnacError("the state has a seed of noise, as decoders have; expected an encoder's")
        return self._resumed(state, self.start(len(state.lengths)))

    @torch.no_grad()
    def push(self, audio: Audio, state: State, *, check: bool = True) -> list[list[Codes]]:
        """Take (streams, 1, samples), any number of samples; for each stream its new codes, (1, n) a scale.

        AudioError for anything but finite floating-point audio of that shape; without `check` values are not looked
        at, which saves waiting for a GPU.
        """
        audio = checked_audio(audio, torch.float32, self.engine.device, finite=check)
        _check_open(audio.shape[0], state)
        return self._codes(self._take(audio.transpose(1, 2).to(state.waiting.dtype), state))

    @torch.no_grad()
    def flush(self, state: State) -> list[list[Codes]]:
        """End the streams; the rest of each one's codes, padded with zeros to whole groups as in `SNAC.encode`."""
        _check_open(len(state.lengths), state)
        samples = [self._row.offset + pushed + state.waiting.shape[1] for pushed in state.pushed]
        if min(samples) < 1:
            raise AudioError("the stream ended before its first sample, expected at least one")
        lengths = [self.engine.config.num_frames(count) * self.engine.hop_length for count in samples]
        return self._codes(self._end(state, lengths))

    def _codes(self, latents: list[Signal]) -> list[list[Codes]]:
        if len({len(latent) for latent in latents}) == 1 and len(latents[0]):  # as it is where all began together
            codes = self.engine.quantize(torch.stack(latents))
            return [list(stream) for stream in zip(*(scale.split(1) for scale in codes), strict=True)]
        none = [torch.zeros(1, 0, dtype=torch.int64, device=self.engine.device) for _ in self.engine.config.vq_strides]
        return [self.engine.quantize(latent[None]) if len(latent) else none for latent in latents]


class StreamDecoder(_Stream):
    """Codes in, samples out as soon as they are certain.

    `look_ahead`, in samples that codes are known for beyond the newest that is given out, is `exact_look_ahead` unless
    less is asked for; then each piece costs the work of so many samples more. A model's weights are taken as they are
    now; later changes do not reach the stream.
    """

    def __init__(self, model: Coder, look_ahead: int | None = None) -> None:
        engine = frozen(model)
        row = engine.decoder_row()
        exact = -row.out_offset
        super().__init__(engine, row, exact, _checked(look_ahead, exact), 1)

    def start(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> State:
        """The state of `streams` streams that have not begun; the decoder's noise is as in `SNAC.decode`."""
        waiting = self.engine.nothing(streams, self.engine.latent_dim)
        return self._row.start([None] * streams, [seed if noise else None] * streams, waiting)

    def resume(self, state: State) -> State:
        """The state, on the engine's device, if it may be pushed to; OpensnacError for one that no stream comes to."""
        if not all(seed is None or -(2**63) <= seed < 2**63 for seed in state.seeds):
            raise OpensnacError(f"the state has the seeds {state.seeds}, expected numbers of 64 bits")
        return self._resumed(state, self.start(len(state.lengths)))

    @torch.no_grad()
    def push(self, codes: Sequence[Codes], state: State, *, check: bool = True) -> list[Tensor]:
        """Take codes (streams, n / stride) of each scale; for each stream its new samples, (1, samples).

        CodesError for codes that do not fit the model; without `check` values are not looked at, which saves waiting
        for a GPU.
        """
        config = self.engine.config
        codes, _ = checked_codes(codes, config, self.engine.device, config.coarse_stride, in_range=check)
        _check_open(codes[0].shape[0], state)
        return _mono(self._take(self.engine.dequantize(codes), state))

    @torch.no_grad()
    def flush(self, state: State, num_samples: int | None = None, *, drop_partial: bool = False) -> list[Tensor]:
        """End the streams; the rest of each one's samples, cut so that there are `num_samples` in all if given.

        CodesError where frames are left over that fill no group, unless `drop_partial` leaves them out.
        """
        _check_open(len(state.lengths), state)
        if drop_partial:
            state.waiting = state.waiting[:, :0]
        if state.waiting.shape[1] or not all(state.pushed):
            came = f"{state.waiting.shape[1]} frames are left over" if state.waiting.shape[1] else "no codes came"
            raise CodesError(f"{came}; a stream ends after whole groups of {self._row.multiple} frames")
        given = list(state.given)
        rest = _mono(self._end(state, list(state.pushed)))
        if num_samples is None:
            return rest
        return [audio[:, : max(0, num_samples - before)] for audio, before in zip(rest, given, strict=True)]


def _mono(signals: list[Signal]) -> list[Tensor]:
    return [signal.T.float() for signal in signals]


def _checked(look_ahead: int | None, exact: int) -> int:
    if look_ahead is None:
        return exact
    if not 0 <= look_ahead <= exact:
        raise OpensnacError(f"look_ahead is {look_ahead} samples, expected 0 to {exact}, which is exact")
    return look_ahead


def _check_open(streams: int, state: State) -> None:
    if streams != len(state.lengths):
        raise OpensnacError(f"{streams} streams came for a state of {len(state.lengths)}; push to all of them at once")
    if any(length is not None for length in state.lengths):
        raise OpensnacError("this stream has ended; start another one")
