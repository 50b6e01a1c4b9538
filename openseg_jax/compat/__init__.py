"""Bridges to other people's libraries, imported only by those who ask for them."""
