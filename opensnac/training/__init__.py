"""Training a codec on recordings: data, discriminators, losses, step, loop, checkpoints."""
