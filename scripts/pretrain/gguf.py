"""GGUF files, as much of them as training needs: float tensors in and out, with their header."""

import os
import struct

import numpy as np

_MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_F32, _F16 = 0, 1
_ALIGNMENT = 32


def read_gguf(path):
    """Returns (header dict, {name: float32 array, outermost dimension first})."""
    with open(path, "rb") as file:

        def scalar(fmt):
            return struct.unpack("<" + fmt, file.read(struct.calcsize("<" + fmt)))[0]

        def string():
            return file.read(scalar("Q")).decode("utf-8")

        def value(kind):
            if kind == _STRING:
                return string()
            if kind == _ARRAY:
                element, count = scalar("I"), scalar("Q")
                return [value(element) for _ in range(count)]
            return scalar(_SCALARS[kind])

        if file.read(4) != _MAGIC:
            raise ValueError(f"{path} is no GGUF file")
        scalar("I")
        tensor_count, pair_count = scalar("Q"), scalar("Q")
        header = {}
        for _ in range(pair_count):
            key = string()
            header[key] = value(scalar("I"))
        infos = []
        for _ in range(tensor_count):
            name = string()
            dims = [scalar("Q") for _ in range(scalar("I"))]
            infos.append((name, dims, scalar("I"), scalar("Q")))
        start = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
        tensors = {}
        for name, dims, kind, offset in infos:
            if kind not in (_F32, _F16):
                raise ValueError(f"{path}: {name} is quantized; training starts from F32 or F16")
            file.seek(start + offset)
            dtype = np.dtype("<f4" if kind == _F32 else "<f2")
            raw = file.read(int(np.prod(dims)) * dtype.itemsize)
            tensors[name] = np.frombuffer(raw, dtype).reshape(dims[::-1]).astype(np.float32)
        return header, tensors


def write_gguf(path, header, tensors):
    """
    Writes float32 tensors; the file appears under its name when it is whole.
    header: values are str, bool, int (as u32), float (as f32), or a list of str or of int (as i32).
    """
    out = bytearray(_MAGIC + struct.pack("<IQQ", 3, len(tensors), len(header)))

    def string(text):
        data = text.encode("utf-8")
        out.extend(struct.pack("<Q", len(data)) + data)

    for key, item in header.items():
        string(key)
        if isinstance(item, str):
            out.extend(struct.pack("<I", _STRING))
            string(item)
        elif isinstance(item, bool):
            out.extend(struct.pack("<I?", 7, item))
        elif isinstance(item, int):
            out.extend(struct.pack("<II", 4, item))
        elif isinstance(item, float):
            out.extend(struct.pack("<If", 6, item))
        elif isinstance(item[0], str):
            out.extend(struct.pack("<IIQ", _ARRAY, _STRING, len(item)))
            for text in item:
                string(text)
        else:
            out.extend(struct.pack("<IIQ", _ARRAY, 5, len(item)))
            out.extend(np.asarray(item, "<i4").tobytes())
    offset = 0
    for name, tensor in tensors.items():
        string(name)
        out.extend(struct.pack("<I", tensor.ndim))
        out.extend(struct.pack(f"<{tensor.ndim}Q", *tensor.shape[::-1]))
        out.extend(struct.pack("<IQ", _F32, offset))
        offset += -(-tensor.size * 4 // _ALIGNMENT) * _ALIGNMENT
    temporary = f"{path}.part"
    with open(temporary, "wb") as file:
        file.write(out)
        for tensor in tensors.values():
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
