"""Time: the supervisor, its schedule, and the life of the daemon."""
