"""Running: from a specification to records. The only room that loads models."""
