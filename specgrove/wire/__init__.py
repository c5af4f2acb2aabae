"""The works and results of the services as protobuf messages, and back. One place for both directions."""
