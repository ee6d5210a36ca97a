"""Evaluation of codecs: clips through codecs, decoded audio through metrics, scores into a report."""
