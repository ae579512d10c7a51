"""A first spec for a user's file: what the file says, and the spec's text."""
