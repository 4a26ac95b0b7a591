"""The side that takes processes from the queues and runs them."""
