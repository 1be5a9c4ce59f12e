"""A planted fault: one piece of a source file, and what replaces it."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault that a test must find."""

    name: str
    file: str  # from the root of the repository
    old: str  # occurs once in the file
    new: str
    tests: str  # arguments of pytest; the test that finds it quickest comes first
    equivalent: str = ""  # why no test can find it, if that is so

    def planted(self, source: str) -> str:
        """The source with the fault."""
        if source.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: the text must occur once in {self.file}, "
                f"occurs {source.count(self.old)} times: {self.old}"
            )
        return source.replace(self.old, self.new)
