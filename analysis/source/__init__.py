"""A network as source text that a person would write: traced, put into statements, into classes, and laid out."""
