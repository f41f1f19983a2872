"""Replaying recorded texts: reading traces of any origin, and drafters going along them."""
