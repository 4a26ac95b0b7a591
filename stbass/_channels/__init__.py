"""The parts of channels: the contract of a transport, the one in memory, types of values, and choices."""
