"""Running a model in groups that are elsewhere: on Ray, or on the fleet."""
