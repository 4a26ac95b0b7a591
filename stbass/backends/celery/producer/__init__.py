"""The side that sends processes to the fleet and waits for their results."""
