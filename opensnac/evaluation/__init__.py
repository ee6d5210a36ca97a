"""What a codec sounds like: clips through codecs, decoded audio through metrics, scores into a report."""
