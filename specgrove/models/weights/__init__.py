"""How weights arrive: checkpoints, their formats and tensors, and quantisation."""
