"""What serves predictions to many: a page, a server, and bulk prediction on a cluster."""
