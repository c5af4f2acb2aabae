"""How a fleet of services will do: simulated from measured times (``python -m benchmarks.fleet``), and measured (``benchmarks.load``)."""
