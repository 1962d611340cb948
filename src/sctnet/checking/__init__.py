"""The data checker: survey, diagnosis, findings, fixes and their page."""
