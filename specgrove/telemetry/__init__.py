"""What the services tell of themselves: logs, traces, metrics."""
