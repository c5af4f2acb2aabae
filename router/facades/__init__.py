"""Other projects' gRPC protocols, for clients and gateways that speak them: each converts, and asks the router's own servicer.

Invariant: a facade decides nothing. What a request means, whether it is right and what it gives is what ``router.servicer`` says.
"""
