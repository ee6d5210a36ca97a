"""An engine always uses its model's current weights, however they were changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import configs
import pytest
import torch

from opensnac import SNAC, Engine

AUDIO = 0.3 * torch.randn(1, 1, 300, generator=torch.Generator().manual_seed(0))
SHALLOW = configs.TINY | {"encoder_rates": [2], "decoder_rates": [2]}
OTHER = configs.model_of(SHALLOW, seed=1).state_dict()


def in_place(model: SNAC) -> None:
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(0.5)


def through_data(model: SNAC) -> None:
    for value in model.parameters():
        value.data.mul_(0.5)


def one_value_through_numpy(model: SNAC) -> None:
    model.decoder.model[1].bias.detach().numpy()[3] += 0.5


def new_parameter(model: SNAC) -> None:
    snake = model.decoder.model[2].block[0]
    snake.alpha = torch.nn.Parameter(2 * snake.alpha.detach())


def swapped_codes(model: SNAC) -> None:
    weight = model.quantizer.scales[0].codebook.weight
    weight.data = weight.data.flip(0)


CHANGES: dict[str, Callable[[SNAC], object]] = {
    "in place": in_place,
    "through .data": through_data,
    "one value through NumPy": one_value_through_numpy,
    "another state dict": lambda model: model.load_state_dict(OTHER),
    "another parameter": new_parameter,
    "a codebook's rows": swapped_codes,
    "weight norm folded": lambda model: model.fold_weight_norm(),
    "half the decoder": lambda model: model.decoder.half(),
    "a layer in double precision": lambda model: model.decoder.model[1].double(),
    "training mode": lambda model: model.train(),
    "half of it all and back": lambda model: model.half().float(),
}


def results(model: SNAC) -> list[torch.Tensor]:
    return [*model.encode(AUDIO), model.decode(model.encode(AUDIO), seed=1)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loaded", ["plainly", "in inference mode"])
def test_every_change_is_seen(change: str, loaded: str) -> None:
    with torch.inference_mode(loaded == "in inference mode"):
        model = configs.model_of(SHALLOW)
        before = results(model)
        CHANGES[change](model)
        after, fresh = results(model), results(copy.deepcopy(model))  # which has no engine yet
        assert all(torch.equal(a, b) for a, b in zip(after, fresh, strict=True))
        assert all(map(torch.equal, before, after)) == (change in ("training mode", "weight norm folded"))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_an_unchanged_model_keeps_its_engine(mode: type) -> None:
    with mode():
        model = configs.model_of(SHALLOW)
        model.encode(AUDIO)
        engine = model.freeze()
        model.decode(model.encode(AUDIO))
        assert model.freeze() is engine


def test_a_frozen_engine_keeps_its_weights() -> None:
    model = configs.model_of(SHALLOW)
    engine, before = model.freeze(), results(model)
    through_data(model)
    assert all(torch.equal(a, b) for a, b in zip(engine.encode(AUDIO), before[:-1], strict=True))
    assert torch.equal(engine.decode(engine.encode(AUDIO), seed=1), before[-1])


def test_copies_share_nothing() -> None:
    model = configs.model_of(SHALLOW)
    before = results(model)
    other = copy.deepcopy(model)
    other.fold_weight_norm()
    in_place(other)
    assert all(torch.equal(a, b) for a, b in zip(results(model), before, strict=True))
    assert model(AUDIO)[0].shape == AUDIO.shape
    assert not torch.equal(results(other)[-1], before[-1])


@pytest.mark.parametrize("folded", [False, True])
def test_models_are_pickled_without_their_engine(folded: bool) -> None:
    model = configs.model_of(SHALLOW)
    if folded:
        model.fold_weight_norm()
    before = results(model)
    again = pickle.loads(pickle.dumps(model))
    assert again.fingerprint == model.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(results(again), before, strict=True))
    with pytest.raises(TypeError, match="pickle the model and call freeze"):
        pickle.dumps(model.freeze())
    assert isinstance(model.freeze(), Engine)


def test_a_changed_folded_model_has_another_fingerprint() -> None:
    model = configs.model_of(SHALLOW)
    named = model.fingerprint
    assert model.fold_weight_norm().fingerprint == named
    through_data(model)
    assert model.fingerprint != named
