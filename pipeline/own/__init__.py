"""Anybody's sequences: a file or arrays, checked, and split and scaled into the form that training takes."""
