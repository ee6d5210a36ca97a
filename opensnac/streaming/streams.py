"""Streaming encoder and decoder. A stream's state is an object that can be saved and moved.

Streams give what the whole recording gives: the same codes, and the same audio up to rounding. The price is the
look-ahead, which follows from the layers: the number of samples needed beyond the newest one that is returned. With a
smaller `look_ahead` the newest part is computed as if the recording ended after the samples known so far.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.codec import Coder, frozen
from opensnac.engine.engine import Engine
from opensnac.engine.stack import LayerStack, last_input
from opensnac.engine.state import State
from opensnac.errors import AudioError, CodesError, OpensnacError
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.model.codec import Audio, Codes
from opensnac.model.layers import Signal

__all__ = ["State", "StreamDecoder", "StreamEncoder"]

MAX_SAMPLES = 2**53  # pushed, in a state from elsewhere


class _Stream:
    """A stack of layers that returns steps as soon as they are final, or `look_ahead` samples after their own."""

    def __init__(self, engine: Engine, stack: LayerStack, exact: int, look_ahead: int, out_channels: int) -> None:
        self.engine = engine
        self.exact_look_ahead = exact
        self.look_ahead = look_ahead
        self._stack = stack
        self._out_channels = out_channels

    def _resumed(self, state: State, new: State) -> State:
        """The state, if a stream like `new` can have it; OpensnacError for any other, values included."""
        stack, waiting = self._stack, state.waiting
        shapes, expected = ([(tuple(t.shape), t.dtype) for t in s.tails] for s in (state, new))
        if shapes != expected or waiting.dtype != new.waiting.dtype or waiting.shape[2:] != new.waiting.shape[2:]:
            raise OpensnacError("state: expected one of this model and kind of stream, got another's")
        if any(length is not None for length in state.lengths):
            raise OpensnacError("state: expected an open stream's, got an ended one's; start another stream")
        pieces = stack.multiple * stack.tick
        if not all(type(n) is int and 0 <= n < MAX_SAMPLES and n % pieces == 0 for n in state.pushed):
            raise OpensnacError(f"state: expected multiples of {pieces} samples pushed, got {state.pushed}")
        stops = [
            (stack.offset * stack.tick + n - self.look_ahead) // stack.out_tick * stack.out_tick for n in state.pushed
        ]
        if state.given != [max(0, stop) for stop in stops] or waiting.shape[1] >= stack.multiple:
            raise OpensnacError(
                f"state: expected samples returned that follow from {state.pushed} pushed, got {state.given}"
            )
        if not all(torch.isfinite(tensor).all() for tensor in (*state.tails, waiting)):
            raise OpensnacError("state: expected finite values, got NaN or infinity")
        return state.to(self.engine.device)

    def _take(self, x: Signal, state: State) -> list[Signal]:
        """Push whole pieces; returns each signal's new steps except the last `look_ahead`, provisional if needed."""
        stack = self._stack
        x = torch.cat((state.waiting, x), dim=1)
        steps = x.shape[1] // stack.multiple * stack.multiple
        piece, state.waiting = x[:, :steps], x[:, steps:].clone()
        if not steps:
            return [x.new_zeros(0, self._out_channels)] * x.shape[0]
        first = stack.first_step(state)
        y = stack.push(piece, state)
        known = [stack.offset * stack.tick + pushed for pushed in state.pushed]
        stops = [(end - self.look_ahead) // stack.out_tick for end in known]
        if self.look_ahead < self.exact_look_ahead:
            provisional = state.fork()
            provisional.lengths = list(known)
            y = torch.cat((y, stack.drain(piece, provisional)), dim=1)
        return self._new_output(y, first, stops, state)

    def _end(self, state: State, lengths: list[int]) -> list[Signal]:
        """The rest of each signal, whose length in samples is known now."""
        stack, waiting = self._stack, state.waiting
        state.lengths = [*lengths]
        first = stack.first_step(state)
        y = stack.push(F.pad(waiting, (0, 0, 0, -waiting.shape[1] % stack.multiple)), state)
        y = torch.cat((y, stack.drain(waiting, state)), dim=1)
        return self._new_output(y, first, [length // stack.out_tick for length in lengths], state)

    def _new_output(self, y: Signal, first: list[int], stops: list[int], state: State) -> list[Signal]:
        """Each signal's steps up to `stops` that were not returned before."""
        pieces, tick = [], self._stack.out_tick
        for i, (start, stop) in enumerate(zip(first, stops, strict=True)):
            given = state.given[i] // tick
            stop = max(stop, given)
            pieces.append(y[i, given - start : stop - start])
            state.given[i] = stop * tick
        return pieces


class StreamEncoder(_Stream):
    """Samples in, codes out as soon as they are final, a group of frames at a time.

    `look_ahead`, in samples after a group's last, is at most and by default `exact_look_ahead`. The model's current
    weights are used; later changes do not affect the stream.

        encoder = StreamEncoder(model)
        state = encoder.start()
        for block in blocks:  # (1, 1, samples), any number of them
            (codes,) = encoder.push(block, state)
        (codes,) = encoder.flush(state)
    """

    def __init__(self, model: Coder, look_ahead: int | None = None) -> None:
        engine = frozen(model)
        group = engine.config.frame_multiple * engine.hop_length
        exact = last_input(engine.encoder_stack().layers, 0) - group + 1
        look_ahead = _checked(look_ahead, exact)
        # Pieces end where a group becomes final, so that no group waits longer than necessary.
        stack = engine.encoder_stack(-(-look_ahead % group))
        super().__init__(engine, stack, exact, look_ahead, engine.latent_dim)

    def start(self, streams: int = 1) -> State:
        """The state of `streams` streams that have not begun."""
        waiting = self.engine.zeros(streams, 1, steps=-self._stack.offset)
        return self._stack.start([None] * streams, [None] * streams, waiting)

    def resume(self, state: State) -> State:
        """A saved state on the engine's device, checked. OpensnacError for one that this stream cannot have."""
        if any(seed is not None for seed in state.seeds):
            raise OpensnacError("state: expected an encoder's, got a decoder's, with a noise seed")
        return self._resumed(state, self.start(len(state.lengths)))

    @torch.no_grad()
    def push(self, audio: Audio, state: State, *, check: bool = True) -> list[list[Codes]]:
        """Take (streams, 1, samples), any number of samples; returns each stream's new codes, (1, n) per scale.

        AudioError for anything but finite floating-point audio of that shape; without `check` the values are not
        checked, which avoids a GPU synchronisation.
        """
        audio = checked_audio(audio, torch.float32, self.engine.device, finite=check)
        _check_open(audio.shape[0], state)
        return self._codes(self._take(audio.transpose(1, 2).to(state.waiting.dtype), state))

    @torch.no_grad()
    def flush(self, state: State) -> list[list[Codes]]:
        """End the streams; returns the rest of each one's codes, padded to whole groups as in `SNAC.encode`."""
        _check_open(len(state.lengths), state)
        samples = [self._stack.offset + pushed + state.waiting.shape[1] for pushed in state.pushed]
        if min(samples) < 1:
            raise AudioError("the stream ended before its first sample: expected at least one, got none")
        lengths = [self.engine.config.num_frames(count) * self.engine.hop_length for count in samples]
        return self._codes(self._end(state, lengths))

    def _codes(self, latents: list[Signal]) -> list[list[Codes]]:
        if len({len(latent) for latent in latents}) == 1 and len(latents[0]):  # usual: all began together
            codes = self.engine.quantize(torch.stack(latents))
            return [list(stream) for stream in zip(*(scale.split(1) for scale in codes), strict=True)]
        none = [torch.zeros(1, 0, dtype=torch.int64, device=self.engine.device) for _ in self.engine.config.vq_strides]
        return [self.engine.quantize(latent[None]) if len(latent) else none for latent in latents]


class StreamDecoder(_Stream):
    """Codes in, samples out as soon as they are final.

    `look_ahead`, the number of samples with known codes after the newest one returned, is at most and by default
    `exact_look_ahead`; with less, each piece also computes `exact_look_ahead` provisional samples. The model's current
    weights are used; later changes do not affect the stream.
    """

    def __init__(self, model: Coder, look_ahead: int | None = None) -> None:
        engine = frozen(model)
        stack = engine.decoder_stack()
        exact = -stack.out_offset
        super().__init__(engine, stack, exact, _checked(look_ahead, exact), 1)

    def start(self, streams: int = 1, *, seed: int = 0, noise: bool = True) -> State:
        """The state of `streams` streams that have not begun; the decoder's noise is as in `SNAC.decode`."""
        waiting = self.engine.zeros(streams, self.engine.latent_dim)
        return self._stack.start([None] * streams, [seed if noise else None] * streams, waiting)

    def resume(self, state: State) -> State:
        """A saved state on the engine's device, checked. OpensnacError for one that this stream cannot have."""
        if not all(seed is None or -(2**63) <= seed < 2**63 for seed in state.seeds):
            raise OpensnacError(f"state: expected seeds of 64 bits, got {state.seeds}")
        return self._resumed(state, self.start(len(state.lengths)))

    @torch.no_grad()
    def push(self, codes: Sequence[Codes], state: State, *, check: bool = True) -> list[Tensor]:
        """Take codes (streams, n / stride) of each scale; returns each stream's new samples, (1, samples).

        CodesError for codes that do not fit the model; without `check` the values are not checked, which avoids a GPU
        synchronisation.
        """
        config = self.engine.config
        codes, _ = checked_codes(codes, config, self.engine.device, config.coarse_stride, in_range=check)
        _check_open(codes[0].shape[0], state)
        return _mono(self._take(self.engine.dequantize(codes), state))

    @torch.no_grad()
    def flush(self, state: State, num_samples: int | None = None, *, drop_partial: bool = False) -> list[Tensor]:
        """End the streams; returns the rest of each one's samples, cut to `num_samples` in total if given.

        CodesError where the last group of frames is incomplete, unless `drop_partial` drops it.
        """
        _check_open(len(state.lengths), state)
        if drop_partial:
            state.waiting = state.waiting[:, :0]
        if state.waiting.shape[1] or not all(state.pushed):
            got = f"{state.waiting.shape[1]} frames too many" if state.waiting.shape[1] else "no codes"
            raise CodesError(f"flush: expected whole groups of {self._stack.multiple} frames, got {got}")
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
        raise OpensnacError(f"look_ahead: expected 0 to {exact} samples, the exact value, got {look_ahead}")
    return look_ahead


def _check_open(streams: int, state: State) -> None:
    if streams != len(state.lengths):
        raise OpensnacError(f"expected samples or codes of {len(state.lengths)} streams, got {streams}: push to all")
    if any(length is not None for length in state.lengths):
        raise OpensnacError("the stream has ended; start another one")
