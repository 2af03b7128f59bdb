"""As much of a TensorFlow Lite interpreter as the delegate sees, and nothing between it and a file.

The real one refuses some damaged files, does not survive others, and keeps its tensors in one block
of memory, where a sanitizer sees no boundaries. This one hands every operator of a file to the
delegate (kernels/host/delegate.cc), each tensor in an allocation of its exact size.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p

import numpy as np

from tfmix.export import tflite

OK, ERROR = 0, 1
_CUSTOM = 32
_MMAP_RO, _ARENA = 1, 2


class IntArray(ctypes.Structure):
    """TfLiteIntArray; `make` gives one of the right length."""

    _fields_ = [("size", c_int32), ("data", c_int32 * 0)]

    @classmethod
    def make(cls, values: tuple[int, ...]) -> ctypes.Array:
        return (c_int32 * (1 + len(values)))(len(values), *values)


class Tensor(ctypes.Structure):
    _fields_ = [
        ("type", c_int32),
        ("data", c_void_p),
        ("dims", c_void_p),
        ("scale", ctypes.c_float),
        ("zero_point", c_int32),
        ("allocation_type", c_int32),
        ("bytes", c_size_t),
        ("allocation", c_void_p),
        ("name", c_char_p),
        ("rest", c_int64 * 6),
    ]


class Node(ctypes.Structure):
    _fields_ = [
        ("inputs", c_void_p),
        ("outputs", c_void_p),
        ("intermediates", c_void_p),
        ("temporaries", c_void_p),
        ("user_data", c_void_p),
        ("builtin_data", c_void_p),
        ("custom_initial_data", c_void_p),
        ("custom_initial_data_size", c_int32),
    ]


_INIT = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_size_t)
_FREE = CFUNCTYPE(None, c_void_p, c_void_p)
_STEP = CFUNCTYPE(c_int, c_void_p, POINTER(Node))


class Registration(ctypes.Structure):
    _fields_ = [
        ("init", _INIT),
        ("free", _FREE),
        ("prepare", _STEP),
        ("invoke", _STEP),
        ("profiling_string", c_void_p),
        ("builtin_code", c_int32),
        ("custom_name", c_char_p),
        ("version", c_int32),
        ("rest", c_int64 * 8),
    ]


_PLAN = CFUNCTYPE(c_int, c_void_p, POINTER(c_void_p))
_REPORT = CFUNCTYPE(None, c_void_p, c_char_p)
_GET_NODE = CFUNCTYPE(c_int, c_void_p, c_int32, POINTER(c_void_p), POINTER(c_void_p))
_REPLACE = CFUNCTYPE(c_int, c_void_p, Registration, c_void_p, c_void_p)


class Context(ctypes.Structure):
    _fields_ = [
        ("tensors_size", c_size_t),
        ("GetExecutionPlan", _PLAN),
        ("tensors", POINTER(Tensor)),
        ("impl_", c_void_p),
        ("ResizeTensor", c_void_p),
        ("ReportError", _REPORT),
        ("AddTensors", c_void_p),
        ("GetNodeAndRegistration", _GET_NODE),
        ("ReplaceNodeSubsetsWithDelegateKernels", _REPLACE),
    ]


class Delegate(ctypes.Structure):
    _fields_ = [("data_", c_void_p), ("Prepare", CFUNCTYPE(c_int, c_void_p, c_void_p))]


class _DelegateParams(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("delegate", "nodes", "inputs", "outputs")]


def tensor_bytes(file: tflite.TfliteModel) -> list[int]:
    """What each tensor takes by its shape, -1 where that makes no sense."""
    sizes = []
    for tensor in file.tensors:
        size = 1
        for dimension in tensor.shape:
            size = size * dimension if size >= 0 and dimension >= 0 else -1
        sizes.append(size if tensor.data is None else len(tensor.data))
    return sizes


def run(library: ctypes.CDLL, file: tflite.TfliteModel) -> str:
    """Applies the delegate to all operators and runs them. "refused" by Apply or Prepare, or "ran".

    The caller has seen to it that tensor_bytes are reasonable.
    """
    return _Interpreter(library, file).run()


class _Interpreter:
    def __init__(self, library: ctypes.CDLL, file: tflite.TfliteModel):
        self._library, self._file = library, file
        self._keep: list[object] = []
        self._made: list[tuple[Registration, Node]] = []
        count = len(file.tensors)
        self._tensors = (Tensor * max(1, count))()
        for raw, tensor, size in zip(self._tensors, file.tensors, tensor_bytes(file), strict=False):
            content = tensor.data if tensor.data is not None else bytes(size)
            buffer = np.frombuffer(content, np.uint8).copy()
            shape = tensor.shape if tensor.data is None else (size,)
            raw.type, raw.bytes = tensor.type, size
            raw.data = buffer.ctypes.data if size else None
            raw.dims = self._kept(IntArray.make(shape))
            raw.allocation_type = _ARENA if tensor.data is None else _MMAP_RO
            raw.name = tensor.name.encode()
            self._keep.append(buffer)
        self._nodes = [self._node(operator) for operator in file.operators]
        self._registrations = [
            Registration(builtin_code=_CUSTOM, custom_name=operator.custom_code.encode())
            for operator in file.operators
        ]
        self._plan = IntArray.make(tuple(range(len(self._nodes))))
        self._context = Context(
            tensors_size=count,
            tensors=self._tensors,
            GetExecutionPlan=_PLAN(self._get_plan),
            ReportError=_REPORT(lambda context, text: None),
            GetNodeAndRegistration=_GET_NODE(self._get_node),
            ReplaceNodeSubsetsWithDelegateKernels=_REPLACE(self._replace),
        )

    def _kept(self, array: ctypes.Array) -> int:
        self._keep.append(array)
        return ctypes.addressof(array)

    def _node(self, operator: tflite.Operator) -> Node:
        options = np.frombuffer(operator.options, np.uint8).copy()  # allocated to the byte
        self._keep.append(options)
        return Node(
            inputs=self._kept(IntArray.make(operator.inputs)),
            outputs=self._kept(IntArray.make(operator.outputs)),
            custom_initial_data=options.ctypes.data if options.size else None,
            custom_initial_data_size=options.size,
        )

    def _get_plan(self, context: int, plan: object) -> int:
        plan[0] = ctypes.addressof(self._plan)
        return OK

    def _get_node(self, context: int, index: int, node: object, registration: object) -> int:
        if not 0 <= index < len(self._nodes):
            return ERROR
        node[0] = ctypes.addressof(self._nodes[index])
        registration[0] = ctypes.addressof(self._registrations[index])
        return OK

    def _replace(self, context: int, registration: Registration, nodes: int, delegate: int) -> int:
        own = Registration.from_buffer_copy(registration)
        params = _DelegateParams(delegate, nodes, None, None)
        data = own.init(ctypes.addressof(self._context), ctypes.addressof(params), 32)
        self._made.append((own, Node(user_data=data)))
        return OK

    def run(self) -> str:
        create = self._library.tflite_plugin_create_delegate
        create.restype = POINTER(Delegate)
        destroy = self._library.tflite_plugin_destroy_delegate
        delegate = create(None, None, c_size_t(0), None)
        context = ctypes.addressof(self._context)
        try:
            if delegate.contents.Prepare(context, delegate) != OK:
                return "refused"
            for step in ("prepare", "invoke"):
                for registration, node in self._made:
                    if getattr(registration, step)(context, byref(node)) != OK:
                        return "refused"
            return "ran"
        finally:
            for registration, node in self._made:
                registration.free(context, node.user_data)
            destroy(delegate)
