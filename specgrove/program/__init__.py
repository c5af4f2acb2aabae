"""A decoder's forward pass: what it runs on each device, in which order, and where its weights lie."""
