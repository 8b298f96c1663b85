"""The drill: faults on purpose, an oracle that knows what must follow, a certificate."""
