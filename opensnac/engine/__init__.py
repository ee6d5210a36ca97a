"""Inference: whole signals, pieces, batches and streams, all pushed through one stack of layers."""
