"""What one client's requests do to another's stream."""
