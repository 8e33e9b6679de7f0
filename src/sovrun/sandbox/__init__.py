"""Running the code of steps: in a sandbox of its own, or, by the operator's choice, in this process."""
