"""Providers: each module beside this one talks to one sort of them."""
