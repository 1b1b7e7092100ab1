"""How `DATA` is read where its name does not say it all: one frozen value, without torch, that a run keeps."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Columns of a table that are not found by their names, and whether anything may be downloaded.

    Parameters
    ----------
    image_column
        Column of a table with the pictures: paths, or bytes.
    label_column
        Column with the class names, or numbers.
    split_column
        Column with train, val or test.
    group_column
        Column with the patient, the scene…: pictures of one group never fall into two parts that we make.
    download
        Fetch DATA that is a name, and MODEL that is hf:OWNER/NAME, where it is not in the cache yet.
    max_pixels
        Refuse pictures of more pixels, from their header, before anything is decoded; 89,478,485 if not given, which
        take 256 MiB.
    """

    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    download: bool = False
    max_pixels: int | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The columns that were given, by option: {"label_column": "species"}."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if isinstance(value, str)}

    @property
    def words(self) -> list[str]:
        """The options of the command line that say the same."""
        words = [f"--{name.replace('_', '-')}={value}" for name, value in self.columns.items()]  # "=": -x is a name too
        words += ["--download"] if self.download else []
        return words if self.max_pixels is None else [*words, "--max-pixels", str(self.max_pixels)]
