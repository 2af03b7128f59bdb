"""The C kernels, as Python sees them, against the NumPy reference and the plain Python oracle."""

from __future__ import annotations

import zlib
from dataclasses import replace

import kernel_oracle
import numpy as np
import pytest
from integer_models import model_of, random_model
from kernel_cases import Case, random_case

from tfmix.errors import TfmixError
from tfmix.integer import abi, reference, runtime
from tfmix.integer.abi import ConvParams
from tfmix.integer.lower import KernelCall, lower
from tfmix.integer.model import IntegerNode, IntegerTensor, IntegerWeights, Kernel
from tfmix.integer.packing import constants_size, pack
from tfmix.integer.runtime import CRuntime, bind, prepare, scratch_bytes
from tfmix.integer.schedule import schedule_of
from tfmix.ir.graph import Window
from tfmix.ir.quant import QuantParams, max_level
from tfmix.ir.schedule import depthwise_scratch_bytes

CASES_PER_VARIANT = 12
GUARD = 32  # bytes before and after each buffer
CANARY = 0xA5


class GuardedBuffer:
    """A buffer in the middle of bytes that must stay as they are."""

    def __init__(self, contents: np.ndarray, misalign: int = 0):
        self._size = contents.size
        self._start = GUARD + misalign
        self._memory = np.full(self._start + self._size + GUARD, CANARY, np.uint8)
        self.view[:] = contents

    @property
    def view(self) -> np.ndarray:
        return self._memory[self._start : self._start + self._size]

    def check_guards(self) -> None:
        assert (self._memory[: self._start] == CANARY).all()
        assert (self._memory[self._start + self._size :] == CANARY).all()


def run_guarded(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Packed output of the node's kernel; nothing else may have changed."""
    call = lower(case.node, case.tensors)
    sizes = prepare(call)
    packed = [
        pack(x, case.tensors[name].quant.bits)
        for name, x in zip(case.node.inputs, case.inputs, strict=True)
    ]
    inputs = [GuardedBuffer(x, misalign=int(rng.integers(4))) for x in packed]
    # The output begins as noise: every byte has to be written, unused bits included.
    noise = rng.integers(0, 256, sizes.output, np.uint8)
    output = GuardedBuffer(noise, misalign=int(rng.integers(4)))
    scratch = GuardedBuffer(rng.integers(0, 256, sizes.scratch, np.uint8))
    bind(call, sizes, [x.view for x in inputs], output.view, scratch.view)()
    for buffer in (*inputs, output, scratch):
        buffer.check_guards()
    for buffer, before in zip(inputs, packed, strict=True):
        np.testing.assert_array_equal(buffer.view, before)
    return output.view


@pytest.mark.parametrize("variant", abi.all_variants())
def test_variant_equals_reference_and_oracle(variant):
    rng = np.random.default_rng(zlib.crc32(variant.encode()))
    for _ in range(CASES_PER_VARIANT):
        case = random_case(variant, rng)
        output = case.tensors["y"]
        expected = kernel_oracle.run(case.node, [x.tolist() for x in case.inputs], case.tensors)
        batch = {name: x[None] for name, x in zip(case.node.inputs, case.inputs, strict=True)}
        normative = reference.run_node(case.node, batch, case.tensors)
        np.testing.assert_array_equal(normative.reshape(-1), expected, str(case))
        found = run_guarded(case, rng)
        np.testing.assert_array_equal(found, pack(np.array(expected), output.quant.bits), str(case))


def equal_products_case(
    kernel: Kernel, features: int, *, x: int, w: int, zero_point: int, bias: int, bits: int = 8
) -> Case:
    """Each output sums `features` equal products x * (w - zero_point); M is 2^-24.

    conv2d has five pixels: four that share their weights, and one that is left over.
    """
    pixels = 5 if kernel is Kernel.CONV2D else 1
    shape = (1, 1, 1, features) if kernel is Kernel.CONV2D else (1, features)
    weights = IntegerWeights(
        values=np.full(shape, w, np.uint8),
        bits=bits,
        per_channel=True,
        zero_point=np.array([zero_point], np.uint8),
        bias=np.array([bias], np.int32),
        multiplier=np.array([2**8], np.int32),
        left_shift=0,
    )
    tensors = {
        "x": IntegerTensor("x", (1, pixels, features), QuantParams(0.1, 0, bits)),
        "y": IntegerTensor("y", (1, pixels, 1), QuantParams(0.1, 128, 8)),
    }
    node = IntegerNode(
        name="node",
        kernel=kernel,
        inputs=("x",),
        output="y",
        input_shapes=(tensors["x"].shape,),
        output_shape=tensors["y"].shape,
        window=Window((1, 1)) if kernel is Kernel.CONV2D else None,
        weights=weights,
    )
    return Case(node, tensors, (np.full(tensors["x"].shape, x, np.uint8),))


@pytest.mark.parametrize("kernel", [Kernel.CONV2D, Kernel.FULLY_CONNECTED])
@pytest.mark.parametrize(
    ("w", "zero_point", "bias", "expected"),
    [(255, 0, 33_022, 255), (0, 255, -33_023, 0), (255, 255, 0, 128)],
)
def test_sums_at_the_ends_of_int32(kernel, w, zero_point, bias, expected):
    # 33,025 products of 255 * 255 are 2^31 - 1 - 33,022.
    case = equal_products_case(kernel, 33_025, x=255, w=w, zero_point=zero_point, bias=bias)
    found = run_guarded(case, np.random.default_rng(0))
    assert set(found.tolist()) == {expected}


@pytest.mark.parametrize("kernel", [Kernel.CONV2D, Kernel.FULLY_CONNECTED])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("features", [63, 64, 65, 95, 96, 97, 191, 193, 1001])
def test_sums_of_any_length(kernel, bits, features):
    case = equal_products_case(
        kernel, features, x=max_level(bits), w=max_level(bits), zero_point=1, bias=0, bits=bits
    )
    weights = replace(case.node.weights, multiplier=np.array([2**20], np.int32))
    case = replace(case, node=replace(case.node, weights=weights))
    expected = kernel_oracle.run(case.node, [x.tolist() for x in case.inputs], case.tensors)
    assert run_guarded(case, np.random.default_rng(0)).tolist() == expected


# -- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_network_equals_reference(seed):
    model = random_model(seed, nodes=8)
    q = np.random.default_rng(seed).integers(0, 256, (3, *model.input_shape), np.uint8)
    executor = CRuntime(model)
    expected = reference.run(model, q)
    found = executor.tensors(q)
    assert found.keys() == model.tensors.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], values, name)
    output = executor.run(q)
    assert output.dtype == np.uint8
    assert output.shape == (3, *model.output_shape)
    np.testing.assert_array_equal(output.reshape(3, -1), expected[model.output].reshape(3, -1))


def test_runs_are_independent():
    model = random_model(7, nodes=8)
    q = np.random.default_rng(7).integers(0, 256, (4, *model.input_shape), np.uint8)
    executor = CRuntime(model)
    together = executor.run(q)
    np.testing.assert_array_equal(executor.run(q[2:3]), together[2:3])
    np.testing.assert_array_equal(executor.run(q[::-1]), together[::-1])


def test_no_images():
    model = model_of(Kernel.CONV2D)
    empty = np.zeros((0, *model.input_shape), np.uint8)
    assert CRuntime(model).run(empty).shape == (0, *model.output_shape)


@pytest.mark.parametrize(
    "q", [np.zeros((1, 2, 2), np.uint8), np.zeros((1, 4, 4, 3), np.float32), [[1]]]
)
def test_wrong_input_is_refused(q):
    model = random_model(0)
    with pytest.raises(TfmixError, match="uint8"):
        CRuntime(model).run(q)


def test_refusal_names_node_and_variant():
    model = model_of(Kernel.CONV2D)
    index = next(i for i, node in enumerate(model.nodes) if node.kernel is Kernel.CONV2D)
    node = model.nodes[index]
    broken = replace(node, window=replace(node.window, strides=(0, 1)))
    nodes = (*model.nodes[:index], broken, *model.nodes[index + 1 :])
    with pytest.raises(TfmixError, match=rf"{node.name}: conv2d_a\dw\do\d_p[cl] refuses.*size"):
        CRuntime(replace(model, nodes=nodes))


def test_tensor_of_another_size_is_refused():
    model = model_of(Kernel.MAX_POOL)
    name = model.nodes[-1].inputs[0]
    tensor = model.tensors[name]
    tensors = {**model.tensors, name: replace(tensor, shape=(*tensor.shape, 3))}
    with pytest.raises(TfmixError, match=rf"'{name}' of \d+ bytes, .* expects \d+"):
        CRuntime(replace(model, tensors=tensors))


def test_constants_of_another_size_are_refused():
    model = model_of(Kernel.CONV2D)
    node = next(node for node in model.nodes if node.kernel is Kernel.CONV2D)
    call = lower(node, model.tensors)
    sizes = prepare(call)
    buffers = [np.zeros(sizes.inputs[0], np.uint8), np.zeros(sizes.output, np.uint8)]
    scratch = np.zeros(sizes.scratch, np.uint8)
    with pytest.raises(TfmixError, match=f"{node.name}: constants of"):
        bind(replace(call, constants=b"\0"), sizes, buffers[:1], buffers[1], scratch)
    with pytest.raises(TfmixError, match=f"{node.name}: scratch of 0 bytes"):
        bind(call, sizes, buffers[:1], buffers[1], scratch[:0])
    with pytest.raises(TfmixError, match=f"{node.name}: 1 inputs"):
        bind(call, sizes, [], buffers[1], scratch)


@pytest.mark.parametrize("kernel", Kernel)
def test_scratch_is_what_the_schedule_says(kernel):
    for seed in range(20):
        model = model_of(kernel, seed)
        for step, node in zip(schedule_of(model).steps, model.nodes, strict=True):
            assert scratch_bytes(node, model.tensors) == step.scratch


def test_scratch_of_depthwise_layers_large_and_small():
    rng = np.random.default_rng(0)
    for _ in range(300):
        axes = []
        for _ in range(2):
            kernel, stride, size = (int(rng.integers(1, n)) for n in (16, 5, 200))
            output = int(rng.integers(1, (size - 1) // stride + 2))
            axes.append((kernel, stride, size, output))
        (kh, sh, ih, oh), (kw, sw, iw, ow) = axes
        params = ConvParams(
            input_height=ih,
            input_width=iw,
            input_channels=3,
            output_height=oh,
            output_width=ow,
            output_channels=3,
            kernel_height=kh,
            kernel_width=kw,
            stride_height=sh,
            stride_width=sw,
            multiplier_count=1,
        )
        constants = constants_size(3 * kh * kw, 8, 3, 1, 3)
        call = KernelCall(
            "node", "depthwise_conv2d_a8w8o8_pc", Kernel.DEPTHWISE_CONV2D, bytes(params),
            bytes(constants), ("x",), "y",
        )  # fmt: skip
        assert prepare(call).scratch == depthwise_scratch_bytes((kh, kw), (sh, sw), (oh, ow))


def test_missing_library_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "_LIBRARY", tmp_path / "_kernels.so")
    runtime.load_library.cache_clear()
    try:
        with pytest.raises(TfmixError, match="pip install"):
            CRuntime(random_model(0))
        (tmp_path / "_kernels.so").write_bytes(b"not a library")
        with pytest.raises(TfmixError, match="do not load"):
            CRuntime(random_model(0))
    finally:
        runtime.load_library.cache_clear()
