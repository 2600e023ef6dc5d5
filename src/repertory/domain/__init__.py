"""Nouns: frozen values and tables that every room shares. Imports nothing of ours."""
