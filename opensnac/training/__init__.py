"""From a folder of recordings to a codec: data, discriminators, losses, step, loop, checkpoints."""
