"""The short-lived process: walks rooms 1, 2 and 3 for one job and exits."""
