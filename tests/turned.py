import struct


def turn(path, quarters):
    """Has an mp4 shown turned clockwise: writes the matrix of its track."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    one = 1 << 16
    a, b, c, d = {1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[
        quarters
    ]
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
