"""Room 1: what the hardware says, and how far it can be believed."""
