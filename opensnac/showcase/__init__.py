"""The codec shown: how fast it is, and one recording there and back."""
