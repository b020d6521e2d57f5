"""Energy: meters, what a round of work took, and what that emitted. Every joule says where it comes from."""
