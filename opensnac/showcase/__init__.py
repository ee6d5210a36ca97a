"""The commands `bench`, the codec's speed, and `demo`, a round trip of one recording."""
