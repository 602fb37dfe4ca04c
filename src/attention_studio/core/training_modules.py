"""What the trainer trains: one kind of module per kind of dictionary, all driven alike."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import ClassVar, Generic, Optional, Protocol, TypeVar, Union

from torch import Tensor

from attention_studio.core.activations import Activations
from attention_studio.core.clt_state import CLTScratch, CLTState
from attention_studio.core.clt_training import clt_training_step
from attention_studio.core.dictionaries.clt import CrossLayerTranscoder
from attention_studio.core.dictionaries.dictionary_set import DictionarySet
from attention_studio.core.dictionaries.lorsa import Lorsa
from attention_studio.core.dictionaries.transcoder import Transcoder
from attention_studio.core.distributed import Peers
from attention_studio.core.lorsa_training import LorsaScratch, LorsaState, lorsa_training_step
from attention_studio.core.sites import Site, SiteKind
from attention_studio.core.training_config import StepSettings
from attention_studio.core.training_scratch import StepScratch
from attention_studio.core.training_step import StepResult, TranscoderState, training_step

_State = TypeVar("_State", bound=Union[TranscoderState, LorsaState, CLTState])
_SiteState = TypeVar("_SiteState", bound=Union[TranscoderState, LorsaState])
_Scratch = TypeVar("_Scratch")


class TrainedModule(Protocol):
    """A dictionary in training, with everything that a resumed run needs to go on with it.

    Attributes:
        name: for messages and checkpoints, ``mlp_03``.
        sites: the modules of the model that it replaces.
        steps: optimizer steps done.
    """

    steps: int

    @property
    def name(self) -> str: ...

    @property
    def sites(self) -> tuple[Site, ...]: ...

    def step(
        self, batch: Activations, settings: StepSettings
    ) -> Generator[None, None, dict[Site, StepResult]]:
        """Train on one batch of raw activations; yields between micro-steps and returns what it
        measured before the update. Abandoning it half-way leaves the module unusable."""

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor of the state, by the file of a checkpoint (without ending) and by name, as
        views: copy into them to restore it."""


class _StateModule(Generic[_State, _Scratch]):
    """What modules of all kinds have.

    Args:
        state: the weights and the optimizer's state.
        scratch: working memory of its shape, shared between modules of a kind.
        peers: processes that train the same module on other parts of every batch.
    """

    def __init__(self, state: _State, scratch: _Scratch, peers: Optional[Peers] = None) -> None:
        self.state = state
        self._scratch = scratch
        self._peers = peers

    @property
    def steps(self) -> int:
        """See ``TrainedModule``."""
        return self.state.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self.state.steps = steps


class _SiteModule(_StateModule[_SiteState, _Scratch]):
    """A dictionary that replaces one module of the model.

    Args:
        layer: the layer that it is in.
        state, scratch, peers: as in ``_StateModule``.
    """

    kind: ClassVar[SiteKind]

    def __init__(
        self, layer: int, state: _SiteState, scratch: _Scratch, peers: Optional[Peers] = None
    ) -> None:
        super().__init__(state, scratch, peers)
        self.site = Site(layer, self.kind)

    @property
    def name(self) -> str:
        """See ``TrainedModule``."""
        return self.site.name

    @property
    def sites(self) -> tuple[Site, ...]:
        """See ``TrainedModule``."""
        return (self.site,)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """See ``TrainedModule``."""
        return {self.name: self.state.tensors()}


class TranscoderModule(_SiteModule[TranscoderState, StepScratch]):
    """A transcoder in training."""

    kind = "mlp"

    def step(
        self, batch: Activations, settings: StepSettings
    ) -> Generator[None, None, dict[Site, StepResult]]:
        """See ``TrainedModule``."""
        here = batch.rows[self.site]
        result = yield from training_step(
            self.state, self._scratch, here.inputs, here.outputs, settings, self._peers
        )
        return {self.site: result}


class LorsaModule(_SiteModule[LorsaState, LorsaScratch]):
    """A Lorsa in training."""

    kind = "attention"

    def step(
        self, batch: Activations, settings: StepSettings
    ) -> Generator[None, None, dict[Site, StepResult]]:
        """See ``TrainedModule``."""
        here = batch.sequences[self.site]
        result = yield from lorsa_training_step(
            self.state,
            self._scratch,
            here.inputs,
            here.outputs,
            batch.kept,
            settings,
            self._peers,
        )
        return {self.site: result}


class CLTModule(_StateModule[CLTState, CLTScratch]):
    """A cross-layer transcoder in training."""

    name = "clt"

    @property
    def sites(self) -> tuple[Site, ...]:
        """See ``TrainedModule``."""
        return self.state.sites

    def step(
        self, batch: Activations, settings: StepSettings
    ) -> Generator[None, None, dict[Site, StepResult]]:
        """See ``TrainedModule``."""
        rows = {site: (batch.rows[site].inputs, batch.rows[site].outputs) for site in self.sites}
        return (
            yield from clt_training_step(self.state, self._scratch, rows, settings, self._peers)
        )

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """See ``TrainedModule``."""
        return self.state.tensors()


def dictionaries_of(modules: Iterable[TrainedModule]) -> DictionarySet:
    """The dictionaries in training, as they are now."""
    transcoders: dict[int, Transcoder] = {}
    lorsas: dict[int, Lorsa] = {}
    clt: Optional[CrossLayerTranscoder] = None
    for module in modules:
        if isinstance(module, TranscoderModule):
            transcoders[module.site.layer] = module.state.dictionary
        elif isinstance(module, LorsaModule):
            lorsas[module.site.layer] = module.state.dictionary
        elif isinstance(module, CLTModule):
            clt = module.state.clt
    return DictionarySet(transcoders, lorsas, clt)
