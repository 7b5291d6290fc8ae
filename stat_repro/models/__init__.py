"""What the supported architectures look like, and loading them."""
