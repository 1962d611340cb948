"""What serves predictions to others: a page for people, a server for programs."""
