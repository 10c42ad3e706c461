"""VRNN and STORN on the chorales of Bach: a server that scores them, and composes more."""
