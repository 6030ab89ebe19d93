"""RFC 6455 case by case, in the order of the Autobahn test suite, for a server that speaks JSON.

Where that suite expects an echo, a ping in JSON is sent, of the wanted size and in the wanted
pieces, and its answer expected.
"""

import random
import struct
from collections.abc import Iterator
from itertools import product

from tests.fuzz.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Case,
    close,
    frame,
    pieces,
    question,
)

MIB = 1024 * 1024
SIZES = (125, 126, 127, 128, 65535, 65536, 65537)
NO_TEXT = (
    *(b"\x80", b"\xbf", b"\x80\xbf" * 3, b"\xc0", b"\xc1\xbf", b"\xc0\xaf", b"\xe0\x80\xaf"),
    *(b"\xe0\x9f\xbf", b"\xf0\x80\x80\xaf", b"\xf0\x8f\xbf\xbf", b"\xf8\x80\x80\x80\xaf"),
    *(b"\xfc\x80\x80\x80\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"),
    *(b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf7\xbf\xbf\xbf", b"\xfe", b"\xff"),
    *(b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xbf\xbf", b"\xfe\xfe\xff\xff"),
    *(
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xed\xaf\xbf\xed\xbf\xbf",
        b"\xe2\x28\xa1",
        b"\xf0\x28\x8c\xbc",
    ),
    *(
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xc3(",
        b"\xf0\x90(\xbc",
    ),
)
"""What is in no case UTF-8, whatever follows it."""
CUT = (
    b"\xc3",
    b"\xe2\x82",
    b"\xe2",
    b"\xf0\x9f\x98",
    b"\xf0\x9f",
    b"\xf0",
    b"\xef\xbf",
    b"\xf4\x8f",
)
"""What is no UTF-8 unless more follows."""
GOOD_TEXT = (
    *("é", "κόσμε", "Hello-µ@ßöäüàá-UTF-8!!", "€", "😀", "\x7f", "\u0080", "\u07ff", "\u0800"),
    *("\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff", "\U00010000", "\U0001fffe", "\U0010ffff"),
    *("\u2028\u2029", "\ufeff", "a\u0301", "\U0003ffff", "\U000e0001", "汉字" * 30),
)
GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
ALIVE = frame(TEXT, question())


def framing() -> Iterator[Case]:
    """1: messages of every length, told in every way."""
    yield Case("1.1 no text", [frame(TEXT)], errors=1)
    yield Case("1.2 no bytes", [frame(BINARY)], errors=1)
    for size in (*SIZES, 30, 1000, 65535 - 1, 2**17, MIB):
        yield Case(f"1.1 text of {size}", [frame(TEXT, question("a", size))], ["a"])
        yield Case(f"1.2 bytes of {size}", [frame(BINARY, b"\xfe" * size)], errors=1)
    for size, told in ((40, 2), (40, 8), (125, 2), (126, 8), (65535, 8)):
        data = frame(TEXT, question("a", size), length_bytes=told)
        yield Case(f"1.3 {size} told in {told} bytes", [data], code=1002)
    yield Case("1.3 a length of 2^63", [b"\x81\xff" + b"\x80" + bytes(11)], code=1002)
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x80\x00\xff"):
        sent = [frame(TEXT, question("a", 200), mask=mask)]
        yield Case(f"1.4 masked with {mask.hex()}", sent, ["a"])
    for opcode in (TEXT, BINARY, CLOSE, PING, PONG):
        sent = [frame(opcode, question("a") if opcode == TEXT else b"\x03\xe8", mask=None)]
        yield Case(f"1.5 opcode {opcode} without a mask", sent, code=1002)
    yield Case("1.6 a message of more than is taken", [frame(TEXT, b" " * (MIB + 1))], code=1009)


def pings() -> Iterator[Case]:
    """2: pings and pongs."""
    for data in (b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        yield Case(f"2.1 a ping of {len(data)}", [frame(PING, data)], pongs=[data])
    for size in (126, 127, 65536):
        yield Case(f"2.5 a ping of {size}", [frame(PING, b"\xfe" * size)], code=1002)
        yield Case(f"2.5 a pong of {size}", [frame(PONG, b"\xfe" * size)], code=1002)
    for data in (b"", b"unsolicited", b"\xff" * 125):
        sent = [frame(PONG, data), frame(PING, b"after")]
        yield Case(f"2.7 a pong of {len(data)} that nobody asked for", sent, pongs=[b"after"])
    many = [b"payload-%d" % number for number in range(10)]
    yield Case("2.10 ten pings", [frame(PING, data) for data in many], pongs=many)
    sent = [frame(PING, b"1"), frame(TEXT, question("a")), frame(PING, b"2")]
    yield Case("2.11 pings around a message", sent, ["a"], pongs=[b"1", b"2"])


def reserved() -> Iterator[Case]:
    """3: reserved bits."""
    for bits, opcode in product(range(1, 8), (TEXT, BINARY, PING, PONG, CLOSE)):
        data = b"\x03\xe8" if opcode == CLOSE else b"small payload"
        bad = frame(opcode, data, reserved=bits)
        yield Case(f"3.{bits} in opcode {opcode}", [bad], code=1002)
        sent = [frame(TEXT, question("a")), bad, frame(PING)]
        yield Case(f"3.{bits} in opcode {opcode} after a message", sent, ["a"], code=1002)
    sent = [frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b", reserved=4)]
    yield Case("3.8 in a continuation", sent, code=1002)


def opcodes() -> Iterator[Case]:
    """4: reserved opcodes."""
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for data in (b"", b"reserved opcode payload"):
            bad = frame(opcode, data)
            yield Case(f"4 opcode {opcode} with {len(data)}", [bad], code=1002)
            sent = [frame(TEXT, question("a")), bad, frame(PING)]
            name = f"4 opcode {opcode} with {len(data)} after a message"
            yield Case(name, sent, ["a"], code=1002)
        sent = [frame(TEXT, b"x", fin=False), frame(opcode), frame(CONTINUATION, b"y")]
        yield Case(f"4 opcode {opcode} inside a message", sent, code=1002)


def fragmentation() -> Iterator[Case]:
    """5: messages in pieces, with control frames in between."""
    for opcode in (PING, PONG, CLOSE):
        sent = [frame(opcode, b"\x03", fin=False), frame(CONTINUATION, b"\xe8")]
        yield Case(f"5.1 opcode {opcode} in pieces", sent, code=1002)
    asked = question("a", 40)
    for size in (1, 2, 20, 39, 40):
        parts = pieces(TEXT, asked, size)
        yield Case(f"5.3 text in pieces of {size}", parts, ["a"])
        between = [part for one in parts for part in (one, frame(PING, b"p"))]
        pongs = [b"p"] * len(parts)
        yield Case(f"5.6 pings between pieces of {size}", between, ["a"], pongs=pongs)
        between = [part for one in parts for part in (one, frame(PONG, b"p"))]
        yield Case(f"5.7 pongs between pieces of {size}", between, ["a"])
        yield Case(f"5.8 bytes in pieces of {size}", pieces(BINARY, asked, size), errors=1)
    for fin in (True, False):
        stray = frame(CONTINUATION, b"stray", fin=fin)
        yield Case(f"5.9 nothing to continue, fin {fin}", [stray, ALIVE], code=1002)
        sent = [*pieces(TEXT, asked, 20), stray]
        yield Case(f"5.12 nothing to continue any more, fin {fin}", sent, ["a"], code=1002)
        for first, second in product((TEXT, BINARY), repeat=2):
            sent = [frame(first, b"one", fin=False), frame(second, b"two", fin=fin)]
            name = f"5.18 opcode {second}, fin {fin}, inside opcode {first}"
            yield Case(name, sent, code=1002)
    empty = [frame(TEXT, fin=False), frame(CONTINUATION, fin=False)]
    yield Case("5.20 empty pieces", [*empty, frame(CONTINUATION, asked)], ["a"])
    yield Case("5.20 nothing but empty pieces", [*empty, frame(CONTINUATION)], errors=1)
    twice = [*pieces(TEXT, asked, 7), *pieces(BINARY, b"x" * 9, 2), *pieces(TEXT, asked, 11)]
    yield Case("5.21 messages in pieces one after the other", twice, ["a", "a"], errors=1)


def texts() -> Iterator[Case]:
    """6: UTF-8, whole and in pieces, right and wrong."""
    for text in GOOD_TEXT:
        asked = question(text)
        name = text[:3].encode().hex()
        yield Case(f"6.2 {name}", [frame(TEXT, asked)], [text])
        for size in (1, 2, 3):
            yield Case(f"6.2 {name} in pieces of {size}", pieces(TEXT, asked, size), [text])
    for data in NO_TEXT:
        name = data.hex()
        yield Case(f"6.3 {name}", [frame(TEXT, data)], code=1007)
        yield Case(f"6.3 {name} inside", [frame(TEXT, b"ok " + data + b" ok")], code=1007)
        yield Case(f"6.3 {name} byte by byte", pieces(TEXT, data, 1), code=1007)
        yield Case(f"6.4 {name}, more to come", [frame(TEXT, data, fin=False)], code=1007)
        yield Case(f"6.4 {name}, cut", [frame(TEXT, data + b"!" * 90)[:-80]], code=1007)
    for data in CUT:
        name = data.hex()
        yield Case(f"6.6 {name} at the end", [frame(TEXT, data)], code=1007)
        yield Case(f"6.6 {name} at the end of pieces", pieces(TEXT, b"ok" + data, 1), code=1007)
        sent = [frame(TEXT, data, fin=False), frame(CONTINUATION)]
        yield Case(f"6.6 {name} and an empty end", sent, code=1007)
        sent = [frame(TEXT, data), ALIVE]
        yield Case(f"6.6 {name} before another message", sent, code=1007)
    yield Case("6.7 bytes need be no text", [frame(BINARY, NO_TEXT[0])], errors=1)


def closes() -> Iterator[Case]:
    """7: the end."""
    yield Case(
        "7.1.1 a message and a close", [frame(TEXT, question("a")), close()], ["a"], code=1000
    )
    yield Case("7.1.2 two closes", [close(), close(1001)], code=1000)
    yield Case("7.1.3 a ping after the close", [close(), frame(PING, b"x")], code=1000)
    yield Case("7.1.4 a message after the close", [close(), ALIVE], code=1000)
    yield Case("7.1.5 a close inside a message", [frame(TEXT, b"x", fin=False), close()], code=1000)
    sent = [frame(TEXT, question("a", 2**18)), close(), frame(PING)]
    yield Case("7.1.6 a long message and a close", sent, ["a"], code=1000)
    yield Case("7.3.1 a close without a code", [close(None)], code=1005)
    yield Case("7.3.2 half a code", [frame(CLOSE, b"\x03")], code=1002)
    for size in (0, 1, 22, 123):
        yield Case(f"7.3.4 a reason of {size}", [close(1000, b"r" * size)], code=1000)
    for size in (124, 125, 200):
        yield Case(f"7.3.6 a reason of {size}", [close(1000, b"r" * size)], code=1002)
    yield Case("7.4 a reason in UTF-8", [close(1000, "Auf Wiedersehen, é€😀".encode())], code=1000)
    for data in (*NO_TEXT, *CUT):
        yield Case(f"7.5.1 a reason of {data.hex()}", [close(1000, data)], code=1007)
    for code in GOOD_CODES:
        yield Case(f"7.7 code {code}", [close(code)], code=code)
        yield Case(f"7.7 code {code} with a reason", [close(code, b"because")], code=code)
    for code in BAD_CODES:
        yield Case(f"7.9 code {code}", [close(code)], code=1002)
        yield Case(f"7.9 code {code} with a reason", [close(code, b"because")], code=1002)
    sent = [frame(CLOSE, struct.pack("!H", 1000), fin=False)]
    yield Case("7.13 a close that is not all", sent, code=1002)


def sizes() -> Iterator[Case]:
    """9, 10: long messages, in frames of all sizes."""
    for total in (2**16, 2**18, MIB):
        for size in (2**10, 1300, 2**12, 2**16):
            sent = pieces(TEXT, question("a", total), size)
            yield Case(f"9.3 {total} in pieces of {size}", sent, ["a"])
        sent = pieces(BINARY, b"\xfe" * total, 2**14)
        yield Case(f"9.4 {total} bytes in pieces", sent, errors=1)
    yield Case("9.3 2^16 in pieces of 64", pieces(TEXT, question("a", 2**16), 64), ["a"])
    sent = pieces(TEXT, b" " * (MIB + 1), 2**14)
    yield Case("9.5 more than is taken, in pieces", sent, code=1009)
    asked = [frame(TEXT, question(number)) for number in range(1000)]
    yield Case("9.7 a thousand messages", asked, list(range(1000)))


def cases() -> list[Case]:
    """All of them."""
    groups = (framing, pings, reserved, opcodes, fragmentation, texts, closes, sizes)
    return [case for group in groups for case in group()]


def a_random_case(number: int, random_: random.Random) -> Case:
    """Messages of random sizes in random pieces, control frames strewn in, and a random end."""
    sent: list[bytes] = []
    answers: list[str | int] = []
    pongs: list[bytes] = []
    errors = 0
    for ref in range(random_.randint(1, 6)):
        if random_.random() < 0.3:
            errors += 1
            message = pieces(
                BINARY, random_.randbytes(random_.randint(0, 300)), random_.randint(1, 90)
            )
        else:
            answers.append(ref)
            data = question(ref, random_.choice((0, 125, 126, 500, 65535, 65536)))
            message = pieces(TEXT, data, random_.randint(max(1, len(data) // 50), len(data)))
        for part in message:
            if random_.random() < 0.2:
                pongs.append(random_.randbytes(random_.randint(0, 125)))
                sent.append(frame(PING, pongs[-1], mask=random_.randbytes(4)))
            if random_.random() < 0.1:
                sent.append(frame(PONG, random_.randbytes(random_.randint(0, 125))))
            sent.append(part)
    bad, code = random_.choice(
        [
            (None, None),
            (frame(TEXT, random_.choice(NO_TEXT)), 1007),
            (frame(random_.choice((3, 7, 11, 15))), 1002),
            (frame(TEXT, b"x", reserved=random_.randint(1, 7)), 1002),
            (close(random_.choice(BAD_CODES)), 1002),
            (close(4000), 4000),
        ]
    )
    sent += [bad] if bad else []
    return Case(f"random {number}", sent, answers, errors, pongs, code)
