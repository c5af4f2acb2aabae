"""Model folders on disk: found, fetched, converted, kept."""
