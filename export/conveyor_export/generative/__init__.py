"""Recurrent models that draw what comes next: VRNN, STORN and DRAW, with the forms of them that are served."""
