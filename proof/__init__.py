"""Executing runs again and judging the result. Nothing here needs a running broker."""
