"""The router: the public API, tokenising, the speculation loop over the network, replicas and their health. Never imports torch."""
