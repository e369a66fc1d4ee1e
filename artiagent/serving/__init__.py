"""A model behind an existing server: how it is started, found, checked and asked."""
