"""Predictions for many users: an HTTP server, a demonstration page, and bulk prediction."""
