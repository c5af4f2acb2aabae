"""Models as data: what a decoder is, how its weights arrive, its files on disk, and whether it fits."""
