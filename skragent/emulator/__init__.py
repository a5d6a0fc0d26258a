"""A small Azure and a confidential VM on a laptop."""
