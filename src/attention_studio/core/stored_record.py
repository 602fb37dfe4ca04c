"""Records that are kept as JSON beside graphs and in workspaces: the limits that their parts are
read with, and what is said of something that is none, of another version, or damaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attention_studio.utils.errors import StudioError

MAX_TEXT = 1 << 20
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=1_000)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class StrictRecord(BaseModel):
    """A part of a record. Nothing is taken for what it is not; what is not known is passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")


Shape = TypeVar("Shape", bound=StrictRecord)


@dataclass(frozen=True)
class StoredKind(Generic[Shape]):
    """One kind of record.

    Attributes:
        format, version: what the record itself says it is.
        shape: what it must look like.
        error: what is raised of one that cannot be read.
        none: what to say of something else: "This is no stored validation".
        called: how sentences about one begin: "The stored validation is".
        again: what to do then: "validate again".
    """

    format: str
    version: int
    shape: type[Shape]
    error: type[StudioError]
    none: str
    called: str
    again: str

    def read(self, data: Any) -> Shape:
        """What ``data`` says.

        Raises:
            StudioError: ``error``, where it is something else, of another version, or too large.
        """
        if not isinstance(data, dict) or data.get("format") != self.format:
            raise self.error(self.none, "", self.again)
        if data.get("version") != self.version:
            raise self.error(
                f"{self.called} of version {data.get('version')}",
                f"this AttentionStudio reads version {self.version}",
                f"update AttentionStudio or {self.again}",
            )
        try:
            return self.shape.model_validate(data)
        except ValidationError as e:
            first = e.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise self.damaged(f"{place}: {first['msg']}") from None

    def damaged(self, why: str) -> StudioError:
        """The error for one that contradicts itself."""
        return self.error(f"{self.called} damaged", why, self.again)
