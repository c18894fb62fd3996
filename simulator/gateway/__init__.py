"""API Management: its keys, its pool and its policies."""
