"""Codes as samples arrive, samples as codes arrive; the state of a stream is an object that can be kept and moved.

Streams give what the whole recording gives: the same codes, and audio to the rounding of sums. The price is the
look-ahead, which follows from the layers: so many samples must be known beyond the newest one that is given out.
With a smaller `look_ahead` the newest part is computed as if the recording ended where its knowledge ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.errors import AudioError, CodesError, OpensnacError
from opensnac.model.codec import SNAC, Audio, Codes, check_audio
from opensnac.model.layers import Signal
from opensnac.model.pipeline import Pipeline, State, newest_input

__all__ = ["State", "StreamDecoder", "StreamEncoder"]


class _Stream:
    """A pipeline that gives steps out as soon as they are known, or `look_ahead` samples after their own."""

    def __init__(self, model: SNAC, pipeline: Pipeline, exact: int, look_ahead: int, out_channels: int) -> None:
        self.model = model
        self.exact_look_ahead = exact
        self.look_ahead = look_ahead
        self._pipeline = pipeline
        self._out_channels = out_channels

    def _take(self, x: Signal, state: State, held_back: Fraction) -> list[Signal]:
        """Push what fills pieces; each signal's new steps but for the newest `held_back`, guessed if need be."""
        pipeline = self._pipeline
        x = x if state.waiting is None else torch.cat((state.waiting, x), dim=1)
        steps = x.shape[1] // pipeline.multiple * pipeline.multiple
        piece, state.waiting = x[:, :steps], x[:, steps:].clone()
        if not steps:
            return [x.new_zeros(0, self._out_channels)] * x.shape[0]
        first = pipeline.first_step(state)
        y = pipeline.push(piece, state)
        known = [pipeline.offset + pushed for pushed in state.pushed]
        stops = [int(end * pipeline.out_rate - held_back) for end in known]
        if self.look_ahead < self.exact_look_ahead:
            guess = state.fork()
            guess.lengths = list(known)
            y = torch.cat((y, pipeline.drain(piece, guess)), dim=1)
        return _given_out(y, first, stops, state)

    def _end(self, waiting: Signal, state: State, lengths: list[int]) -> list[Signal]:
        """The rest of each signal, which is now known to be so long."""
        pipeline = self._pipeline
        state.lengths = list(lengths)
        first = pipeline.first_step(state)
        y = pipeline.push(F.pad(waiting, (0, 0, 0, -waiting.shape[1] % pipeline.multiple)), state)
        y = torch.cat((y, pipeline.drain(waiting, state)), dim=1)
        return _given_out(y, first, [int(length * pipeline.out_rate) for length in lengths], state)


class StreamEncoder(_Stream):
    """Samples in, codes out as soon as they are certain, a group of frames at a time.

    `look_ahead`, in samples beyond a group's last, is `exact_look_ahead` unless less is asked for.

        encoder = StreamEncoder(model)
        state = encoder.start()
        for block in blocks:  # (1, 1, samples), any number of them
            (codes,) = encoder.push(block, state)
        (codes,) = encoder.flush(state)
    """

    def __init__(self, model: SNAC, look_ahead: int | None = None) -> None:
        group = model.config.frame_multiple * model.hop_length
        exact = newest_input([stage.layer for stage in model.encoder_pipeline().stages], 0) - group + 1
        look_ahead = _checked(look_ahead, exact)
        # Pieces end where a group becomes certain, so that nothing waits longer than it must.
        pipeline = model.encoder_pipeline(-(-look_ahead % group))
        super().__init__(model, pipeline, exact, look_ahead, model.latent_dim)

    def start(self, streams: int = 1) -> State:
        """The state of `streams` streams that have not begun."""
        waiting = next(self.model.parameters()).new_zeros(streams, -self._pipeline.offset, 1)
        return State([None] * streams, [None] * streams, waiting=waiting)

    @torch.no_grad()
    def push(self, audio: Audio, state: State) -> list[list[Codes]]:
        """Take (streams, 1, samples), any number of samples; for each stream its new codes, (1, n) a scale.

        AudioError for anything but finite floating-point audio of that shape.
        """
        check_audio(audio, next(self.model.parameters()))
        _check_open(audio.shape[0], state)
        held_back = Fraction(self.look_ahead, self.model.hop_length)
        return self._codes(self._take(audio.transpose(1, 2), state, held_back))

    @torch.no_grad()
    def flush(self, state: State) -> list[list[Codes]]:
        """End the streams; the rest of each one's codes, padded with zeros to whole groups as in `SNAC.encode`."""
        _check_open(len(state.lengths), state)
        waiting = state.waiting
        assert waiting is not None
        samples = [self._pipeline.offset + pushed + waiting.shape[1] for pushed in state.pushed]
        if min(samples) < 1:
            raise AudioError("the stream ended before its first sample; at least one was needed")
        lengths = [self.model.config.num_frames(count) * self.model.hop_length for count in samples]
        return self._codes(self._end(waiting, state, lengths))

    def _codes(self, latents: list[Signal]) -> list[list[Codes]]:
        if len({len(latent) for latent in latents}) == 1 and len(latents[0]):  # as it is where all began together
            codes = self.model.quantizer.codes(torch.stack(latents))
            return [list(stream) for stream in zip(*(scale.split(1) for scale in codes), strict=True)]
        none = [torch.zeros(1, 0, dtype=torch.int64, device=latents[0].device) for _ in self.model.config.vq_strides]
        return [self.model.quantizer.codes(latent[None]) if len(latent) else none for latent in latents]


class StreamDecoder(_Stream):
    """Codes in, samples out as soon as they are certain.

    `look_ahead`, in samples that codes are known for beyond the newest that is given out, is `exact_look_ahead` unless
    less is asked for; then each piece costs the work of so many samples more.
    """

    def __init__(self, model: SNAC, look_ahead: int | None = None) -> None:
        pipeline = model.decoder_pipeline()
        exact = -pipeline.out_offset
        super().__init__(model, pipeline, exact, _checked(look_ahead, exact), 1)

    def start(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> State:
        """The state of `streams` streams that have not begun; the decoder's noise is as in `SNAC.decode`."""
        return State([None] * streams, [seed if noise else None] * streams)

    @torch.no_grad()
    def push(self, codes: Sequence[Codes], state: State) -> list[Tensor]:
        """Take codes (streams, n / stride) of each scale; for each stream its new samples, (1, samples).

        CodesError for codes that do not fit the model.
        """
        self.model.check_codes(codes, self.model.config.coarse_stride)
        _check_open(codes[0].shape[0], state)
        latent = self.model.quantizer.from_codes([code.long() for code in codes])
        return _mono(self._take(latent, state, Fraction(self.look_ahead)))

    @torch.no_grad()
    def flush(self, state: State, num_samples: int | None = None, *, drop_partial: bool = False) -> list[Tensor]:
        """End the streams; the rest of each one's samples, cut so that there are `num_samples` in all if given.

        CodesError where frames are left over that fill no group, unless `drop_partial` leaves them out.
        """
        _check_open(len(state.lengths), state)
        if drop_partial and state.waiting is not None:
            state.waiting = state.waiting[:, :0]
        waiting = state.waiting
        if waiting is None or waiting.shape[1]:
            came = "no codes came" if waiting is None else f"{waiting.shape[1]} frames are left over"
            raise CodesError(f"{came}; a stream ends after whole groups of {self._pipeline.multiple} frames")
        given = list(state.given)
        rest = _mono(self._end(waiting, state, list(state.pushed)))
        if num_samples is None:
            return rest
        return [audio[:, : max(0, num_samples - before)] for audio, before in zip(rest, given, strict=True)]


def _given_out(y: Signal, first: list[int], stops: list[int], state: State) -> list[Signal]:
    """Each signal's steps up to `stops` that were not given out before."""
    pieces = []
    for i, (start, stop) in enumerate(zip(first, stops, strict=True)):
        stop = max(stop, state.given[i])
        pieces.append(y[i, state.given[i] - start : stop - start])
        state.given[i] = stop
    return pieces


def _mono(signals: list[Signal]) -> list[Tensor]:
    return [signal.T for signal in signals]


def _checked(look_ahead: int | None, exact: int) -> int:
    if look_ahead is None:
        return exact
    if not 0 <= look_ahead <= exact:
        raise OpensnacError(f"look_ahead is {look_ahead} samples; 0 to {exact}, which is exact, was needed")
    return look_ahead


def _check_open(streams: int, state: State) -> None:
    if streams != len(state.lengths):
        raise OpensnacError(f"{streams} streams came for a state of {len(state.lengths)}; push to all of them at once")
    if any(length is not None for length in state.lengths):
        raise OpensnacError("this stream has ended; start another one")
