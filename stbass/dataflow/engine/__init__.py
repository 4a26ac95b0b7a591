"""Running the components of one group on one event loop."""
