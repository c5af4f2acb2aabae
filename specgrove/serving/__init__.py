"""gRPC plumbing that the three services share: server with health and drain, error statuses, multiplexed work streams."""
