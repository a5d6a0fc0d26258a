"""Room 4: what we hold, in secret memory."""
