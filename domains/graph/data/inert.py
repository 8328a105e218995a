"""Old pickled arrays read without executing anything: a stack machine that only builds inert records.

A pickle is a small program. Here its instructions fill lists, dicts and :class:`Record` values that remember which
name was asked for and with what; no name is ever looked up, imported or called. What a known record means (an array, a
sparse matrix) is then worked out by us.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from shared_backbones.errors import BadInput

_ARRAYS = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_SPARSE = {f"scipy.sparse.{m} csr_matrix" for m in ("csr", "_csr")}
_KNOWN = _ARRAYS | _SPARSE | {"numpy ndarray", "numpy dtype", "collections defaultdict", "__builtin__ list"}
_KNOWN |= {"builtins list", "_codecs encode"}
_MARK = object()
_PUSH = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT", "BINUNICODE", "UNICODE"}
_PUSH |= {"SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
_TEXT = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2: bytes
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}


@dataclass(eq=False)
class Record:
    """A name that a pickle asked for, with what it would have been called with; nothing happens."""

    name: str
    args: Any = None
    state: Any = None


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        at = max(i for i, v in enumerate(self.stack) if v is _MARK)
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def step(self, op: str, arg: Any) -> None:
        """One instruction; raises LookupError for one that the old arrays never need."""
        stack = self.stack
        if op in _PUSH:
            stack.append(arg)
        elif op in _TEXT:
            stack.append(arg.encode("latin1") if isinstance(arg, str) else arg)
        elif op in _CONSTANT:
            stack.append(_CONSTANT[op])
        elif op in _EMPTY:
            stack.append(_EMPTY[op]())
        elif op == "MARK":
            stack.append(_MARK)
        elif op == "GLOBAL":
            if arg not in _KNOWN:
                raise LookupError(f"it asks for {arg.replace(' ', '.')!r}")
            stack.append(Record(arg))
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(op[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif op == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif op in ("REDUCE", "NEWOBJ"):
            args = stack.pop()
            stack[-1] = self.applied(stack[-1], args)
        elif op == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif op in ("APPEND", "APPENDS"):
            values = [stack.pop()] if op == "APPEND" else self.since_mark()
            stack[-1].extend(values)
        elif op in ("SETITEM", "SETITEMS"):
            values = self.since_mark() if op == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif op in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(arg)] = stack[-1]
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(arg)])
        elif op not in ("PROTO", "STOP", "FRAME"):
            raise LookupError(f"it holds the instruction {op}")

    @staticmethod
    def applied(what: Any, args: Any) -> Any:
        if not isinstance(what, Record):
            raise LookupError("it calls something that is no name")
        return {} if what.name == "collections defaultdict" else Record(what.name, args)


def inert(raw: bytes, where: str) -> Any:
    """The content of a pickle of plain values and NumPy or SciPy arrays, nothing executed.

    Raises BadInput where it asks for any other name, or is damaged.
    """
    machine = _Machine()
    try:
        for op, arg, _ in pickletools.genops(raw):
            machine.step(op.name, arg)
        (found,) = machine.stack
        return plain(found)
    except LookupError as error:
        raise BadInput(
            f"{where}: not a pickle of plain arrays: {error}. Such files can run programs, so nothing else is read; "
            "save the data as npz, csv or parquet"
        ) from None
    except (ValueError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise BadInput(f"{where}: damaged file ({error}); copy it again") from None


def plain(value: Any) -> Any:
    """Records as the arrays that they describe."""
    if not isinstance(value, Record):
        return value
    if value.name in _ARRAYS:
        _, shape, dtype, fortran, content = value.state
        if dtype.args[0] in (b"O", "O", b"O8"):
            raise LookupError("it holds an array of objects")
        kind = dtype.args[0].decode() if isinstance(dtype.args[0], bytes) else dtype.args[0]
        order = dtype.state[1] if dtype.state else b"|"
        byte_order: Any = order.decode() if isinstance(order, bytes) else order
        if isinstance(content, Record):  # Python 3 writes bytes of protocol 2 as text to encode again
            content = content.args[0].encode("latin1")
        array = np.frombuffer(content, np.dtype(kind).newbyteorder(byte_order))
        return array.reshape(shape, order="F" if fortran else "C").astype(array.dtype.newbyteorder("="))
    if value.name in _SPARSE:
        state = value.state
        part = {(k.decode() if isinstance(k, bytes) else k): plain(v) for k, v in state.items()}
        matrix = sp.csr_matrix((part["data"], part["indices"], part["indptr"]), shape=part["_shape"])
        return matrix
    raise LookupError(f"it holds a {value.name.replace(' ', '.')!r} by itself")
