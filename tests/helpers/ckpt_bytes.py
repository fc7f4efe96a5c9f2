"""MindSpore's .ckpt by hand: bytes as protobuf writes them, so that tests can write what no library would."""


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def block(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def ckpt_entry(name: str, content: bytes, shape: tuple[int, ...], type_name: str = "Float32") -> bytes:
    """One value of a checkpoint."""
    tensor = b"".join(varint(1 << 3) + varint(extent) for extent in shape)
    tensor += block(2, type_name.encode()) + block(3, content)
    return block(1, block(1, name.encode()) + block(2, tensor))
