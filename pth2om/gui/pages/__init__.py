"""The pages, one file each; every file has ``routes(desk)``."""
