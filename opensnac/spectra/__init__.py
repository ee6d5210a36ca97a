"""Spectra of audio, and differentiable distances between original and decoded ones."""
