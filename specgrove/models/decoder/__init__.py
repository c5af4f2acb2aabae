"""What a decoder is: its spec, the families, and how ranks share it."""
