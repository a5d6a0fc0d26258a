"""The commands. Only this package connects the other packages to each other."""
