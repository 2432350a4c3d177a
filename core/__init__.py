"""The machinery under the course's modules."""
