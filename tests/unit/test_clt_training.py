"""The streamed step of cross-layer transcoders against autograd on the loss as one writes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Optional

import psutil
import pytest
import torch
from torch import Tensor

from attention_studio.core.clt_state import CLTScratch, CLTState, is_trained
from attention_studio.core.clt_training import clt_training_step
from attention_studio.core.dictionaries.clt import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from attention_studio.core.dictionaries.transcoder_config import ActivationKind
from attention_studio.core.sites import Site
from attention_studio.core.tensor_store import TensorStore, TensorStoreError
from attention_studio.core.training_config import StepSettings
from attention_studio.utils.files import FileWriteError
from tests.steps import KINDS, SETTINGS, HasAll, HasNothing, counted, finish
from tests.straight_through import JumpReLU, Step

SELECTIONS: list[tuple[ActivationKind, bool]] = [
    *((kind, False) for kind in KINDS),
    ("topk", True),
    ("batchtopk", True),
]
LAYERS = (1, 2, 4)
N, D, S = 50, 12, 40
K, CHUNK = SETTINGS.k, SETTINGS.token_chunk
Rows = dict[Site, tuple[Tensor, Tensor]]


def make_state(
    kind: ActivationKind,
    dtype: torch.dtype = torch.float64,
    folder: Optional[Path] = None,
    norm_aware: bool = False,
) -> CLTState:
    """A random transcoder with scales, some of its latents dead at the two lower positions."""
    g = torch.Generator().manual_seed(0)
    config = CrossLayerTranscoderConfig(
        d_model=D, layers=LAYERS, d_latent=S, activation=kind, k=K, norm_aware=norm_aware
    )
    store = TensorStore(folder, dtype=dtype)
    shapes = [config.tensor_shapes(i)["W_D"] for i in range(len(LAYERS))]
    clt = CrossLayerTranscoder(config, [store.zeros(shape) for shape in shapes])
    for name, parameter in clt.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.4)
        if name.startswith("threshold"):
            parameter.abs_()
    for decoders in clt.W_D:
        decoders[:, 3] = 0.0  # a latent that writes nothing must not give NaN
        decoders[:, ::4] *= 4.0
    clt.input_scale.copy_(torch.tensor([0.7, 1.2, 0.5]))
    clt.output_scale.copy_(torch.tensor([1.9, 0.8, 1.1]))
    if dtype != torch.float32:
        clt.to(dtype)
    if clt.selection_norm is not None:
        for i in range(len(LAYERS)):
            clt.selection_norm[i] = clt.decoder_norms(i)
    state = CLTState.new(clt, store)
    state.tokens_since_fired[0, ::3] = 1000
    state.tokens_since_fired[1, 1:12] = 1000
    return state


def make_rows(seed: int = 1, dtype: torch.dtype = torch.float64) -> Rows:
    g = torch.Generator().manual_seed(seed)
    return {
        Site(layer, "mlp"): (
            torch.randn(N, D, generator=g, dtype=torch.float64).to(dtype),
            torch.randn(N, D, generator=g, dtype=torch.float64).to(dtype),
        )
        for layer in LAYERS
    }


def scratch_for(state: CLTState, token_chunk: int = CHUNK) -> CLTScratch:
    return CLTScratch(state.clt.config, N, token_chunk, dtype=state.clt.b_E[0].dtype)


def parameters(state: CLTState) -> list[dict[str, Tensor]]:
    """Copies of what is trained, by position."""
    clt = state.clt
    return [
        {
            name: tensor.clone()
            for name, tensor in clt.tensors(i).items()
            if is_trained(clt.config, name)
        }
        for i in range(len(LAYERS))
    ]


def ranking(clt: CrossLayerTranscoder, decoders: Tensor) -> Tensor:
    """What pre-activations are ranked with, from all of a position's decoders ``[n, s, d]``."""
    if not clt.config.norm_aware:
        return torch.ones_like(decoders[0, :, 0])
    norms = decoders.transpose(0, 1).flatten(1).norm(dim=1)
    return (norms / norms.mean()).clamp_min(0.1)


def autograd_twin(
    state: CLTState, weights: list[dict[str, Tensor]], rows: Rows, settings: StepSettings
) -> tuple[float, list[dict[str, Tensor]]]:
    """Loss and gradients, dense and slow."""
    clt, kind = state.clt, state.clt.config.activation
    p = [{name: t.clone().requires_grad_() for name, t in entry.items()} for entry in weights]
    loss = torch.zeros((), dtype=torch.float64)
    f, z, dead = [], [], []
    for i, (inputs, _) in enumerate(rows.values()):
        pre = inputs * clt.input_scale[i] @ p[i]["W_E"].T + p[i]["b_E"]
        keys = pre.detach() * ranking(clt, weights[i]["W_D"])
        if kind == "relu":
            f.append(pre.relu())
        elif kind == "topk":
            chosen = keys.topk(settings.k, dim=1).indices
            f.append(pre.relu() * torch.zeros_like(pre).scatter(1, chosen, 1.0))
        elif kind == "batchtopk":
            groups = []
            chunks = zip(*(t.split(settings.token_chunk) for t in (pre, keys)), strict=True)
            for group, key in chunks:
                least = key.relu().flatten().topk(settings.k * len(group)).values[-1]
                groups.append(group.relu() * (key >= least))
            f.append(torch.cat(groups))
        else:
            f.append(JumpReLU.apply(pre, p[i]["threshold"], settings.bandwidth))
            count = Step.apply(pre.detach(), p[i]["threshold"], settings.bandwidth)
            loss = loss + settings.l0 * count.sum(1).mean()
        if kind == "relu":
            norms = p[i]["W_D"].transpose(0, 1).flatten(1).norm(dim=1)
            loss = loss + settings.l1 * (f[i] * norms).sum(1).mean()
        silent = state.tokens_since_fired[i] >= settings.dead_after_tokens
        dead.append(silent.nonzero().squeeze(1))
        candidates = pre[:, dead[i]].relu()
        if settings.auxk < dead[i].numel():
            chosen = candidates.topk(settings.auxk, dim=1).indices
            candidates = candidates * torch.zeros_like(candidates).scatter(1, chosen, 1.0)
        z.append(candidates)
    for j, (_, outputs) in enumerate(rows.values()):
        predicted = p[j]["b_D"] + sum(f[i] @ p[i]["W_D"][j - i] for i in range(j + 1))
        error = predicted - outputs * clt.output_scale[j]
        loss = loss + error.square().sum(1).mean()
        written = sum(z[i] @ p[i]["W_D"][j - i][dead[i]] for i in range(j + 1))
        residual = written + error.detach()
        loss = loss + settings.auxk_coefficient * residual.square().sum(1).mean()
    loss.backward()
    return loss.item(), [
        {name: t.grad for name, t in entry.items() if t.grad is not None} for entry in p
    ]


@pytest.mark.parametrize("auxk", [4, 999])
@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_every_gradient_equals_autograd(kind: ActivationKind, norm_aware: bool, auxk: int) -> None:
    """Read off Adam's first moments, which after one step are the gradients times 1 − β₁."""
    state, rows = make_state(kind, norm_aware=norm_aware), make_rows()
    settings = replace(SETTINGS, auxk=auxk)
    loss, expected = autograd_twin(state, parameters(state), rows, settings)
    results = finish(clt_training_step(state, scratch_for(state), rows, settings))
    assert sum(result.loss for result in results.values()) == pytest.approx(loss, rel=1e-10)
    for i, entry in enumerate(expected):
        assert set(entry) == set(state.first[i])
        for name, gradient in entry.items():
            assert gradient.abs().max() > 0, name
            found = state.first[i][name] / (1 - settings.beta1)
            torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-11)
    if norm_aware:
        plain = make_state(kind)
        other, _ = autograd_twin(plain, parameters(plain), rows, settings)
        assert other != pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_close_to_autograd(kind: ActivationKind) -> None:
    exact = make_state(kind)
    _, expected = autograd_twin(exact, parameters(exact), make_rows(), SETTINGS)
    state = make_state(kind, torch.float32)
    finish(clt_training_step(state, scratch_for(state), make_rows(dtype=torch.float32), SETTINGS))
    for i, entry in enumerate(expected):
        for name, gradient in entry.items():
            found = state.first[i][name].double() / (1 - SETTINGS.beta1)
            assert (found - gradient).norm() / gradient.norm() < 1e-5, (i, name)


@pytest.mark.parametrize("norm_aware", [False, True])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_ranking_in_bfloat16_keeps_values_and_gradients_exact(
    kind: ActivationKind, norm_aware: bool
) -> None:
    """Encoder and inputs that bfloat16 holds exactly rank the same, and then all is the same."""
    ends = []
    for selection in (torch.float32, torch.bfloat16):
        state = make_state(kind, torch.float32, norm_aware=norm_aware)
        rows = make_rows(dtype=torch.float32)
        for i, (x, _) in enumerate(rows.values()):
            state.clt.input_scale[i] = 1.0
            state.clt.b_E[i].zero_()
            # One coordinate each, so that the products are exact too.
            state.clt.W_E[i].zero_()
            state.clt.W_E[i][torch.arange(S), torch.arange(S) % D] = 1 + torch.arange(S) // D / 8
            x.copy_((x * 8).round() / 8)
            if state.clt.selection_norm is not None:
                # Four groups of latents, whose norms differ by powers of two from their mean.
                state.clt.selection_norm[i] = torch.tensor([0.5, 0.5, 1.0, 2.0]).repeat(S // 4)
        scratch = CLTScratch(state.clt.config, N, CHUNK, selection_dtype=selection)
        assert (scratch.low_encoder is not None) == (selection == torch.bfloat16)
        settings = replace(SETTINGS, k=S) if kind == "topk" else SETTINGS
        results = finish(clt_training_step(state, scratch, rows, settings))
        ends.append((results, state.first))
    for here, there in zip(ends[0][0].values(), ends[1][0].values(), strict=True):
        assert here.loss == pytest.approx(there.loss, rel=1e-6)
    for here, there in zip(ends[0][1], ends[1][1], strict=True):
        for name, gradient in here.items():
            torch.testing.assert_close(there[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_dead_latent_is_pulled_by_all_layers_above() -> None:
    """Silent in the main path, AuxK gives its encoder and every one of its decoders a gradient."""
    for coefficient in (0.0, 1.0):
        state = make_state("topk")
        state.tokens_since_fired.zero_()
        state.tokens_since_fired[0, 6] = 1000
        # Weak but positive: never among the selected, always a candidate.
        state.clt.W_E[0][6] = 0.0
        state.clt.b_E[0][6] = 1e-4
        settings = replace(SETTINGS, auxk_coefficient=coefficient, k=1)
        finish(clt_training_step(state, scratch_for(state), make_rows(), settings))
        moved = [bool(state.first[0]["W_D"][t, 6].abs().max() > 0) for t in range(3)]
        assert moved == [coefficient > 0] * 3
        assert bool(state.first[0]["W_E"][6].abs().max() > 0) == (coefficient > 0)
        assert bool(state.first[0]["b_E"][6] != 0) == (coefficient > 0)


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_streamed_updates_are_torch_adam_with_all_gradients_at_hand(
    kind: ActivationKind, norm_aware: bool, clip: Optional[float]
) -> None:
    """Clipped by decoder, and by encoder with its biases and thresholds. Where latents are ranked
    by norm, each step ranks them by the norms that the step before has left."""
    state = make_state(kind, norm_aware=norm_aware)
    settings = replace(SETTINGS, clip_norm=clip, weight_decay=2.0)  # there is none here
    scratch = scratch_for(state)
    twin = parameters(state)
    adam = torch.optim.Adam(
        [t for entry in twin for t in entry.values()], lr=settings.learning_rate
    )
    for step in range(4):
        rows = make_rows(seed=step)
        _, gradients = autograd_twin(state, twin, rows, settings)
        norms = []
        for entry, found in zip(twin, gradients, strict=True):
            blocks = [[found["W_D"][t]] for t in range(len(found["W_D"]))]
            blocks.append([gradient for name, gradient in found.items() if name != "W_D"])
            sizes = [torch.stack([g.norm() for g in block]).norm() for block in blocks]
            norms.append(torch.stack(sizes).norm().item())
            for block, size in zip(blocks, sizes, strict=True):
                for gradient in block:
                    if clip is not None and size > clip:
                        gradient *= clip / (size + 1e-6)
            for name, parameter in entry.items():
                parameter.grad = found[name]
        adam.step()
        for entry in twin:
            if "threshold" in entry:
                entry["threshold"].clamp_(min=0.0)
        results = finish(clt_training_step(state, scratch, rows, settings))
        assert [r.gradient_norm for r in results.values()] == pytest.approx(norms, rel=1e-9)
        for i, entry in enumerate(twin):
            for name, parameter in entry.items():
                torch.testing.assert_close(
                    state.clt.tensors(i)[name], parameter, rtol=1e-7, atol=1e-9
                )
            if state.clt.selection_norm is not None:
                norms = entry["W_D"].transpose(0, 1).flatten(1).norm(dim=1)
                torch.testing.assert_close(state.clt.selection_norm[i], norms)
    assert state.steps == 4


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_decoders_that_start_at_zero_are_ranked_by_norm_from_the_second_step(
    kind: ActivationKind,
) -> None:
    ends = []
    for norm_aware in (False, True):
        state = make_state(kind, norm_aware=norm_aware)
        for decoders in state.clt.W_D:
            decoders.zero_()
        if state.clt.selection_norm is not None:
            state.clt.selection_norm.zero_()
        scratch, found = scratch_for(state), []
        for step in range(3):
            results = finish(clt_training_step(state, scratch, make_rows(step), SETTINGS))
            found.append([result.loss for result in results.values()])
        ends.append(found)
        if state.clt.selection_norm is not None:
            for i in range(len(LAYERS)):
                norms = state.clt.decoder_norms(i)
                assert norms.any()
                torch.testing.assert_close(state.clt.selection_norm[i], norms)
    assert ends[0][0] == ends[1][0]
    assert ends[0][2] != pytest.approx(ends[1][2], rel=1e-6)


@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_decoders_on_disk_give_the_same_bits(
    kind: ActivationKind, norm_aware: bool, tmp_path: Path
) -> None:
    ends = []
    for folder in (None, tmp_path / "decoders"):
        state = make_state(kind, torch.float32, folder, norm_aware)
        scratch = scratch_for(state)
        results = [
            finish(clt_training_step(state, scratch, make_rows(seed, torch.float32), SETTINGS))
            for seed in range(3)
        ]
        ends.append((results, state.tensors()))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1].keys() == ends[1][1].keys()
    for stem, tensors in ends[0][1].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ends[1][1][stem][name]), (stem, name)
    # Nothing is left behind, whatever happens to the process.
    assert not list((tmp_path / "decoders").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_sizes_do_not_change_the_step(kind: ActivationKind) -> None:
    """Row chunks never do; token chunks only where they are BatchTopK's selection group."""
    found = []
    for row_chunk, token_chunk in (
        (7, CHUNK),
        (S, CHUNK),
        (1, CHUNK if kind == "batchtopk" else N),
    ):
        state = make_state(kind)
        settings = replace(SETTINGS, row_chunk=row_chunk, token_chunk=token_chunk)
        finish(clt_training_step(state, scratch_for(state, token_chunk), make_rows(), settings))
        found.append(state.first)
    for other in found[1:]:
        for here, there in zip(found[0], other, strict=True):
            for name, gradient in here.items():
                torch.testing.assert_close(there[name], gradient, rtol=1e-10, atol=1e-13)


def test_statistics_of_a_batch() -> None:
    state, rows = make_state("topk"), make_rows()
    clt = state.clt
    f = {i: clt.encode(i, x) for i, (x, _) in enumerate(rows.values())}
    expected = [
        (clt.decode_to(j, f) - y).square().sum() / (y - y.mean(0)).square().sum()
        for j, (_, y) in enumerate(rows.values())
    ]
    state.tokens_since_fired.fill_(60)
    results = finish(clt_training_step(state, scratch_for(state), rows, SETTINGS))
    assert list(results) == list(rows) == list(state.sites)
    for i, result in enumerate(results.values()):
        assert result.fvu == pytest.approx(expected[i].item(), rel=1e-9)
        assert result.l0 == pytest.approx((f[i] > 0).double().sum(1).mean().item())
        silent = ~(f[i] > 0).any(0)
        assert silent.any()
        assert state.tokens_since_fired[i].tolist() == [110 if quiet else 0 for quiet in silent]
        assert result.dead == int(silent.sum())


@pytest.mark.parametrize("silent", [False, True])
def test_batchtopk_keeps_a_running_threshold_per_layer(silent: bool) -> None:
    """It starts with the first chunk that selects anything."""
    state, rows = make_state("batchtopk"), make_rows()
    expected = []
    for i, (x, _) in enumerate(rows.values()):
        mean: Optional[float] = None
        if silent:
            x[:CHUNK] = 0.0
            state.clt.b_E[i].zero_()
        for group in state.clt.pre_activations(i, x).split(CHUNK)[silent:]:
            least = group.flatten().topk(K * len(group)).values[-1].item()
            mean = least if mean is None else 0.99 * mean + 0.01 * least
        expected.append(mean)
    finish(clt_training_step(state, scratch_for(state), rows, SETTINGS))
    assert state.clt.threshold is not None
    assert state.clt.threshold.tolist() == pytest.approx(expected)


def test_the_state_is_all_in_its_tensors() -> None:
    """Copied into a fresh state, they make the next step the same."""
    state = make_state("jumprelu")
    scratch = scratch_for(state)
    finish(clt_training_step(state, scratch, make_rows(), SETTINGS))
    other = make_state("jumprelu")
    names = {"clt_01", "clt_02", "clt_04", "clt_01_to_01", "clt_01_to_02", "clt_01_to_04"}
    assert set(state.tensors()) == names | {"clt_02_to_02", "clt_02_to_04", "clt_04_to_04"}
    for stem, tensors in other.tensors().items():
        for name, tensor in tensors.items():
            tensor.copy_(state.tensors()[stem][name])
    other.steps = state.steps
    for s in (state, other):
        finish(clt_training_step(s, scratch, make_rows(2), SETTINGS))
    for stem, tensors in other.tensors().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, state.tensors()[stem][name]), (stem, name)


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("selection", [None, torch.bfloat16])
@pytest.mark.parametrize(("kind", "norm_aware"), SELECTIONS)
def test_a_process_without_rows_makes_the_same_step(
    kind: ActivationKind, norm_aware: bool, selection: Optional[torch.dtype], dead: bool
) -> None:
    rows = make_rows(dtype=torch.float32)
    nothing = {site: (x[:0], y[:0]) for site, (x, y) in rows.items()}
    all_of_it = HasAll()
    ends = []
    for part in (rows, nothing):
        state = make_state(kind, torch.float32, norm_aware=norm_aware)
        state.tokens_since_fired *= dead
        scratch = CLTScratch(state.clt.config, N, CHUNK, selection_dtype=selection)
        peers = all_of_it if part is rows else HasNothing(all_of_it)
        result = finish(clt_training_step(state, scratch, part, SETTINGS, peers))
        ends.append((result, state.tensors()))
    assert isinstance(peers, HasNothing) and not peers.left
    assert ends[0][0] == ends[1][0]
    for stem, tensors in ends[0][1].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ends[1][1][stem][name]), (stem, name)


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_many_micro_steps(kind: ActivationKind) -> None:
    state = make_state(kind)
    _, count = counted(clt_training_step(state, scratch_for(state), make_rows(), SETTINGS))
    assert count > 2 * 6 * (N // CHUNK)  # every pair is passed twice, in chunks of tokens


def test_a_store_on_disk_needs_the_cpu_and_a_place_to_write(tmp_path: Path) -> None:
    with pytest.raises(TensorStoreError, match="CPU"):
        TensorStore(tmp_path, device="cuda")
    (tmp_path / "file").touch()
    with pytest.raises(FileWriteError, match="file"):
        TensorStore(tmp_path / "file").zeros((2, 3))


@pytest.mark.parametrize("shape", [(0,), (0, 5, 3), (5, 0)])
def test_nothing_can_be_stored_too(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for folder in (None, tmp_path):
        store = TensorStore(folder, dtype=torch.float16)
        nothing = store.zeros(shape)
        assert nothing.shape == shape
        assert nothing.dtype == torch.float16
        store.release(nothing)


def resident(folder: Path) -> int:
    """Bytes of files that were made in a folder that this process has in memory."""
    maps = psutil.Process().memory_maps() if psutil.LINUX else []
    return sum(m.rss for m in maps if m.path.startswith(str(folder)))


def test_a_released_tensor_keeps_its_content(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    tensor = store.zeros((3, 1000, 1000))
    assert not tensor.any()
    tensor += torch.arange(1000.0)
    before = resident(tmp_path)
    store.release(tensor[1])
    if psutil.LINUX:
        assert before >= 12_000_000
        assert 3_900_000 <= before - resident(tmp_path) <= 4_010_000
    store.release(tensor)
    assert resident(tmp_path) == 0
    assert (tensor == torch.arange(1000.0)).all()
