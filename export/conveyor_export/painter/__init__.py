"""DRAW on handwritten digits: a server that paints the digit that it is told, glimpse by glimpse."""
