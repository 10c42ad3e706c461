"""Recurrent cells, a family a file, and the architectures that are made of them."""
