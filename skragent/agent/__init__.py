"""The agent: a daemon that schedules releases and holds the released keys."""
