"""The suite of services on one machine: which SSMs, what is checked first, and the processes."""
