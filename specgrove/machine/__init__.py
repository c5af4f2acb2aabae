"""What the machine is and lends: processors, GPUs, folders."""
