"""The mel scales and filters equal those of other libraries."""

from __future__ import annotations

import numpy as np
import pytest

from opensnac.spectra import mel

RATES = (8000, 24000, 44100)


@pytest.mark.parametrize("scale", [mel.HTK, mel.SLANEY])
def test_scales_round_trip(scale: mel.Scale) -> None:
    hertz = np.linspace(0, 24000, 1001)
    np.testing.assert_allclose(scale.hertz(scale.mel(hertz)), hertz, atol=1e-8)
    assert (np.diff(scale.mel(hertz)) > 0).all()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("scale", "htk"), [(mel.HTK, True), (mel.SLANEY, False)])
def test_triangles_are_librosa_s(rate: int, scale: mel.Scale, htk: bool) -> None:
    librosa = pytest.importorskip("librosa", reason="pip install librosa")
    ours = mel.triangles(scale, rate, 2048, 40)
    wanted = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=40, htk=htk, norm=None, dtype=np.float64).T
    np.testing.assert_allclose(ours, wanted, atol=1e-9)
    wanted = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=40, htk=htk, norm="slaney", dtype=np.float64).T
    np.testing.assert_allclose(mel.normalise_area(ours, scale, rate), wanted, atol=1e-9)


@pytest.mark.parametrize("rate", RATES)
def test_many_points_leave_no_band_empty(rate: int) -> None:
    assert mel.triangles(mel.SLANEY, rate, 32, 24).sum(axis=0).min() == 0
    assert mel.triangles(mel.SLANEY, rate, 32, 24, points=1024).sum(axis=0).min() > 0
