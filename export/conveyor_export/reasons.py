"""Why something was raised, in one line for the command line."""

_MOST_CHARACTERS = 400


def first_line(error: BaseException) -> str:
    """What an exception says first, or its class where it says nothing. Libraries put advice in the lines after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_MOST_CHARACTERS]


def whole_reason(error: BaseException) -> str:
    """The class and all that it says, for exceptions of the user's own code, whose later lines may hold the point."""
    return ": ".join([type(error).__name__, *filter(None, [" ".join(str(error).split())])])[:_MOST_CHARACTERS]
