"""The one engine under every composition, and the contract of a backend."""
