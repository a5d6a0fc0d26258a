"""What a person types; the only place that wires the rooms together."""
