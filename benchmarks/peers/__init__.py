"""The peers: one module each, run by :mod:`benchmarks.peers.__main__` with the Python of the peer's own environment.

Nothing here imports stbass or anything outside the standard library, except that each module imports its own peer.
"""
