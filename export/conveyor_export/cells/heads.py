"""How a layer's width is cut into heads."""

SIZES = (64, 32, 16, 8, 4)  # 64 is what the papers have


def head_size(architecture: str, width: int) -> int:
    """The largest of the usual sizes that divides the width.

    Raises:
        ValueError: none does.
    """
    for size in SIZES:
        if width % size == 0:
            return size
    raise ValueError(f"{architecture}: width {width} cannot be cut into heads of {', '.join(map(str, SIZES))}")
