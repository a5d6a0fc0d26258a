"""The Azure Instance Metadata Service."""
