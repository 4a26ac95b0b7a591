"""What a process is given, and a plain function as a process."""
