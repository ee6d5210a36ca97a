"""Audio files in, `.snac` files out, and back."""
