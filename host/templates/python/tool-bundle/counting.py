"""What the tool works out. It knows nothing of WebAssembly, so that plain tests cover it."""


def problems(settings):
    """Everything that is wrong with the settings: pairs of field and message."""
    for key in settings.keys() - {"many"}:
        yield key, "is not a setting; the only one is many"
    many = settings.get("many", 5)
    if not isinstance(many, int) or isinstance(many, bool) or many < 1:
        yield "many", "must be a whole number from 1 on"


def count(versions, asked):
    """How many of these versions are the one that was asked for, or any."""
    return sum(1 for version in versions if asked is None or asked == version)
