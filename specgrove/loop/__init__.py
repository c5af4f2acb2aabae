"""The loop: draft, verify, commit. Written once, against protocols; no gRPC, no torch."""
