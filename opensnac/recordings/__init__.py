"""Files of sound in, `.snac` files out."""
