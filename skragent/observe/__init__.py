"""Names that SREs and scripts depend on: metrics, journal fields, message ids."""
