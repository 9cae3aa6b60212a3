"""How a program says what it has seen."""


def say(*words):
    """A line of these words."""
    print(*words, flush=True)


async def parts(*parts):
    """Runs one part after another; one that fails does not keep the next from running."""
    for part in parts:
        say("==", part.__name__)
        try:
            await part()
        except Exception as error:
            say("== failed", type(error).__name__, getattr(error, "sqlstate", None), str(error).split("\n")[0])
