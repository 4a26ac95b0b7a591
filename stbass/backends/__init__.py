"""Where processes run. The contract is :class:`stbass.backends.base.ExecutionBackend`."""
