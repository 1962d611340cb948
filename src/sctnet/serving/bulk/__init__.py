"""Bulk prediction on Ray: pictures by the million."""
