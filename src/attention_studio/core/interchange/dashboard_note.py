"""What the studio writes beside pages for other tools: whose they are, which no page says.

A file ``attention-studio.json`` in the folder. Other tools do not mind it; here it makes an import
as good as the pages allow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attention_studio.core.feature_store import SiteSize, StoreAbout
from attention_studio.core.interchange.feature_files import FeatureFileError
from attention_studio.core.sites import SiteKind
from attention_studio.utils.files import FileReadError, read_json, write_json_atomic

NOTE = "attention-studio.json"
MAX_LATENTS = 1 << 24
_Name = Annotated[str, Field(max_length=1000)]
_Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Module(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    layer: int = Field(ge=0, lt=4096)
    kind: SiteKind
    n_features: int = Field(gt=0, le=MAX_LATENTS)
    source: _Name = ""


class DashboardNote(BaseModel):
    """Whose pages lie in a folder.

    Attributes:
        model_name, model_hash, crm_name, crm_hash, text_hash: as in ``StoreAbout``.
        n_tokens: of how many tokens shares are; None: not known.
        n_rows, seq_len: of the text; 0: not known.
        layers: what the numbers of circuit-tracer's files count.
        modules: the modules and their sizes, and what the source of each is called.
        tool, made: what made the pages, and when.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())

    format: Literal["attention-studio-dashboards"] = "attention-studio-dashboards"
    model_name: _Name = ""
    model_hash: _Name = ""
    crm_name: _Name = ""
    crm_hash: _Name = ""
    text_hash: _Name = ""
    n_tokens: Optional[_Count] = None
    n_rows: _Count = 0
    seq_len: _Count = 0
    layers: Literal["layers", "sites"] = "layers"
    modules: list[_Module] = Field(default=[], max_length=8192)
    tool: _Name = ""
    made: _Name = ""

    @classmethod
    def of(cls, about: StoreAbout, layers_are_sites: bool, sources: list[str]) -> DashboardNote:
        """The note for pages of a store; ``sources``: what each module's source is called."""
        return cls(
            model_name=about.model_name[:1000],
            model_hash=about.model_hash,
            crm_name=about.crm_name[:1000],
            crm_hash=about.crm_hash,
            text_hash=about.text_hash,
            n_tokens=about.n_tokens if about.counted else None,
            n_rows=about.n_rows,
            seq_len=about.seq_len,
            layers="sites" if layers_are_sites else "layers",
            modules=[
                _Module(layer=s.layer, kind=s.kind, n_features=s.n_features, source=source)
                for s, source in zip(about.sites, sources, strict=True)
            ],
            tool=f"{about.origin} {about.version}".strip()[:1000],
            made=about.made,
        )

    @classmethod
    def read(cls, folder: Path) -> Optional[DashboardNote]:
        """The note in a folder; None: there is none.

        Raises:
            FeatureFileError: it is damaged.
        """
        path = folder / NOTE
        if not path.is_file():
            return None
        try:
            return cls.model_validate(read_json(path, 8 << 20))
        except FileReadError as error:
            raise FeatureFileError(error.what, error.why, error.todo) from error
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, found["loc"]))
            raise FeatureFileError(
                f"{path.name} is not what it should be",
                f"{place}: {found['msg']}",
                "Export the dashboards again, or delete that file",
            ) from error

    def write(self, folder: Path) -> None:
        """Write it into a folder.

        Raises:
            FileWriteError: it cannot be written.
        """
        write_json_atomic(folder / NOTE, self.model_dump(mode="json"))

    @property
    def sizes(self) -> tuple[SiteSize, ...]:
        """The modules and their sizes."""
        return tuple(SiteSize(one.layer, one.kind, one.n_features) for one in self.modules)
