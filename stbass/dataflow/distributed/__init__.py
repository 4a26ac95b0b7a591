"""Running the components of a process in groups, on Ray or on a fleet."""
