"""The engine that runs every composition, and the contract of a backend."""
