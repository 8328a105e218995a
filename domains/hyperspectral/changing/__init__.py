"""Change between two dates of one place."""
